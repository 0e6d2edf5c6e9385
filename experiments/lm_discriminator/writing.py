"""What a trained generator writes, and the networks that read it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from experiments.lm_discriminator import generation
from experiments.lm_discriminator.corpus import Corpus, Part
from jaxgen.config import Config
from jaxgen.data.tokens import TokenShape
from jaxgen.evaluators import language_model
from jaxgen.evaluators.attributes import word_classifier
from jaxgen.evaluators.common import batched_apply
from jaxgen.models import gpt2
from jaxgen.models.style_transfer import StyleTransfer
from jaxgen.nn.textcnn import TextCNN
from jaxgen.text.masking import eos_mask


class Readers(NamedTuple):
    """What is trained on real text alone: a language model of each style, and a classifier."""

    lms: tuple[gpt2.GPT, gpt2.GPT]
    classifier: TextCNN


@functools.partial(jax.jit, static_argnums=(2, 3))
def _write(g: StyleTransfer, rows: Any, shape: TokenShape, free: bool) -> Array:
    return generation.greedy(shape, g, rows["x"], 1 - rows["style"], free=free)


def write(config: Config, corpus: Corpus, g: StyleTransfer, part: Part, style: int) -> list[str]:
    """Greedy text of a part's rows in the other style."""
    rows = {"x": part.ids, "style": np.full(len(part.ids), style, np.int32)}
    free = generation.ends_are_free(config)
    run = lambda g, some: _write(g, some, corpus.shape, free)  # noqa: E731
    return corpus.decode(batched_apply(run, g, rows, batch=250))


@functools.partial(jax.jit, static_argnums=2)
def _classify(model: TextCNN, tokens: Array, end: int) -> Array:
    return model(tokens, eos_mask(tokens, end)).argmax(-1)


def classify(model: TextCNN, corpus: Corpus, texts: Sequence[str]) -> np.ndarray:
    """The likeliest style of each text."""
    run = lambda m, some: _classify(m, some, corpus.shape.end)  # noqa: E731
    return batched_apply(run, model, corpus.encode(texts), batch=250)


def perplexity(lm: gpt2.GPT, corpus: Corpus, texts: Sequence[str]) -> float:
    """Of a token of texts, the end token included."""
    return language_model.perplexity(lm, corpus.encode(texts), corpus.shape)


class Judges(NamedTuple):
    """Trained on sentences that nothing which steers has seen.

    Attributes:
      words: texts -> styles, by logistic regression on word n-grams.
    """

    readers: Readers
    words: Callable[[Sequence[str]], np.ndarray]


def judge_of_words(parts: Sequence[Part]) -> Callable[[Sequence[str]], np.ndarray]:
    """Fitted on the texts of both styles."""
    style = np.repeat(np.arange(len(parts)), [len(part.text) for part in parts])
    texts = [line for part in parts for line in part.text]
    return word_classifier().fit(texts, style).predict
