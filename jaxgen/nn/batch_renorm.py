"""Standardised latents: batch renormalisation of encoder outputs, as a pure function.

A diffusion term alone would shrink latents to zero, where noise is trivial to predict, so their
scale has to be pinned. Dividing by statistics of the batch pins it but makes a latent depend on its
neighbours; here the forward pass uses running statistics and only the gradient sees the batch's.
Source: Ioffe (2017), "Batch Renormalization", without its clipping.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.numerics import wide


class Moments(NamedTuple):
    """Running mean and variance of each dimension, and the number of updates."""

    mean: Float[Array, " D"]
    var: Float[Array, " D"]
    updates: Float[Array, ""]


def init(dim: int) -> Moments:
    """Moments that the first update replaces whole."""
    f32 = jnp.float32
    return Moments(jnp.zeros(dim, f32), jnp.ones(dim, f32), jnp.zeros((), f32))


def standardise(
    h: Float[Array, "B D"], moments: Moments, *, momentum: float = 0.98, eps: float = 1e-6
) -> tuple[Float[Array, "B D"], Moments]:
    """(h - mean) / std with the updated running moments, and those moments.

    The value is (h - mean_run) / std_run. Its gradient is that of batch normalisation times
    std_batch / std_run, so it is orthogonal to shifting or scaling all of h: no loss on the result
    can shrink the latents. Early on, momentum is updates / (updates + 1), a plain average. Statistics are
    float32 or wider; a batch without rows changes nothing.

    Args:
      h: encoder outputs of the whole (global) batch.
      moments: from the step before; no gradient flows into it.
    """
    if not h.shape[0]:
        return h, moments
    own, h = h.dtype, h.astype(wide(h))
    mean, var = h.mean(0), h.var(0)
    keep = jnp.minimum(momentum, moments.updates / (moments.updates + 1.0))
    stop = jax.lax.stop_gradient
    new = Moments(
        (keep * moments.mean + (1.0 - keep) * stop(mean)).astype(moments.mean.dtype),
        (keep * moments.var + (1.0 - keep) * stop(var)).astype(moments.var.dtype),
        moments.updates + 1.0,
    )
    std_run, std = jnp.sqrt(new.var + eps), jnp.sqrt(var + eps)
    z = (h - mean) / std * stop(std / std_run) + stop((mean - new.mean) / std_run)
    return z.astype(own), new
