"""Sampling from p(z) exp(-E(z)) by an ODE (Liu et al., 2023, LatentOps, section 3.2).

The probability-flow ODE of the VP-SDE is dz/dt = -beta(t)/2 [z + grad log p_t(z)]. With the standard
normal as prior, grad log p(z, a) = -z - grad E(z): the z terms cancel and no score network is needed,

    dz/dt = beta(t)/2 grad E(z),    solved backward from t = 1 to t = 0.

So z moves down the energy, and t is but a clock: in s = (1/2) int_t^1 beta the equation reads
dz/ds = -grad E(z), which is what is solved here. With another prior, given by its score, the whole
drift -beta(t)/2 [z + score(z, t) - grad E(z)] is solved in the same clock.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.diffusion.schedule import VPSDE
from jaxgen.errors import require
from jaxgen.latent_ode.energy import Energy
from jaxgen.numerics import Number, wide

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


def sample(
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
    adjoint: diffrax.AbstractAdjoint | None = None,
    max_steps: int = 1024,
) -> tuple[Float[Array, "B D"], dict[str, Array]]:
    """Solves the ODE from each row of z, at t = t_start, to t = 0.

    Args:
      energy: of one latent, such as `energy.compose(...)`.
      z: draws from the prior (generation), or encoded sentences (editing). The ends come back in its
        dtype; half precision is solved in float32, since step sizes are chosen by small differences.
      schedule: the VP-SDE; beta 0.1 to 20 by default.
      prior_score: see `drift`.
      t_start: above 0 and at most 1; may be traced.
      solver: `diffrax.Dopri5()` by default; any Runge-Kutta method of diffrax.
      rtol: relative tolerance of the adaptive step size.
      atol: absolute tolerance.
      steps: takes that many equal steps in s instead of adaptive ones.
      points: also returns that many states at equal distances in s, the last one being the end.
      batched: one step size for the whole batch instead of one for each row: cheaper for large
        batches, but rows then depend on their neighbours within the tolerance.
      adjoint: how gradients go through the solve; `diffrax.RecursiveCheckpointAdjoint()` by default,
        `diffrax.BacksolveAdjoint()` for constant memory.
      max_steps: a row that needs more has failed.

    Returns:
      The ends, and stats: `num_steps` [B], `nfe` [B] (evaluations of the drift), `failed` [B], and
      `trajectory` [B, points, D] where asked for. A row that failed is NaN, never a half-way state.

    Raises:
      ValueError: a tolerance, t_start or number of steps that is not allowed; an operator of another
        latent size.
    """
    schedule = VPSDE() if schedule is None else schedule
    if not (rtol > 0 and atol > 0):
        raise ValueError(f"rtol, atol are {rtol}, {atol}, allowed: above 0")
    require("t_start", (t_start > 0) & (t_start <= 1), t_start, "above 0 and at most 1")
    require("steps", steps is None or steps >= 1, steps, "at least 1")
    require("max_steps", max_steps >= 1, max_steps, "at least 1")
    require("points", points >= 0, points, "0 or more")
    solver = diffrax.Dopri5() if solver is None else solver
    if steps is None and not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(f"steps is None, allowed with {type(solver).__name__}: a number of steps")
    evaluations(solver, jnp.zeros((), jnp.int32))  # refuses before the solve what cannot be counted
    field, own, dtype = drift(energy, schedule, prior_score), z.dtype, wide(z)
    z = z.astype(dtype)
    begin = clock(schedule, jnp.asarray(t_start, dtype)).astype(dtype)
    end = clock(schedule, jnp.zeros((), dtype)).astype(dtype)
    controller: Any = diffrax.ConstantStepSize()
    first = None if steps is None else (end - begin) / steps
    if steps is None:
        controller = diffrax.PIDController(rtol=rtol, atol=atol)
    saved = jnp.linspace(begin, end, points + 1, dtype=dtype)[1:] if points else None

    def solve(z_0: Array, rate: Callable[[Array, Array], Array]) -> tuple[Array, Array, Array]:
        # Adjoints differentiate through `args` alone, so what the energy closes over goes there.
        hoisted, consts = jax.closure_convert(rate, begin, z_0)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda s, z, args: hoisted(s, z, *args)),
            solver,
            t0=begin,
            t1=end,
            dt0=first,
            y0=z_0,
            args=consts,
            stepsize_controller=controller,
            saveat=diffrax.SaveAt(t1=True) if saved is None else diffrax.SaveAt(ts=saved),
            adjoint=diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
            max_steps=max_steps if steps is None else steps + 1,
            throw=False,
        )
        assert solution.ys is not None
        done = solution.result == diffrax.RESULTS.successful
        return solution.ys, done, solution.stats["num_steps"]

    if batched:
        path, done, taken = solve(z, jax.vmap(field, in_axes=(None, 0)))
        path = jnp.moveaxis(path, 0, 1)
        done, taken = jnp.broadcast_to(done, z.shape[:1]), jnp.broadcast_to(taken, z.shape[:1])
    else:
        path, done, taken = jax.vmap(lambda row: solve(row, field))(z)
    path = jnp.where(done[:, None, None], path, jnp.nan).astype(own)
    failed = ~jnp.isfinite(path).all((1, 2))
    stats = {
        "num_steps": taken.astype(jnp.int32),
        "nfe": evaluations(solver, taken.astype(jnp.int32)),
        "failed": failed,
    }
    if points:
        stats["trajectory"] = path
    return path[:, -1], stats


def evaluations(solver: diffrax.AbstractSolver, num_steps: Int[Array, "..."]) -> Int[Array, "..."]:
    """Evaluations of the drift in that many attempted steps, by the solver's own tableau.

    A method whose last stage is the first of the next step has one less a step, and one in all for the
    first. What an adaptive solve spends on choosing its first step size (two more) is not counted. An
    implicit stage counts once, whatever its root finder needs.

    Raises:
      ValueError: for a solver that is no Runge-Kutta method.
    """
    tableau: Any = getattr(solver, "tableau", None)
    if isinstance(solver, diffrax.Euler | diffrax.ImplicitEuler):
        return num_steps
    if not isinstance(tableau, diffrax.ButcherTableau):
        raise ValueError(f"solver is {type(solver).__name__}, allowed: a Runge-Kutta method")
    reused = int(tableau.fsal)
    return (tableau.num_stages - reused) * num_steps + reused


def keep_finished(
    z: Float[Array, "B D"], failed: Bool[Array, " B"]
) -> tuple[Float[Array, "N D"], Int[Array, " N"]]:
    """The rows that were solved, and their places; not for use inside jit."""
    index = jnp.flatnonzero(~failed)
    return z[index], index
