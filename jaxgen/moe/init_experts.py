"""DTS-Gate's first phase: one shared expert, copied to all of them, each with other weights masked.

Nie et al. (2021), section 3.1: experts that begin as one trained network, made different by masks, are
better to tell apart for a gate than fresh ones.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxgen.errors import require
from jaxgen.numerics import Number


def init_experts(
    shared: Float[Array, "I O"], experts: int, rate: Number, key: Key[Array, ""]
) -> Float[Array, "E I O"]:
    """Copies of a matrix, in each of which a random share `rate` of the entries is 0.

    Raises:
      ValueError: a rate that is not at least 0 and below 1.
    """
    require("rate", (rate >= 0) & (rate < 1), rate, "at least 0 and below 1")
    share = jnp.asarray(1.0 - rate, jnp.float32)
    keep = jax.random.bernoulli(key, share, (experts, *shared.shape))
    return jnp.where(keep, shared, 0).astype(shared.dtype)
