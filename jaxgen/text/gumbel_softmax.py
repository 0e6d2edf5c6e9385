"""Draws of tokens through which gradients flow: Gumbel-softmax (Jang et al., 2017; Maddison et al., 2017)."""

import jax
from jaxtyping import Array, Float, Key

from jaxgen.numerics import Number, check_temperature, over_temperature, wide


def gumbel_softmax(
    logits: Float[Array, "*N V"],
    key: Key[Array, ""],
    *,
    temperature: Number,
    hard: bool = False,
) -> Float[Array, "*N V"]:
    """softmax((logits + Gumbel noise) / temperature), whose argmax is an exact draw from the logits.

    Args:
      temperature: towards 0, draws become one-hot and gradients large; may be traced, to be annealed.
      hard: the value is that argmax, one-hot, and only the gradient is that of the softmax
        (straight-through): whatever reads the draw is never shown a mixture of tokens.

    Raises:
      ValueError: a temperature that is not finite and above 0.
    """
    check_temperature(temperature)
    noise = jax.random.gumbel(key, logits.shape, wide(logits))
    soft = jax.nn.softmax(over_temperature(logits + noise, temperature)).astype(logits.dtype)
    if not hard:
        return soft
    drawn = jax.nn.one_hot(soft.argmax(-1), soft.shape[-1], dtype=soft.dtype)
    return drawn + (soft - jax.lax.stop_gradient(soft))
