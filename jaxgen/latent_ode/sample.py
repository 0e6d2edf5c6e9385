"""Sampling from p(z) exp(-E(z)) by an ODE (Liu et al., 2023, LatentOps, section 3.2).

The probability-flow ODE of the VP-SDE is dz/dt = -beta(t)/2 [z + grad log p_t(z)]. With the standard
normal as prior, grad log p(z, a) = -z - grad E(z): the z terms cancel and no score network is needed,

    dz/dt = beta(t)/2 grad E(z),    solved backward from t = 1 to t = 0.

So z moves down the energy, and t is but a clock: in s = (1/2) int_t^1 beta the equation reads
dz/ds = -grad E(z), which is what is solved here. With another prior, given by its score, the whole
drift -beta(t)/2 [z + score(z, t) - grad E(z)] is solved in the same clock.
"""

from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen import ode
from jaxgen.diffusion.schedule import VPSDE
from jaxgen.errors import require
from jaxgen.latent_ode.energy import Energy
from jaxgen.numerics import Number, wide

ROWS_IN_CACHE = (
    256  # of latents of size 64 under classifiers of width 128; from 64 to 512 all are level
)

# (z [D], t in [0, 1]) -> grad log p_t(z) [D].
Score = Callable[[Float[Array, " D"], Float[Array, ""]], Float[Array, " D"]]


def clock(schedule: VPSDE, t: Float[Array, "..."]) -> Float[Array, "..."]:
    """s(t) = (1/2) int_t^1 beta: 0 at t = 1, and the length of the solve at t = 0."""
    one = jnp.ones_like(t)
    return 0.5 * (schedule.log_alpha_bar_at(t) - schedule.log_alpha_bar_at(one))


def time_of(schedule: VPSDE, s: Float[Array, "..."]) -> Float[Array, "..."]:
    """The inverse of `clock`: t of s, by the quadratic formula."""
    low, rise = schedule.beta_min, schedule.beta_max - schedule.beta_min
    whole = low + 0.5 * rise - 2.0 * s  # int_0^t beta
    if rise == 0:
        return whole / low
    return (jnp.sqrt(low**2 + 2.0 * rise * jnp.maximum(whole, 0.0)) - low) / rise


def drift(
    energy: Energy, schedule: VPSDE, prior_score: Score | None = None
) -> Callable[[Array, Array], Array]:
    """dz/ds at (s, z) for one latent: -grad E(z), or z + score(z, t) - grad E(z).

    Args:
      prior_score: None stands for the standard normal, whose score -z cancels z exactly.
    """
    gradient = jax.grad(energy)
    if prior_score is None:
        return lambda s, z: -gradient(z)
    return lambda s, z: z + prior_score(z, time_of(schedule, s)).astype(z.dtype) - gradient(z)


def solve(
    energy: Energy,
    z: Float[Array, "B D"],
    *,
    schedule: VPSDE | None = None,
    prior_score: Score | None = None,
    t_start: Number = 1.0,
    solver: diffrax.AbstractSolver | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    steps: int | None = None,
    points: int = 0,
    batched: bool = False,
    block: int | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    max_steps: int = 1024,
) -> tuple[Float[Array, "B D"], ode.Stats]:
    """Solves the ODE from each row of z, at t = t_start, to t = 0.

    Args:
      energy: of one latent, such as `energy.compose(...)`.
      z: draws from the prior (generation), or encoded sentences (editing).
      schedule: the VP-SDE; beta 0.1 to 20 by default.
      prior_score: see `drift`.
      t_start: above 0 and at most 1; may be traced.
      solver: `diffrax.Dopri5()` by default; any Runge-Kutta method of diffrax.
      block: see `jaxgen.ode.solve`; None is 256 on CPU, whose cache holds what so few rows need from one
        evaluation to the next (of three operators on 4,096 latents: half the time), and 0 on other devices.
      points: also returns that many states at equal distances in s, the last one being the end.

    The other arguments are those of `jaxgen.ode.solve`.

    Returns:
      The ends, and `jaxgen.ode.Stats`: steps, evaluations of the drift, which rows failed (they are NaN,
      never a half-way state), and the trajectory [B, points, D] where asked for.

    Raises:
      ValueError: a tolerance, t_start or number of steps that is not allowed; an operator of another
        latent size.
    """
    schedule = VPSDE() if schedule is None else schedule
    require("t_start", (t_start > 0) & (t_start <= 1), t_start, "above 0 and at most 1")
    if block is None:
        block = ROWS_IN_CACHE if jax.default_backend() == "cpu" else 0
    field, dtype = drift(energy, schedule, prior_score), wide(z)
    return ode.solve(
        jax.vmap(field, in_axes=(None, 0)) if batched else field,
        z,
        clock(schedule, jnp.asarray(t_start, dtype)),
        clock(schedule, jnp.zeros((), dtype)),
        batched=batched,
        block=block,
        solver=diffrax.Dopri5() if solver is None else solver,
        rtol=rtol,
        atol=atol,
        steps=steps,
        points=points,
        adjoint=adjoint,
        max_steps=max_steps,
    )


def keep_finished(
    z: Float[Array, "B D"], failed: Bool[Array, " B"]
) -> tuple[Float[Array, "N D"], Int[Array, " N"]]:
    """The rows that were solved, and their places; not for use inside jit."""
    index = jnp.flatnonzero(~failed)
    return z[index], index
