"""Translation models, their losses and their data, for `experiments.eisl`."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from experiments import systems
from experiments.sequence_data import kept_tokenizer
from jaxgen.config import Config
from jaxgen.data import parallel
from jaxgen.losses import eisl
from jaxgen.losses.policy_gradient import policy_gradient_loss
from jaxgen.metrics import ngrams
from jaxgen.metrics import text as text_metrics
from jaxgen.nn import sequence, t5
from jaxgen.text import decoding, noise, tokenizers

LOSSES = ("ce", "smoothing", "pg", "eisl")


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Pairs and the joint tokenizer.

    Attributes:
      begin: id, as end and pad.
    """

    parts: dict[str, parallel.Pairs]
    tokenizer: Any
    begin: int
    end: int
    pad: int
    length: int

    def ids(self, texts: list[str]) -> Int[np.ndarray, "N T"]:
        """Tokens of sentences, cut at the corpus' length."""
        return tokenizers.encode(self.tokenizer, texts, self.length)[0]

    def arrays(self, kind: str, level: float, seed: int) -> dict[str, np.ndarray]:
        """Training pairs; the targets are disturbed as asked, the sources are clean."""
        train = self.parts["train"]
        unknown = self.tokenizer.unk_token
        target = noise.corrupt(train.target, kind, level, seed=seed, blank=unknown)
        return {"source": self.ids(train.source), "target": self.ids(target)}


def load(config: Config, workdir: pathlib.Path) -> Corpus:
    """Reads the pairs; the joint BPE is trained on clean training text and kept in the workdir."""
    d = config.data
    parts = parallel.load(
        d.source,
        path=d.path,
        train=d.train,
        valid=d.valid,
        test=d.test,
        limit=d.limit,
        seed=d.seed,
    )
    train = parts["train"]
    tokenizer = kept_tokenizer(config, workdir, train.source + train.target)
    return Corpus(parts, tokenizer, *tokenizers.special_ids(tokenizer), d.max_tokens)


def model_spec(config: Config, vocab: int) -> t5.T5Spec:
    """The encoder-decoder transformer."""
    m = config.model
    return t5.spec(vocab, width=m.width, depth=m.depth, heads=m.heads, dropout=m.dropout)


def forced_logits(
    model: t5.T5, corpus: Corpus, source: Array, target: Array, key: Key[Array, ""] | None
) -> Float[Array, "B T V"]:
    """Logits of each target token given those before it."""
    shifted = sequence.shift_right(target, corpus.begin)
    return model(source, shifted, source_mask=source != corpus.pad, key=key)


def translate(model: t5.T5, corpus: Corpus, source: Array) -> Int[Array, "B T"]:
    """Greedy translations."""
    start = _start(model, corpus, source)
    return decoding.greedy(start, max_tokens=corpus.length, eos=corpus.end, pad=corpus.pad).tokens


def _start(model: t5.T5, corpus: Corpus, source: Array) -> decoding.Start:
    return decoding.prompt_seq2seq(
        model,
        source,
        max_tokens=corpus.length,
        mask=source != corpus.pad,
        start=corpus.begin,
    )


def rule(config: Config, corpus: Corpus, name: str) -> Callable[..., Float[Array, " B"]]:
    """The loss of each row: (model, source, target, key) -> [B]."""
    e = config.eisl

    def real(target: Array) -> Bool[Array, "B T"]:
        return sequence.until_end(target, corpus.end)

    def forced(model: t5.T5, source: Array, target: Array, key: Any, **factors: Any) -> Array:
        logits = forced_logits(model, corpus, source, target, key)
        return eisl.mixed_loss(logits, target, mask=real(target), **factors)

    def policy(model: t5.T5, source: Array, target: Array, key: Any) -> Array:
        key_draw, key_drop = jax.random.split(key)
        fixed = jax.lax.stop_gradient(model)
        start = _start(fixed, corpus, source)
        drawn = decoding.sample(
            start, key_draw, max_tokens=corpus.length, eos=corpus.end, pad=corpus.pad
        ).tokens
        reward = ngrams.sentence_bleu(drawn, target, real(drawn), real(target))
        logits = forced_logits(model, corpus, source, drawn, key_drop)
        return policy_gradient_loss(logits, drawn, reward, mask=real(drawn))

    rules: dict[str, Callable[..., Float[Array, " B"]]] = {
        "ce": functools.partial(forced, ngram_factor=0.0),
        "smoothing": functools.partial(forced, ngram_factor=0.0, label_smoothing=config.smoothing),
        "eisl": functools.partial(
            forced, ngram_factor=e.ngram_factor, ce_factor=e.ce_factor, ngrams=e.ngrams
        ),
        "pg": policy,
    }
    return rules[name]


def system(
    config: Config, corpus: Corpus, name: str, run: str, start: Any = None
) -> systems.System:
    """One training run under the loss of that name.

    Args:
      run: names the run.
      start: a trained model to begin from; a fresh one by default.
    """
    row_loss = rule(config, corpus, name)
    spec = model_spec(config, len(corpus.tokenizer))

    def loss(model, extra, batch, key, step):
        each = row_loss(model, batch["source"], batch["target"], key)
        return each.mean(), ({}, extra)

    return systems.System(
        run,
        lambda key: t5.T5(spec, rngs=nnx.Rngs(key)),
        loss,
        # A copy, since the step takes over the buffers that it starts from.
        pretrained=None if start is None else lambda _: jax.tree.map(jnp.array, start),
    )


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
