"""What a trained generator writes, and the networks that read it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.lm_discriminator.corpus import Corpus, Part
from jaxgen.config import Config
from jaxgen.data.tokens import TokenShape
from jaxgen.evaluators.common import batched_apply
from jaxgen.evaluators.language_model import lm_nll
from jaxgen.metrics import text as text_metrics
from jaxgen.models import gpt2
from jaxgen.models.style_transfer import StyleTransfer
from jaxgen.nn.textcnn import TextCNN
from jaxgen.text import decoding
from jaxgen.text.masking import eos_mask

SLACK = {"decipher": -1, "sentiment": 2}  # see `_write`


class Readers(NamedTuple):
    """What is trained on real text alone: a language model of each style, and a classifier."""

    lms: tuple[gpt2.GPT, gpt2.GPT]
    classifier: TextCNN


@functools.partial(jax.jit, static_argnums=(2, 3))
def _write(g: StyleTransfer, rows: Any, shape: TokenShape, slack: int) -> Array:
    """Greedy text in the other style, at most `slack` tokens longer than the source; -1: as long as it is."""
    x, style = rows["x"], rows["style"]
    real = eos_mask(x, shape.end)
    last = jnp.minimum(real.sum(-1, dtype=jnp.int32) - 1 + max(slack, 0), shape.length - 1)
    start = g.start(x, real, 1 - style)
    start = decoding.force_ends(start, last, end=shape.end, early=slack >= 0)
    found = decoding.greedy(start, max_tokens=shape.length, eos=shape.end, pad=shape.source_pad)
    return found.tokens


def write(config: Config, corpus: Corpus, g: StyleTransfer, part: Part, style: int) -> list[str]:
    """Greedy text of a part's rows in the other style."""
    rows = {"x": part.ids, "style": np.full(len(part.ids), style, np.int32)}
    run = lambda g, some: _write(g, some, corpus.shape, SLACK[config.task])  # noqa: E731
    return corpus.decode(batched_apply(run, g, rows, batch=250))


@functools.partial(jax.jit, static_argnums=2)
def _classify(model: TextCNN, tokens: Array, end: int) -> Array:
    return model(tokens, eos_mask(tokens, end)).argmax(-1)


def classify(model: TextCNN, corpus: Corpus, texts: Sequence[str]) -> np.ndarray:
    """The likeliest style of each text."""
    run = lambda m, some: _classify(m, some, corpus.shape.end)  # noqa: E731
    return batched_apply(run, model, corpus.encode(texts), batch=250)


_nll = jax.jit(lm_nll, static_argnums=(2, 3))


def perplexity(lm: gpt2.GPT, corpus: Corpus, texts: Sequence[str]) -> float:
    """Of a token of texts, the end token included."""
    score = lambda t: _nll(lm, t, corpus.shape.begin, corpus.shape.end)  # noqa: E731
    return text_metrics.perplexity(score, corpus.encode(texts))


class Judges(NamedTuple):
    """Trained on sentences that nothing which steers has seen.

    Attributes:
      words: texts -> styles, by logistic regression on word n-grams.
    """

    readers: Readers
    words: Callable[[Sequence[str]], np.ndarray]


def judge_of_words(parts: Sequence[Part]) -> Callable[[Sequence[str]], np.ndarray]:
    """Fitted on the texts of both styles."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, token_pattern=r"\S+")
    model = make_pipeline(words, LogisticRegression(C=10.0, max_iter=200))
    style = np.repeat(np.arange(len(parts)), [len(part.text) for part in parts])
    return model.fit([line for part in parts for line in part.text], style).predict
