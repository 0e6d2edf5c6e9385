"""Loss-aware choice of the diffusion step, after Nichol and Dhariwal (2021), section 3.3.

Steps whose loss is large or noisy are drawn more often, p_t proportional to sqrt(E[L_t^2]), and
`eddpm.loss(t_probs=...)` divides by p_t, so the expected gradient is unchanged and only its
variance falls. E[L_t^2] is a running mean over equal ranges of t, since one range per step would
see each step too rarely. The state is a plain array that the train step carries.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.errors import require
from jaxgen.numerics import Number


def init(bins: int = 32) -> Float[Array, " bins"]:
    """Running mean of L_t^2 in each range of t; starts uniform."""
    return jnp.ones((bins,), jnp.float32)


def probabilities(
    state: Float[Array, " bins"], num_steps: int, *, uniform: Number = 0.1
) -> Float[Array, " T"]:
    """p_t for t = 1..T; a share `uniform` is spread evenly, so that no weight is unbounded."""
    require("uniform", (uniform >= 0) & (uniform <= 1), uniform, "0 to 1")
    bin_of = jnp.arange(num_steps) * state.shape[0] // num_steps
    p = jnp.sqrt(state)[bin_of]
    # Losses that are all 0 say nothing about t.
    share = jnp.where(p.sum() > 0, p / jnp.maximum(p.sum(), 1e-30), 1.0 / num_steps)
    return (1.0 - uniform) * share + uniform / num_steps


def update(
    state: Float[Array, " bins"],
    t: Int[Array, " B"],
    loss: Float[Array, " B"],
    num_steps: int,
    *,
    decay: float = 0.95,
) -> Float[Array, " bins"]:
    """Moves the ranges that the batch visited towards the mean of loss^2 seen there."""
    bin_of = (t - 1) * state.shape[0] // num_steps
    count = jnp.zeros_like(state).at[bin_of].add(1.0)
    squares = loss.astype(state.dtype) ** 2
    mean = jnp.zeros_like(state).at[bin_of].add(squares) / jnp.maximum(count, 1.0)
    return jnp.where(count > 0, decay * state + (1.0 - decay) * mean, state)
