"""DTS-Gate's first phase: one shared expert, copied to all of them, each with other weights masked.

Nie et al. (2021), section 3.1: experts that begin as one trained network, made different by masks, are
better to tell apart for a gate than fresh ones.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def diversify(
    shared: Float[Array, "I O"], experts: int, rate: float, key: Key[Array, ""]
) -> Float[Array, "E I O"]:
    """Copies of a matrix, in each of which a random share `rate` of the entries is 0.

    Raises:
      ValueError: a rate that is not at least 0 and below 1.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate is {rate}, allowed: at least 0 and below 1")
    keep = jax.random.bernoulli(key, 1.0 - rate, (experts, *shared.shape))
    return jnp.where(keep, shared, 0.0)
