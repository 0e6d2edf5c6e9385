"""Samplers for a trained noise predictor: ancestral, DDIM (both directions), flow ODE.

All take `denoise(z_t [B, ...], t [B]) -> eps_hat [B, ...]` and run their loop as one `lax.scan` or
one `jaxgen.ode.solve`, so each compiles once whatever the number of steps. The networks see states in
the dtype of z, and so do callers; in between states are float32 or wider.
"""

from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxgen import ode
from jaxgen.diffusion.gaussian import Denoise, p_mean, per_example
from jaxgen.diffusion.schedule import VPSDE, Schedule
from jaxgen.errors import require
from jaxgen.numerics import Number, is_zero, wide


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

    z, denoise, schedule = _widen(z_T, denoise, schedule)

    def step(z, t_and_key):
        t, key_t = t_and_key
        ts = jnp.full(z.shape[:1], t)
        mean = p_mean(z, ts, denoise(z, ts), schedule)
        var = schedule.beta[t] if variance == "beta" else schedule.posterior_variance(t)
        noise = jax.random.normal(key_t, z.shape, z.dtype)
        return mean + jnp.where(t > 1, jnp.sqrt(var), 0.0) * noise, None

    ts = jnp.arange(schedule.num_steps, 0, -1, dtype=jnp.int32)
    z_0, _ = jax.lax.scan(step, z, (ts, jax.random.split(key, schedule.num_steps)))
    return z_0.astype(z_T.dtype)


def _widen(z: Array, denoise: Denoise, schedule: Schedule) -> tuple[Array, Denoise, Schedule]:
    """z and the chain in float32 or wider, and the network, which is given z's own dtype."""
    dtype, own = wide(z), z.dtype
    call = lambda z, t: denoise(z.astype(own), t).astype(dtype)  # noqa: E731
    return z.astype(dtype), call, schedule.astype(dtype)


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
    eta: Number = 0.0,
    key: Key[Array, ""] | None = None,
    trajectory: bool = False,
    gradient_steps: int | None = None,
) -> Float[Array, "..."]:
    """DDIM sampling from t = T to 0 (Song, Meng and Ermon, 2021, eq. 12 and 16).

    Args:
      num_steps: S, how many of the T steps are visited.
      eta: 0 is deterministic; 1 has DDPM's posterior variance; may be traced.
      key: needed where eta > 0.
      trajectory: also return z after every step: [S + 1, B, ...], the first being z_T.
      gradient_steps: how many of the last steps pass gradients, 1 to S; all by default.
    """
    ok = (eta >= 0) & (eta < jnp.inf)
    require(
        "eta", False if key is None and not is_zero(eta) else ok, eta, "0, or above it with a key"
    )
    z, denoise, schedule = _widen(z_T, denoise, schedule)
    share = None if is_zero(eta) else jnp.asarray(eta, z.dtype)
    taus = ddim_steps(schedule.num_steps, num_steps)
    keys = jax.random.split(jax.random.key(0) if key is None else key, num_steps)

    def step(z, inputs):
        t, s, ratio, key_t = inputs
        ts = jnp.full(z.shape[:1], t)
        eps = denoise(z, ts)
        rest_t, rest_s = schedule.one_minus_alpha_bar[t], schedule.one_minus_alpha_bar[s]
        sigma = 0.0 if share is None else share * jnp.sqrt(rest_s / rest_t * (1.0 - ratio))
        # (z_t - sqrt(rest_t) eps) / sqrt(ratio) is sqrt(alpha_bar_s) times the predicted z_0.
        mean = (z - jnp.sqrt(rest_t) * eps) / jnp.sqrt(ratio)
        left = rest_s - sigma**2
        # At the last step it is 0, where the root's gradient (with respect to eta) would be infinite.
        mean += jnp.where(left > 0, jnp.sqrt(jnp.where(left > 0, left, 1.0)), 0.0) * eps
        if share is not None:
            mean += sigma * jax.random.normal(key_t, z.shape, z.dtype)
        return mean, mean if trajectory else None

    after, before = taus[1:][::-1], taus[:-1][::-1]
    inputs = after, before, schedule.ratio(after, before), keys
    last = num_steps if gradient_steps is None else gradient_steps
    require("gradient_steps", 1 <= last <= num_steps, last, f"1 to {num_steps}")
    first, path = num_steps - last, [z[None]]
    z_0 = z
    for part in (slice(None, first), slice(first, None)) if first else (slice(None),):
        some = jax.tree.map(lambda a, part=part: a[part], inputs)
        z_0, steps = jax.lax.scan(step, jax.lax.stop_gradient(z_0) if path[1:] else z_0, some)
        path.append(steps)
    end = jnp.concatenate(path) if trajectory else z_0
    return end.astype(z_T.dtype)


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
    require("refinements", refinements >= 0, refinements, "0 or more")
    taus = ddim_steps(schedule.num_steps, num_steps)
    z, denoise, schedule = _widen(z_0, denoise, schedule)

    def step(z, inputs):
        s, t, ratio = inputs
        ts = jnp.full(z.shape[:1], t)
        rest_t, rest_s = schedule.one_minus_alpha_bar[t], schedule.one_minus_alpha_bar[s]

        def solve(eps):
            return jnp.sqrt(ratio) * (z - jnp.sqrt(rest_s) * eps) + jnp.sqrt(rest_t) * eps

        # The network never saw t = 0, so the first step asks at t = 1 or later.
        guess = solve(denoise(z, jnp.maximum(jnp.full_like(ts, s), 1)))
        for _ in range(refinements):
            guess = solve(denoise(guess, ts))
        return guess, None

    ratios = schedule.ratio(taus[1:], taus[:-1])
    z_T, _ = jax.lax.scan(step, z, (taus[:-1], taus[1:], ratios))
    return z_T.astype(z_0.dtype)


def flow_ode(
    denoise: Callable[[Float[Array, "B ..."], Float[Array, " B"]], Float[Array, "B ..."]],
    z: Float[Array, "B ..."],
    schedule: Schedule | VPSDE,
    *,
    forward: bool = False,
    t_min: Number | None = None,
    solver: diffrax.AbstractSolver | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    max_steps: int = 4096,
) -> tuple[Float[Array, "B ..."], ode.Stats]:
    """Solves the probability-flow ODE of the VP-SDE (Song et al., 2021, eq. 13).

        dz/dt = -beta(t)/2 [z + score(z, t)],   score = -eps_theta / sqrt(1 - alpha_bar(t))

    Args:
      denoise: takes real t in [0, schedule.horizon].
      z: z at the horizon (noise), or z_0 where `forward`.
      forward: False solves noise -> data; True data -> noise.
      t_min: where the data end is taken, since the score diverges at 0. Default: horizon / 1000.
      solver: default `diffrax.Tsit5()`. The step size is adaptive and shared by the batch.

    Returns:
      z at the other end, and what the solve came to. Rows that failed are NaN.

    Raises:
      ValueError: as `jaxgen.ode.solve`; t_min outside of (0, horizon).
    """
    horizon = schedule.horizon
    low = horizon / 1000.0 if t_min is None else t_min
    require("t_min", (low > 0) & (low < horizon), low, f"above 0 and below {horizon}")
    dtype = wide(z)
    if isinstance(schedule, Schedule):
        schedule = schedule.astype(dtype)

    def drift(t: Array, y: Array) -> Array:
        ts = jnp.full(y.shape[:1], t, y.dtype)
        rest = -jnp.expm1(schedule.log_alpha_bar_at(ts))
        score = -denoise(y.astype(z.dtype), ts).astype(dtype) / per_example(jnp.sqrt(rest), y)
        return (-0.5 * per_example(schedule.beta_at(ts), y) * (y + score)).astype(dtype)

    t0, t1 = (low, horizon) if forward else (horizon, low)
    return ode.solve(
        drift,
        z,
        t0,
        t1,
        batched=True,
        solver=solver,
        rtol=rtol,
        atol=atol,
        max_steps=max_steps,
    )
