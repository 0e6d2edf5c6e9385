"""The generator, and what it writes: each token given draws, or given greedy text."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.config import Config
from jaxgen.data.tokens import TokenShape
from jaxgen.models.style_transfer import StyleTransfer
from jaxgen.text import decoding
from jaxgen.text.gumbel_softmax import gumbel_softmax, soft_eos_mask, unroll
from jaxgen.text.masking import eos_mask


def generator(config: Config, shape: TokenShape, key: Key[Array, ""]) -> StyleTransfer:
    """The encoder-decoder G."""
    m = config.model
    sizes = {"width": m.width, "embedding": m.embedding, "dropout": m.dropout}
    return StyleTransfer(shape.size, 2, **sizes, begin=shape.begin, rngs=nnx.Rngs(key))


def ends_are_free(config: Config) -> bool:
    """Whether what is written may be shorter or longer than its source; a cipher replaces word by word."""
    return config.task != "decipher"


def last_places(shape: TokenShape, x: Int[Array, "B T"], *, free: bool) -> Int[Array, " B"]:
    """Where what is written of x ends at the latest: where x does, two tokens later where ends are free."""
    last = eos_mask(x, shape.end).sum(-1, dtype=jnp.int32) - 1
    return jnp.minimum(last + (2 if free else 0), shape.length - 1)


class Written(NamedTuple):
    """A text that a generator wrote, and can be taught by.

    Attributes:
      text: draws of its tokens.
      log_q: the generator's log-probabilities of every token.
      said: up to each row's end token.
    """

    text: Float[Array, "B T V"]
    log_q: Float[Array, "B T V"]
    said: Bool[Array, "B T"]


def write(
    config: Config,
    shape: TokenShape,
    g: StyleTransfer,
    x: Int[Array, "B T"],
    style: Int[Array, " B"],
    key: Key[Array, ""],
    temperature: Any,
    *,
    hard: bool = False,
) -> Written:
    """G(x, style), each token given the draws before it."""
    free = ends_are_free(config)
    text, logits = unroll(
        g.start(x, eos_mask(x, shape.end), style),
        key,
        length=shape.length,
        temperature=temperature,
        hard=hard,
        end=shape.end,
        forced_end=last_places(shape, x, free=free),
        early_end=free,
    )
    return Written(text, jax.nn.log_softmax(logits), soft_eos_mask(text, shape.end))


def greedy(
    shape: TokenShape,
    g: StyleTransfer,
    x: Int[Array, "B T"],
    style: Int[Array, " B"],
    *,
    free: bool,
) -> Int[Array, "B T"]:
    """Likeliest tokens of G(x, style), one after another."""
    last = last_places(shape, x, free=free)
    start = g.start(x, eos_mask(x, shape.end), style)
    start = decoding.force_ends(start, last, end=shape.end, early=free)
    found = decoding.greedy(start, max_tokens=shape.length, eos=shape.end, pad=shape.source_pad)
    return found.tokens


def write_in_parallel(
    config: Config,
    shape: TokenShape,
    g: StyleTransfer,
    x: Int[Array, "B T"],
    style: Int[Array, " B"],
    key: Key[Array, ""],
    temperature: Any,
    *,
    hard: bool = False,
) -> Written:
    """G(x, style), each token given the greedy text before it; reading x there, it would only repeat x."""
    fixed, free = jax.lax.stop_gradient(g), ends_are_free(config)
    own = greedy(shape, fixed, x, style, free=free)
    logits = g(x, eos_mask(x, shape.end), style, own)
    text = gumbel_softmax(logits, key, temperature=temperature, hard=hard)
    return Written(text, jax.nn.log_softmax(logits), eos_mask(own, shape.end))
