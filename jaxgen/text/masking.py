"""What a decoder reads, which tokens count, and noise on the input side, of padded rows of tokens."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.errors import require
from jaxgen.numerics import Number


def shift_right(
    tokens: Int[Array, "B T"] | Float[Array, "B T V"], begin: int
) -> Int[Array, "B T"] | Float[Array, "B T V"]:
    """What a decoder reads where it is to predict `tokens`: `begin`, then all but the last.

    Of distributions over tokens: a one-hot `begin`, then all but the last.
    """
    first = jnp.full(tokens[:, :1].shape[:2], begin, jnp.int32)  # none, where there are no tokens
    if tokens.ndim == 3:
        first = jax.nn.one_hot(first, tokens.shape[-1])
    first = first.astype(tokens.dtype)
    return jnp.concatenate([first, tokens[:, :-1]], 1)


def eos_mask(tokens: Int[Array, "B T"], end: int) -> Bool[Array, "B T"]:
    """Positions up to each row's first end token, that one included."""
    hit = tokens == end
    return jnp.cumsum(hit, -1) - hit == 0


def delete_tokens(
    tokens: Int[Array, "B T"], key: Key[Array, ""], *, rate: Number, pad: int
) -> Int[Array, "B T"]:
    """Rows without about a share `rate` of their tokens; those left move up, `pad` fills the end.

    The noise that a denoising autoencoder of text reads through (Shen et al., 2020): sentences that share
    most of their words have to share latents.

    Raises:
      ValueError: a rate outside [0, 1].
    """
    require("rate", (rate >= 0) & (rate <= 1), rate, "0 to 1")
    gone = jax.random.bernoulli(key, jnp.asarray(rate, jnp.float32), tokens.shape) | (tokens == pad)
    order = jnp.argsort(gone, axis=-1, stable=True)
    left = jnp.arange(tokens.shape[-1]) < (~gone).sum(-1, keepdims=True)
    return jnp.where(left, jnp.take_along_axis(tokens, order, -1), pad)
