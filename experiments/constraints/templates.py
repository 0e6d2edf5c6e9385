"""Sentences of templates: fields, data, networks; see `game.Problem`."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from experiments.common import fields
from experiments.common.text import sentences
from experiments.common.tokenizers import check_kind, kept_tokenizer, token_shape
from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.constraints.infill import PointerMatch
from jaxgen.data.tokens import TokenIds, TokenShape
from jaxgen.errors import ConfigError
from jaxgen.losses.cross_entropy import sum_cross_entropy
from jaxgen.models import t5
from jaxgen.nn.textcnn import TextCNN
from jaxgen.text import blanks, decoding, tokenizers
from jaxgen.text.gumbel_softmax import soft_eos_mask, unroll
from jaxgen.text.masking import eos_mask, shift_right
from jaxgen.train.latent_tasks import Batch

NAMES = {
    "data": "source path train limit min_words max_words most_blanks min_kept test seed skew tokenizer "
    "vocab_size max_tokens",
    "model": "width depth heads dropout branch temperature",
    "constraint": "width depth heads delta steps learning_rate alpha target_ess weight samples rate anchor",
    "judge": "width depth heads dropout steps learning_rate",
}
SOURCES = ("grammar", "english", "files")
RULES: dict[str, config_lib.Rule] = {
    "data.source": config_lib.one_of(*SOURCES),
    "data.tokenizer": config_lib.one_of("word"),
    "data.min_words": config_lib.integer(1, 2**16),
    "data.most_blanks": config_lib.integer(1, 2**16),
    "data.min_kept": config_lib.integer(0, 2**16),
    "data.test": config_lib.integer(10, 10**7),
    "data.skew": config_lib.number(0.0, 10.0),
    "model.branch": config_lib.one_of("explicit", "implicit"),
    "constraint.delta": config_lib.number(1e-6, 0.5),
}
LIMIT = 5.0  # a critic's log-odds are between -LIMIT and LIMIT


def check(config: Config) -> None:
    """What fields of this task have to be together."""
    d, c = config.data, config.constraint
    check_kind(config)
    if d.source == "grammar" and not 0 < d.limit <= 10**7:
        raise ConfigError("data.limit", d.limit, "1 to 10000000 sentences of the grammar")
    if d.source == "files" and not d.train:
        raise ConfigError("data.train", d.train, "at least one file name, for source files")
    if d.max_words >= d.max_tokens:
        raise ConfigError("data.max_words", d.max_words, f"below data.max_tokens, {d.max_tokens}")
    if d.min_words > d.max_words:
        raise ConfigError("data.min_words", d.min_words, f"at most data.max_words, {d.max_words}")
    for part in ("model", "constraint", "judge"):
        fields.check_divides(config, f"{part}.heads", f"{part}.width")
    if config.model.branch == "explicit" and c.samples < 2:
        allowed = "at least 2: of one sample of each condition, all weights are 1"
        raise ConfigError("constraint.samples", c.samples, allowed)
    if config.model.branch == "implicit" and "dpg" in config.systems:
        raise ConfigError("systems", tuple(config.systems), "no dpg without a density")
    fields.check_run(config)


@dataclasses.dataclass(frozen=True)
class Part:
    """Sentences with their templates and what the blanks hold."""

    text: list[str]
    template: list[str]
    content: list[str]

    def take(self, index: Sequence[int]) -> "Part":
        """These rows."""
        columns = (
            [column[i] for i in index] for column in (self.text, self.template, self.content)
        )
        return Part(*columns)


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """Three parts that share no template.

    Attributes:
      mine: what systems and the constraint are trained on; `judged`: what the judge alone reads.
      test: templates to fill.
      ids: of each part, "target", "template" and "content" [N, T].
    """

    shape: TokenShape
    tokenizer: Any
    mine: Part
    judged: Part
    test: Part
    ids: dict[str, dict[str, TokenIds]]

    def arrays(self) -> dict[str, np.ndarray]:
        """What batches are made of."""
        return dict(self.ids["mine"])

    def encode(self, lines: Sequence[str]) -> TokenIds:
        """Tokens of text."""
        return tokenizers.encode(self.tokenizer, lines, self.shape.length)[0]

    def decode(self, ids: Int[np.ndarray, "N T"]) -> list[str]:
        """Text of tokens."""
        return tokenizers.decode(self.tokenizer, ids)


def load(config: Config, workdir: pathlib.Path) -> Data:
    """Reads sentences, makes templates, and splits by them.

    Raises:
      ConfigError: no sentence whose template is as the fields say, or too few of them to test.
    """
    d = config.data
    whole = templates(sentences(config), config)
    place = [_share(t) for t in whole.template]
    test = [i for i, u in enumerate(place) if u < 0.2][: d.test]
    if len(test) < d.test:
        raise ConfigError("data.test", d.test, f"at most {len(test)} here, of these sentences")
    mine = whole.take([i for i, u in enumerate(place) if 0.2 <= u < 0.6])
    judged = whole.take([i for i, u in enumerate(place) if u >= 0.6])
    for name, part in (("mine", mine), ("judged", judged)):
        if not part.text:
            raise ConfigError("data.limit", d.limit, f"more sentences: none is left for {name}")
    parts = {"mine": mine, "judged": judged, "test": whole.take(test)}
    known = [line for part in (mine, judged) for line in part.text + part.template]
    tokenizer = kept_tokenizer(config, workdir, known)
    shape = token_shape(tokenizer, d.max_tokens)
    ids = {
        name: {
            key: tokenizers.encode(tokenizer, lines, shape.length)[0]
            for key, lines in (
                ("target", part.text),
                ("template", part.template),
                ("content", part.content),
            )
        }
        for name, part in parts.items()
    }
    return Data(shape, tokenizer, **parts, ids=ids)


def templates(lines: Sequence[str], config: Config) -> Part:
    """Of distinct sentences whose templates have as many blanks and kept words as the fields say.

    Raises:
      ConfigError: there is none.
    """
    d, rows = config.data, []
    for line in dict.fromkeys(lines):
        if not d.min_words <= len(line.split()) <= d.max_words:
            continue
        if blanks.BLANK in line.split():
            continue
        template, fills = blanks.make(line)
        kept = len(template.split()) - len(fills)
        if 1 <= len(fills) <= d.most_blanks and kept >= d.min_kept:
            rows.append((line, template, " ".join(fills)))
    if not rows:
        allowed = f"sentences with 1 to {d.most_blanks} blanks and {d.min_kept} kept words"
        raise ConfigError("data.source", d.source, allowed)
    return Part(*(list(column) for column in zip(*rows, strict=True)))


def _share(template: str) -> float:
    """A number in [0, 1) that is the template's own on every machine."""
    digest = hashlib.sha256(template.encode()).digest()[:8]
    return int.from_bytes(digest, "big") / 2.0**64


class Critic(nnx.Module):
    """A free network on template and sentence: log-odds that the sentence is real, within +-`LIMIT`."""

    def __init__(self, vocab: int, *, width: int, rngs: nnx.Rngs):
        self.net = TextCNN(vocab, 1, width=width, rngs=rngs)

    def __call__(
        self,
        x: Int[Array, "B T"] | Float[Array, "B T V"],
        template: Int[Array, "B M"],
        mask: Bool[Array, "B T"],
        template_mask: Bool[Array, "B M"],
    ) -> Float[Array, " B"]:
        first = template if x.ndim == 2 else jax.nn.one_hot(template, x.shape[-1], dtype=x.dtype)
        both = jnp.concatenate([first, x], 1)
        logit = self.net(both, jnp.concatenate([template_mask, mask], 1))[:, 0]
        return LIMIT * jnp.tanh(logit / LIMIT)


@dataclasses.dataclass(frozen=True)
class TemplateProblem:
    """See `game.Problem`. Samples are tokens [C, K, T]; of the implicit branch draws [C, K, T, V]."""

    config: Config
    shape: TokenShape

    @property
    def explicit(self) -> bool:
        """Whether samples are weighed, or differentiated through (straight-through draws)."""
        return self.config.model.branch == "explicit"

    def build_model(self, key: Key[Array, ""]) -> t5.T5:
        """An encoder-decoder that reads a template and writes the whole sentence."""
        m = self.config.model
        sizes = {"width": m.width, "depth": m.depth, "heads": m.heads, "dropout": m.dropout}
        return t5.T5(t5.fresh_config(self.shape.size, **sizes), rngs=nnx.Rngs(key))

    def build_constraint(self, key: Key[Array, ""]) -> PointerMatch:
        """A pointer from the blanks' words to the sentence."""
        c = self.config.constraint
        sizes = {"width": c.width, "depth": c.depth, "heads": c.heads, "delta": c.delta}
        length = self.shape.length
        return PointerMatch(self.shape.size, length=length, rngs=nnx.Rngs(key), **sizes)

    def build_critic(self, key: Key[Array, ""]) -> Critic:
        """About as large as the pointer."""
        width = self.config.constraint.width
        return Critic(self.shape.size, width=width, rngs=nnx.Rngs(key))

    def start(self, model: Any, template: Int[Array, "B M"]) -> decoding.Start:
        """Where a sentence begins."""
        s = self.shape
        mask = eos_mask(template, s.end)
        return model.start(template, max_tokens=s.length, mask=mask, start=s.begin)

    def draw(self, model: Any, batch: Batch, key: Key[Array, ""], count: int) -> Array:
        """`count` sentences of each template."""
        s, template = self.shape, jnp.repeat(batch["template"], count, 0)
        begin = self.start(model, template)
        if self.explicit:
            x = decoding.sample(begin, key, max_tokens=s.length, eos=s.end, pad=s.source_pad).tokens
        else:
            temperature = self.config.model.temperature
            x, _ = unroll(begin, key, length=s.length, temperature=temperature, hard=True)
        return x.reshape(-1, count, *x.shape[1:])

    def own_loss(
        self, model: Any, batch: Batch, key: Key[Array, ""], samples: Array | None
    ) -> Float[Array, ""]:
        """-log p of a real sentence, in nats."""
        use = key if self.config.model.dropout else None
        return -self._log_prob(model, batch["target"], batch["template"], use).mean()

    def log_prob(self, model: Any, samples: Array, batch: Batch) -> Float[Array, "C K"]:
        """In nats, of whole sentences."""
        template = jnp.repeat(batch["template"], samples.shape[1], 0)
        flat = samples.reshape(-1, *samples.shape[2:])
        return self._log_prob(model, flat, template).reshape(samples.shape[:2])

    def _log_prob(
        self,
        model: Any,
        x: Int[Array, "B T"],
        template: Int[Array, "B M"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, " B"]:
        s, mask = self.shape, eos_mask(template, self.shape.end)
        logits = model(template, shift_right(x, s.begin), source_mask=mask, key=key)
        return -sum_cross_entropy(logits, x, eos_mask(x, s.end))[0]

    def _reward(
        self, f: Any, x: Array, template: Int[Array, "B M"], content: Int[Array, "B A"]
    ) -> Float[Array, " B"]:
        end = self.shape.end
        mask = eos_mask(x, end) if x.ndim == 2 else soft_eos_mask(x, end)
        template_mask = eos_mask(template, end)
        if isinstance(f, Critic):
            return f(x, template, mask, template_mask)
        there = eos_mask(content, end) & (content != end)
        return f(x, template, content, mask=mask, template_mask=template_mask, content_mask=there)

    def reward(self, f: Any, samples: Array, batch: Batch) -> Float[Array, "C K"]:
        """See `game.Problem`."""
        count = samples.shape[1]
        flat = samples.reshape(-1, *samples.shape[2:])
        given = (jnp.repeat(batch[name], count, 0) for name in ("template", "content"))
        return self._reward(f, flat, *given).reshape(samples.shape[:2])

    def reward_data(self, f: Any, batch: Batch) -> Float[Array, " C"]:
        """See `game.Problem`."""
        return self._reward(f, batch["target"], batch["template"], batch["content"])

    def knowledge_loss(self, f: Any, batch: Batch) -> Float[Array, ""]:
        """-f of real sentences."""
        return -self.reward_data(f, batch).mean()

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of a batch, from the config alone."""
        shape = self.config.train.batch_size, self.config.data.max_tokens
        rows = jax.ShapeDtypeStruct(shape, jnp.int32)
        return dict.fromkeys(("target", "template", "content"), rows)
