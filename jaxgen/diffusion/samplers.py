"""Samplers for a trained noise predictor: ancestral, DDIM (both directions), flow ODE.

All take `denoise(z_t [B, ...], t [B]) -> eps_hat [B, ...]` and run their loop as one `lax.scan` or
one `diffrax.diffeqsolve`, so each compiles once whatever the number of steps.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxgen.diffusion.gaussian import Denoise, p_mean, per_example
from jaxgen.diffusion.schedule import VPSDE, Schedule


def ancestral(
    denoise: Denoise,
    z_T: Float[Array, "B ..."],
    key: Key[Array, ""],
    schedule: Schedule,
    *,
    variance: str = "beta",
) -> Float[Array, "B ..."]:
    """All T reverse steps of DDPM (Ho et al., 2020, algorithm 2), from z_T to z_0.

    Args:
      z_T: the start, standard normal for generation.
      variance: of each reverse step, "beta" (the objective's p_theta) or "posterior". The last step,
        t = 1, adds no noise.
    """
    if variance not in ("beta", "posterior"):
        raise ValueError(f"variance is {variance!r}, allowed: beta, posterior")

    def step(z, t_and_key):
        t, key_t = t_and_key
        ts = jnp.full(z.shape[:1], t)
        mean = p_mean(z, ts, denoise(z, ts), schedule)
        var = schedule.beta[t] if variance == "beta" else schedule.posterior_variance(t)
        noise = jax.random.normal(key_t, z.shape, z.dtype)
        return mean + jnp.where(t > 1, jnp.sqrt(var), 0.0) * noise, None

    ts = jnp.arange(schedule.num_steps, 0, -1)
    z_0, _ = jax.lax.scan(step, z_T, (ts, jax.random.split(key, schedule.num_steps)))
    return z_0


def ddim_steps(num_train_steps: int, num_steps: int) -> Int[Array, " S_plus_1"]:
    """0 = tau_0 < tau_1 < .. < tau_S = T, as even as integers allow; S = num_steps.

    Raises:
      ValueError: unless 1 <= num_steps <= num_train_steps.
    """
    if not 1 <= num_steps <= num_train_steps:
        raise ValueError(f"DDIM steps is {num_steps}, allowed: 1 to {num_train_steps}")
    return jnp.asarray(np.rint(np.linspace(0, num_train_steps, num_steps + 1)).astype(np.int32))


def ddim(
    denoise: Denoise,
    z_T: Float[Array, "B ..."],
    schedule: Schedule,
    *,
    num_steps: int,
    eta: float = 0.0,
    key: Key[Array, ""] | None = None,
    trajectory: bool = False,
) -> Float[Array, "..."]:
    """DDIM sampling from t = T to 0 (Song, Meng and Ermon, 2021, eq. 12 and 16).

    Args:
      num_steps: S, how many of the T steps are visited.
      eta: 0 is deterministic; 1 has DDPM's posterior variance.
      key: needed where eta > 0.
      trajectory: also return z after every step: [S + 1, B, ...], the first being z_T.
    """
    if eta < 0 or (eta > 0 and key is None):
        raise ValueError(f"eta is {eta}, allowed: 0, or above 0 with a key")
    taus = ddim_steps(schedule.num_steps, num_steps)
    keys = jax.random.split(jax.random.key(0) if key is None else key, num_steps)

    def step(z, inputs):
        t, s, key_t = inputs
        ts = jnp.full(z.shape[:1], t)
        eps = denoise(z, ts)
        rest_t, rest_s = schedule.one_minus_alpha_bar[t], schedule.one_minus_alpha_bar[s]
        ratio = schedule.alpha_bar[t] / schedule.alpha_bar[s]
        sigma = eta * jnp.sqrt(rest_s / rest_t * (1.0 - ratio))
        # (z_t - sqrt(rest_t) eps) / sqrt(ratio) is sqrt(alpha_bar_s) times the predicted z_0.
        mean = (z - jnp.sqrt(rest_t) * eps) / jnp.sqrt(ratio)
        mean += jnp.sqrt(jnp.maximum(rest_s - sigma**2, 0.0)) * eps
        if eta > 0:
            mean += sigma * jax.random.normal(key_t, z.shape, z.dtype)
        return mean, mean if trajectory else None

    z_0, steps = jax.lax.scan(step, z_T, (taus[1:][::-1], taus[:-1][::-1], keys))
    return jnp.concatenate([z_T[None], steps]) if trajectory else z_0


def ddim_encode(
    denoise: Denoise,
    z_0: Float[Array, "B ..."],
    schedule: Schedule,
    *,
    num_steps: int,
    refinements: int = 0,
) -> Float[Array, "B ..."]:
    """The deterministic DDIM map run from z_0 to z_T (Song et al., 2021, section 4.3).

    Each step needs eps_theta at its end point, which is not known yet; the usual first guess takes
    it at the start point, so the round trip has an error that shrinks with more steps.

    Args:
      refinements: fixed-point passes on each step; every one costs a network call and makes the
        step a closer inverse of `ddim`'s (Pan et al., 2023).
    """
    taus = ddim_steps(schedule.num_steps, num_steps)

    def step(z, inputs):
        s, t = inputs
        ts = jnp.full(z.shape[:1], t)
        rest_t, rest_s = schedule.one_minus_alpha_bar[t], schedule.one_minus_alpha_bar[s]
        ratio = jnp.sqrt(schedule.alpha_bar[t] / schedule.alpha_bar[s])

        def solve(eps):
            return ratio * (z - jnp.sqrt(rest_s) * eps) + jnp.sqrt(rest_t) * eps

        # The network never saw t = 0, so the first step asks at t = 1 or later.
        guess = solve(denoise(z, jnp.maximum(jnp.full_like(ts, s), 1)))
        for _ in range(refinements):
            guess = solve(denoise(guess, ts))
        return guess, None

    z_T, _ = jax.lax.scan(step, z_0, (taus[:-1], taus[1:]))
    return z_T


def flow_ode(
    denoise: Callable[[Float[Array, "B ..."], Float[Array, " B"]], Float[Array, "B ..."]],
    z: Float[Array, "B ..."],
    schedule: Schedule | VPSDE,
    *,
    forward: bool = False,
    t_min: float | None = None,
    solver: diffrax.AbstractSolver | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    max_steps: int = 4096,
) -> tuple[Float[Array, "B ..."], dict[str, Array]]:
    """Solves the probability-flow ODE of the VP-SDE (Song et al., 2021, eq. 13) with diffrax.

        dz/dt = -beta(t)/2 [z + score(z, t)],   score = -eps_theta / sqrt(1 - alpha_bar(t))

    Args:
      denoise: takes real t in [0, schedule.horizon].
      z: z at the horizon (noise), or z_0 where `forward`.
      forward: False solves noise -> data; True data -> noise.
      t_min: where the data end is taken, since the score diverges at 0. Default: horizon / 1000.
      solver: default `diffrax.Tsit5()`. The step size is adaptive and shared by the batch.

    Returns:
      z at the other end, and stats: `num_steps` and `nfe`, the number of calls of `denoise`.
    """
    horizon = schedule.horizon
    low = horizon / 1000.0 if t_min is None else t_min
    if not 0 < low < horizon:
        raise ValueError(f"t_min is {low}, allowed: above 0 and below {horizon}")
    if rtol <= 0 or atol <= 0:
        raise ValueError(f"rtol, atol are {rtol}, {atol}, allowed: above 0")
    solver = diffrax.Tsit5() if solver is None else solver

    def drift(t, y, _):
        ts = jnp.full(y.shape[:1], t, y.dtype)
        rest = -jnp.expm1(schedule.log_alpha_bar_at(ts))
        score = -denoise(y, ts) / per_example(jnp.sqrt(rest), y)
        return -0.5 * per_example(schedule.beta_at(ts), y) * (y + score)

    t0, t1 = (low, horizon) if forward else (horizon, low)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(drift),
        solver,
        t0=t0,
        t1=t1,
        dt0=None,
        y0=z,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
    )
    steps = solution.stats["num_steps"]
    # First-same-as-last solvers reuse their last stage, and dt0=None costs two calls to start.
    tableau: Any = getattr(solver, "tableau", None)
    per_step = 1 if tableau is None else tableau.num_stages - int(tableau.fsal)
    assert solution.ys is not None
    return solution.ys[-1], {"num_steps": steps, "nfe": steps * per_step + 2}
