"""Ordinary differential equations on batches of latents: the one call of diffrax in the library.

Any Runge-Kutta method of diffrax (Kidger, 2021), with adaptive or equal steps. Each row of the batch has
step sizes of its own, or all rows share them. A row that cannot be solved is NaN and marked; nothing is
raised, so a solve can stand under `jit` and `vmap`, and its neighbours come to no harm.

Adaptive `diffrax.Dopri5()` without saved points runs in a loop of our own, `jaxgen.dopri5`, as long as nobody takes
a gradient; under `jax.grad` it is diffrax's again.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxgen import dopri5
from jaxgen.errors import require
from jaxgen.numerics import Number, wide

Span: TypeAlias = tuple[Array, Array]
Solved: TypeAlias = tuple[Array, Array, Array]  # states along the way, whether it arrived, steps
# (t [], y [...]) -> dy/dt [...], of one row or of a batch.
Drift = Callable[[Float[Array, ""], Float[Array, "..."]], Float[Array, "..."]]


class Stats(NamedTuple):
    """What the solve of each row came to; a pytree.

    Attributes:
      num_steps: steps that were tried, accepted or not.
      nfe: evaluations of the drift; see `evaluations`.
      failed: rows that are NaN: too many steps, or a state that is not finite.
      trajectory: states at equal distances in t, the end being the last; None unless asked for.
    """

    num_steps: Int[Array, " B"]
    nfe: Int[Array, " B"]
    failed: Bool[Array, " B"]
    trajectory: Float[Array, "B points ..."] | None = None


def solve(
    drift: Drift,
    y: Float[Array, "B ..."],
    t0: Number,
    t1: Number,
    *,
    batched: bool = False,
    block: int = 0,
    solver: diffrax.AbstractSolver | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    steps: int | None = None,
    points: int = 0,
    adjoint: diffrax.AbstractAdjoint | None = None,
    max_steps: int = 4096,
) -> tuple[Float[Array, "B ..."], Stats]:
    """Solves dy/dt = drift(t, y) from t0 to t1, backward in t where t1 < t0.

    Args:
      drift: of one row, (t [], y [...]); where `batched`, of all of them, (t [], y [B, ...]). It may close
        over arrays, through which gradients flow.
      y: states at t0. The ends come back in their dtype; half precision is solved in float32, since step
        sizes are chosen by small differences.
      batched: one step size for the whole batch: cheaper for large batches, but rows then depend on
        their neighbours within the tolerance, and fail together. Of each block, where there are blocks.
      block: rows that are solved at a time, one block after another; 0 for all at once. What the drift closes
        over must not be one entry a row.
      solver: a Runge-Kutta method, `diffrax.Tsit5()` by default.
      rtol: relative tolerance of the adaptive step size.
      atol: absolute tolerance.
      steps: takes that many equal steps instead of adaptive ones.
      points: also returns that many states along the way.
      adjoint: how gradients go through the solve; `diffrax.RecursiveCheckpointAdjoint()` by default,
        `diffrax.BacksolveAdjoint()` for constant memory.
      max_steps: a row that needs more has failed; of adaptive steps alone.

    Raises:
      ValueError: a tolerance or a number of steps that is not allowed, a solver that is no Runge-Kutta
        method, or one without an error estimate where `steps` is None.
    """
    if not (rtol > 0 and atol > 0):
        raise ValueError(f"rtol, atol are {rtol}, {atol}, allowed: above 0")
    require("steps", steps is None or steps >= 1, steps, "at least 1")
    require("max_steps", max_steps >= 1, max_steps, "at least 1")
    require("points", points >= 0, points, "0 or more")
    require("block", block >= 0, block, "0 or more")
    solver = diffrax.Tsit5() if solver is None else solver
    if steps is None and not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(f"steps is None, allowed with {type(solver).__name__}: a number of steps")
    evaluations(solver, jnp.zeros((), jnp.int32))  # refuses before the solve what cannot be counted
    dtype = wide(y)
    begin, end = jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)
    controller: diffrax.AbstractStepSizeController = diffrax.ConstantStepSize()
    if steps is None:
        controller = diffrax.PIDController(rtol=rtol, atol=atol)

    def by_diffrax(drift: Callable, y: Array, span: Span, consts: list) -> Solved:
        times = jnp.linspace(*span, max(points, 1) + 1, dtype=dtype)[1:]
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: drift(t, y, *args)),
            solver,
            t0=span[0],
            t1=span[1],
            dt0=None if steps is None else (span[1] - span[0]) / steps,
            y0=y,
            args=consts,
            stepsize_controller=controller,
            saveat=diffrax.SaveAt(ts=times) if points else diffrax.SaveAt(t1=True),
            adjoint=diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
            max_steps=max_steps if steps is None else steps + 1,
            throw=False,
        )
        (path,) = jax.tree.leaves(solution.ys)
        done = solution.result == diffrax.RESULTS.successful
        return path, done, solution.stats["num_steps"].astype(jnp.int32)

    def by_loop(drift: Callable, y: Array, span: Span, consts: list) -> Solved:
        end, done, taken = dopri5.solve(
            lambda t, y: drift(t, y, *consts),
            y,
            *span,
            rtol=rtol,
            atol=atol,
            max_steps=max_steps,
        )
        return end[None], done, taken

    plain = isinstance(solver, diffrax.Dopri5) and steps is None and not points and adjoint is None

    def one(y: Array) -> Solved:
        # Gradients go through arguments alone, so what the drift closes over becomes one.
        hoisted, consts = jax.closure_convert(drift, begin, y)
        run: Callable[..., Solved] = functools.partial(by_diffrax, hoisted)
        if plain:
            run = _with_gradients_of(functools.partial(by_loop, hoisted), run)
        return run(y, (begin, end), consts)

    def some(y: Array) -> Solved:
        if not batched:
            return jax.vmap(one)(y)
        path, done, taken = one(y)
        done, taken = (jnp.broadcast_to(a, y.shape[:1]) for a in (done, taken))
        return jnp.moveaxis(path, 0, 1), done, taken

    path, done, taken = _in_blocks(some, y.astype(dtype), block)
    path = path.astype(y.dtype)
    failed = ~(done & jnp.isfinite(path).all(tuple(range(1, path.ndim))))
    path = jnp.where(failed.reshape(-1, *[1] * (path.ndim - 1)), jnp.nan, path)
    return path[:, -1], Stats(taken, evaluations(solver, taken), failed, path if points else None)


def _with_gradients_of(fast: Callable[..., Solved], slow: Callable[..., Solved]) -> Callable:
    """`fast`; where a gradient is taken, `slow` in its place, forward too."""

    @jax.custom_vjp
    def run(*args: PyTree) -> Solved:
        return fast(*args)

    def forward(*args: PyTree) -> tuple[Solved, Callable]:
        def path_first(*args: PyTree) -> tuple[Array, tuple[Array, Array]]:
            path, done, taken = slow(*args)
            return path, (done, taken)

        path, pull, rest = jax.vjp(path_first, *args, has_aux=True)
        return (path, *rest), pull

    run.defvjp(forward, lambda pull, cotangents: pull(cotangents[0]))
    return run


def _in_blocks(solve: Callable[[Array], Solved], y: Float[Array, "B ..."], block: int) -> Solved:
    """A function of rows, of `block` of them at a time; the last row fills the last block."""
    rows = len(y)
    if not 0 < block < rows:
        return solve(y)
    fill = [(0, -rows % block)] + [(0, 0)] * (y.ndim - 1)
    blocks = jnp.pad(y, fill, mode="edge").reshape(-1, block, *y.shape[1:])
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:rows], jax.lax.map(solve, blocks))


def evaluations(solver: diffrax.AbstractSolver, num_steps: Int[Array, "..."]) -> Int[Array, "..."]:
    """Evaluations of the drift in that many attempted steps, by the solver's own tableau.

    A method whose last stage is the first of the next step has one less a step, and one in all for the
    first. What an adaptive solve spends on choosing its first step size (two more at most) is not counted. An
    implicit stage counts once, whatever its root finder needs.

    Raises:
      ValueError: for a solver that is no Runge-Kutta method.
    """
    if isinstance(solver, diffrax.Euler | diffrax.ImplicitEuler):
        return num_steps
    tableau = getattr(solver, "tableau", None)
    if not isinstance(tableau, diffrax.ButcherTableau):
        raise ValueError(f"solver is {type(solver).__name__}, allowed: a Runge-Kutta method")
    reused = int(tableau.fsal)
    return (tableau.num_stages - reused) * num_steps + reused
