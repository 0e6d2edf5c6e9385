"""Raising a predicted property in latent space: gradient ascent, and the same as an ODE.

Both follow the gradient of

    J(z) = f(z) - (penalty / 2) ||z||^2,

where f is any differentiable property of one latent and the second term is the log-density of the
standard normal that latents are trained towards: without it ascent leaves the region that the decoder
knows. Source: property optimisation in the latent space of a protein model as in Castro et al. (2022,
ReLSO), whose data EDDPM (Liu et al., 2024) uses.
"""

from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen import ode
from jaxgen.errors import require
from jaxgen.numerics import Number, wide

Property = Callable[[Float[Array, " D"]], Float[Array, ""]]


def _gradient(score: Property, penalty: Number) -> Callable[[Array], Array]:
    return jax.grad(lambda z: score(z) - (0.5 * penalty * jnp.sum(z**2)).astype(z.dtype))


def gradient_ascent(
    score: Property,
    z: Float[Array, "B D"],
    *,
    steps: int | Int[Array, ""],
    rate: Number,
    penalty: Number = 0.0,
) -> Float[Array, "B D"]:
    """`steps` steps z <- z + rate grad J(z) of each row, in float32 or wider; rate and penalty may be traced.

    Raises:
      ValueError: a negative number of steps, or a rate that is not above 0.
    """
    require("steps", steps >= 0, steps, "0 or more")
    require("rate", (rate > 0) & (rate < jnp.inf), rate, "above 0, finite")
    require("penalty", (penalty > -jnp.inf) & (penalty < jnp.inf), penalty, "finite")
    gradient = jax.vmap(_gradient(score, penalty))

    def body(_: Array, z: Array) -> Array:
        return z + jnp.asarray(rate, z.dtype) * gradient(z)

    return jax.lax.fori_loop(0, steps, body, z.astype(wide(z))).astype(z.dtype)


def ascent_ode(
    score: Property,
    z: Float[Array, "B D"],
    *,
    time: Number,
    penalty: Number = 0.0,
    solver: diffrax.AbstractSolver | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    max_steps: int = 4096,
) -> tuple[Float[Array, "B D"], ode.Stats]:
    """Solves dz/ds = grad J(z) over [0, time], each row with step sizes of its own.

    Returns:
      z at the end, and what the solve of each row came to. Rows that failed are NaN.

    Raises:
      ValueError: time or a tolerance that is not above 0.
    """
    require("penalty", (penalty > -jnp.inf) & (penalty < jnp.inf), penalty, "finite")
    require("time", (time > 0) & (time < jnp.inf), time, "above 0, finite")
    gradient = _gradient(score, penalty)
    return ode.solve(
        lambda _, z: gradient(z),
        z,
        0.0,
        time,
        solver=solver,
        rtol=rtol,
        atol=atol,
        max_steps=max_steps,
    )
