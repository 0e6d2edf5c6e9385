"""Translation models, their losses and their data, for `experiments.eisl`."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from experiments import systems
from experiments.kept_tokenizers import check_kind, kept_tokenizer
from jaxgen.config import Config
from jaxgen.data import kept
from jaxgen.data import translation as translation_data
from jaxgen.errors import ConfigError
from jaxgen.losses import eisl, fused_linear
from jaxgen.losses.policy_gradient import policy_gradient_loss
from jaxgen.metrics import text as text_metrics
from jaxgen.models import t5
from jaxgen.nn import nat
from jaxgen.text import decoding, masking, noise, tokenizers

LOSSES = ("ce", "smoothing", "pg", "eisl")
# A decoder that writes all tokens at once has no distribution to draw prefixes from.
NON_AUTOREGRESSIVE_LOSSES = ("ce", "smoothing", "eisl")


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Pairs and the joint tokenizer.

    Attributes:
      vocab: the tokenizer's size.
      begin: id, as end and pad.
      length: of a sentence in tokens, the end token included, at most.
      train_length: the same of training pairs; those with a longer side are left out.
      read: how much of the sentences the tokens are.
      left_out: rows that were lost on the way, by reason.
    """

    parts: dict[str, translation_data.Pairs]
    tokenizer: Any
    vocab: int
    begin: int
    end: int
    pad: int
    length: int
    train_length: int
    read: Mapping[str, kept.Kept] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def about_cuts(self) -> str:
        """How much was cut and left out, for a report."""
        return kept.line(self.read, self.left_out, of="pairs")

    def ids(self, texts: list[str]) -> Int[np.ndarray, "N T"]:
        """Tokens of sentences, cut at the corpus' length."""
        return tokenizers.encode(self.tokenizer, texts, self.length)[0]

    def trained_on(self) -> Int[np.ndarray, " N"]:
        """Training pairs of which neither side is longer than `train_length`.

        Raises:
          ConfigError: there is none.
        """
        train, longest = self.parts["train"], self.train_length
        rows = np.flatnonzero(fitting(self.tokenizer, train, longest))
        if not len(rows):
            raise ConfigError("data.train_tokens", longest, "a length that some train pair has")
        return rows

    def arrays(self, kind: str, level: float, seed: int) -> dict[str, np.ndarray]:
        """Training pairs; the targets are disturbed as asked, the sources are clean.

        Noise may lengthen a target, which is then cut.
        """
        train, longest, rows = self.parts["train"], self.train_length, self.trained_on()
        clean = [train.target[i] for i in rows]
        target = noise.corrupt(clean, kind, level, seed=seed, blank=tokenizers.UNKNOWN_WORD)
        sides = {"source": [train.source[i] for i in rows], "target": target}
        return {k: tokenizers.encode(self.tokenizer, v, longest)[0] for k, v in sides.items()}


def load(config: Config, workdir: pathlib.Path) -> Corpus:
    """Reads the pairs; the joint BPE is trained on clean training text and kept in the workdir."""
    check_kind(config)
    d = config.data
    with kept.tally() as left_out:
        parts = translation_data.load(
            d.source,
            path=d.path,
            train=d.train,
            valid=d.valid,
            test=d.test,
            limit=d.limit,
            seed=d.seed,
        )
    for split in ("train", "test"):
        if not len(parts[split]):
            raise ConfigError("data", 0, f"at least one pair in the {split} split")
    train = parts["train"]
    tokenizer = kept_tokenizer(config, workdir, train.source + train.target)
    longest = d.train_tokens or d.max_tokens
    fits = fitting(tokenizer, train, longest)
    left_out[f"train pairs of more than {longest} tokens"] += int((~fits).sum())
    read = {"train": kept.Kept(int(fits.sum()))}
    for name in ("valid", "test"):  # their targets are compared as text, and whole
        ids = tokenizers.tokens(tokenizer, parts[name].source)
        read[name] = kept.of_lengths([list(map(len, ids))], [tokenizers.room(d.max_tokens)])
    special = tokenizers.special_ids(tokenizer)
    size = len(tokenizer)
    corpus = Corpus(parts, tokenizer, size, *special, d.max_tokens, longest, read, left_out)
    corpus.trained_on()
    check_vocabulary(config, size)
    return corpus


def check_vocabulary(config: Config, size: int) -> None:
    """The fused loss splits the vocabulary evenly over the mesh axis `model`.

    Raises:
      ConfigError: where it cannot.
    """
    parts = config.mesh.model
    if config.eisl.fused_bytes and parts > 1 and size % parts:
        raise ConfigError("mesh.model", parts, f"a divisor of {size} tokens, with eisl.fused_bytes")


def fitting(tokenizer: Any, pairs: translation_data.Pairs, longest: int) -> Bool[np.ndarray, " N"]:
    """Whether both sides of a pair have at most so many tokens, the end token included."""
    fits = np.ones(len(pairs), bool)
    for side in (pairs.source, pairs.target):
        fits &= tokenizers.encode(tokenizer, side, longest + 1)[1] <= longest
    return fits


def build(config: Config, vocab: int, rngs: nnx.Rngs) -> t5.T5 | nat.NonAutoregressiveT5:
    """An encoder-decoder transformer; with `model.non_autoregressive`, one that writes all tokens at once."""
    m = config.model
    options = {"dropout": m.dropout, "dtype": m.dtype, "remat": m.remat, "scan": m.scan}
    spec = t5.fresh_config(vocab, width=m.width, depth=m.depth, heads=m.heads, **options)
    if m.non_autoregressive:
        return nat.NonAutoregressiveT5(spec, max_length=config.data.max_tokens, rngs=rngs)
    return t5.T5(spec, rngs=rngs)


def translate(
    model: t5.T5 | nat.NonAutoregressiveT5, corpus: Corpus, source: Array, length: int | None = None
) -> Int[Array, "B T"]:
    """Greedy translations; of a parallel decoder, with repeated tokens dropped.

    Args:
      length: tokens that an autoregressive decoder may write; the corpus' by default.
    """
    if isinstance(model, nat.NonAutoregressiveT5):
        tokens = model.generate(source, source_mask=source != corpus.pad, pad=corpus.pad)
        return nat.drop_repeats(tokens, corpus.pad)
    start = _start(model, corpus, source)
    most = corpus.length if length is None else length
    return decoding.greedy(start, max_tokens=most, eos=corpus.end, pad=corpus.pad).tokens


def _start(model: t5.T5, corpus: Corpus, source: Array) -> decoding.Start:
    return model.start(
        source,
        max_tokens=corpus.length,
        mask=source != corpus.pad,
        start=corpus.begin,
    )


def teacher_forced_states(
    model: t5.T5, corpus: Corpus, source: Array, target: Array, key: Key[Array, ""] | None
) -> Float[Array, "B T D"]:
    """What the output layer reads at each target token, given those before it."""
    key_enc, key_dec = jax.random.split(key) if key is not None else (None, None)
    mask = source != corpus.pad
    memory = model.encode(source, mask=mask, key=key_enc)
    shifted = masking.shift_right(target, corpus.begin)
    return model.states(shifted, memory, memory_mask=mask, key=key_dec)[0]


def teacher_forced_logits(
    model: t5.T5 | nat.NonAutoregressiveT5,
    corpus: Corpus,
    source: Array,
    target: Array,
    key: Key[Array, ""] | None,
) -> tuple[Float[Array, "B T V"], Float[Array, " B"]]:
    """Logits of each target token, and what each row's length costs (0 where none is predicted).

    A parallel decoder is told the true length; its own guess is trained by cross-entropy.
    """
    mask = source != corpus.pad
    if isinstance(model, nat.NonAutoregressiveT5):
        count = masking.eos_mask(target, corpus.end).sum(1)
        logits, lengths = model(source, count, source_mask=mask, positions=target.shape[1], key=key)
        return logits, optax.softmax_cross_entropy_with_integer_labels(lengths, count - 1)
    shifted = masking.shift_right(target, corpus.begin)
    return model(source, shifted, source_mask=mask, key=key), jnp.zeros(source.shape[:1])


def make_loss(
    config: Config, corpus: Corpus, name: str, mesh: Mesh | None = None
) -> Callable[..., Float[Array, ""]]:
    """The loss of that name: (model, source, target, key) -> mean over rows.

    Args:
      mesh: needed by the fused loss (`eisl.fused_bytes`) where its `model` axis splits the vocabulary.
    """
    e = config.eisl
    matching = {"ngram_factor": e.ngram_factor, "ce_factor": e.ce_factor, "ngrams": e.ngrams}

    def real(target: Array) -> Bool[Array, "B T"]:
        return masking.eos_mask(target, corpus.end)

    def forced(model: Any, source: Array, target: Array, key: Any, **factors: Any) -> Array:
        logits, extra = teacher_forced_logits(model, corpus, source, target, key)
        each = eisl.mixed_loss(logits, target, mask=real(target), **factors)
        return (each + config.model.length_weight * extra).mean()

    def free_running_eisl(model: t5.T5, source: Array, target: Array, key: Any) -> Array:
        """EISL of what the model says when it reads its own output.

        A decoder that reads the target knows, at every position, the tokens before it; it would only have
        to repeat the last of them, since EISL lets a token be matched one place later.
        """
        key_free, key_forced = jax.random.split(key)
        drawn = translate(jax.lax.stop_gradient(model), corpus, source, target.shape[1])
        masks: dict[str, Any] = {"logits_mask": real(drawn), "targets_mask": real(target)}
        if e.fused_bytes:
            h = teacher_forced_states(model, corpus, source, drawn, key_free)

            def each(c: Array, masks: Any) -> Array:
                return eisl.eisl_from_pairs(c, ngrams=e.ngrams, **masks)

            arguments = (h, model.output_embedding(), target, each, masks)
            if mesh is None or mesh.size == 1:
                matched = fused_linear.fused_loss(*arguments, budget=e.fused_bytes)
            else:
                matched = fused_linear.sharded_fused_loss(mesh, *arguments, budget=e.fused_bytes)
        else:
            logits, _ = teacher_forced_logits(model, corpus, source, drawn, key_free)
            matched = eisl.eisl_loss(logits, target, ngrams=e.ngrams, **masks).mean()
        total = e.ngram_factor * matched
        if e.ce_factor:
            ce = forced(model, source, target, key_forced, ngram_factor=0.0)
            total = total + e.ce_factor * ce
        return total

    def policy(model: t5.T5, source: Array, target: Array, key: Any) -> Array:
        key_draw, key_drop = jax.random.split(key)
        fixed = jax.lax.stop_gradient(model)
        start = _start(fixed, corpus, source)
        drawn = decoding.sample(
            start, key_draw, max_tokens=target.shape[1], eos=corpus.end, pad=corpus.pad
        ).tokens
        reward = ngrams.sentence_bleu(drawn, target, real(drawn), real(target))
        logits, _ = teacher_forced_logits(model, corpus, source, drawn, key_drop)
        return policy_gradient_loss(logits, drawn, reward, mask=real(drawn)).mean()

    rules: dict[str, Callable[..., Float[Array, ""]]] = {
        "ce": functools.partial(forced, ngram_factor=0.0),
        "smoothing": functools.partial(forced, ngram_factor=0.0, label_smoothing=config.smoothing),
        "eisl": functools.partial(forced, **matching)
        if config.model.non_autoregressive
        else free_running_eisl,
        "pg": policy,
    }
    return rules[name]


def system(
    config: Config,
    corpus: Corpus,
    name: str,
    run: str,
    start: Any = None,
    *,
    mesh: Mesh | None = None,
) -> systems.System:
    """One training run under the loss of that name.

    Args:
      run: names the run.
      start: a trained model to begin from; a fresh one by default.
      mesh: see `make_loss`.
    """
    mean_loss = rule(config, corpus, name, mesh)

    def loss(model, extra, batch, key, step):
        return mean_loss(model, batch["source"], batch["target"], key), ({}, extra)

    return systems.System(
        run,
        lambda key: build(config, corpus.vocab, nnx.Rngs(key)),
        loss,
        # A copy, since the step takes over the buffers that it starts from.
        pretrained=None if start is None else lambda _: jax.tree.map(jnp.array, start),
    )


def abstract(config: Config) -> tuple[Corpus, dict[str, Any]]:
    """A corpus and the shapes of a batch from the config alone, for `--mode=compile`."""
    d = config.data
    check_vocabulary(config, d.vocab_size)
    ids = jax.ShapeDtypeStruct((config.train.batch_size, d.max_tokens), jnp.int32)
    corpus = Corpus({}, None, d.vocab_size, 1, 2, 0, d.max_tokens, d.max_tokens)
    return corpus, {"source": ids, "target": ids}


def bleu(model: t5.T5, corpus: Corpus, split: str) -> tuple[float, list[str]]:
    """sacrebleu of greedy translations of clean text, and the translations."""
    run = _translator(corpus)
    part = corpus.parts[split]
    tokens = systems.in_batches(lambda s: run(model, s), corpus.ids(part.source), batch=100)
    texts = tokenizers.decode(corpus.tokenizer, tokens)
    return text_metrics.bleu(texts, part.target, tokenize="13a"), texts


@functools.lru_cache(maxsize=1)
def _translator(corpus: Corpus) -> Any:
    return jax.jit(lambda model, source: translate(model, corpus, source))
