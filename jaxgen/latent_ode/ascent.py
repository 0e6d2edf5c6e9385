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

Property = Callable[[Float[Array, " D"]], Float[Array, ""]]


def _gradient(score: Property, penalty: float) -> Callable[[Array], Array]:
    return jax.grad(lambda z: score(z) - 0.5 * penalty * jnp.sum(z**2))


def gradient_ascent(
    score: Property,
    z: Float[Array, "B D"],
    *,
    steps: int,
    rate: float,
    penalty: float = 0.0,
) -> Float[Array, "B D"]:
    """`steps` steps z <- z + rate grad J(z) of each row.

    Raises:
      ValueError: a negative number of steps, or a rate that is not above 0.
    """
    if steps < 0:
        raise ValueError(f"steps is {steps}, allowed: 0 or more")
    if rate <= 0:
        raise ValueError(f"rate is {rate}, allowed: above 0")
    gradient = jax.vmap(_gradient(score, penalty))
    return jax.lax.fori_loop(0, steps, lambda _, z: z + rate * gradient(z), z)


def ascent_ode(
    score: Property,
    z: Float[Array, "B D"],
    *,
    time: float,
    penalty: float = 0.0,
    solver: diffrax.AbstractSolver | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    max_steps: int = 4096,
) -> tuple[Float[Array, "B D"], dict[str, Int[Array, " B"]]]:
    """Solves dz/ds = grad J(z) over [0, time], each row with step sizes of its own.

    Returns:
      z at the end, and {"num_steps": [B]}. A row whose solver gives up is NaN.

    Raises:
      ValueError: time or a tolerance that is not above 0.
    """
    if time <= 0:
        raise ValueError(f"time is {time}, allowed: above 0")
    if rtol <= 0 or atol <= 0:
        raise ValueError(f"rtol, atol are {rtol}, {atol}, allowed: above 0")
    gradient = _gradient(score, penalty)

    def solve(z_0: Array) -> tuple[Array, Array]:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda s, z, _: gradient(z)),
            diffrax.Tsit5() if solver is None else solver,
            t0=0.0,
            t1=time,
            dt0=None,
            y0=z_0,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
            max_steps=max_steps,
            throw=False,
        )
        assert solution.ys is not None
        done = solution.result == diffrax.RESULTS.successful
        return jnp.where(done, solution.ys[-1], jnp.nan), solution.stats["num_steps"]

    end, steps = jax.vmap(solve)(z)
    return end, {"num_steps": steps}
