"""What LatentOps is compared with: Langevin dynamics, the reverse SDE, and a shift along a line.

All but the shift draw from the same p(z) exp(-E(z)) as `jaxgen.latent_ode.sample`, with the standard
normal as prior: grad log p(z, a) = -z - grad E(z). Latents come back in their dtype; loops run in float32
or wider.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.diffusion.schedule import VPSDE
from jaxgen.errors import require
from jaxgen.latent_ode.energy import Energy
from jaxgen.numerics import Number, wide


def _score(energy: Energy) -> Energy:
    return jax.vmap(lambda z: -z - jax.grad(energy)(z))


def sgld(
    energy: Energy,
    z: Float[Array, "B D"],
    key: Key[Array, ""],
    *,
    steps: int | Int[Array, ""],
    rate: Number,
    noise: Number = 1.0,
) -> Float[Array, "B D"]:
    """z <- z + (rate/2) grad log p(z, a) + noise sqrt(rate) eps (Welling and Teh, 2011).

    Args:
      rate: may be traced, as noise.
      noise: 1 draws from the distribution (as rate goes to 0); practice on text takes less.

    Raises:
      ValueError: negative steps or noise, or a rate that is not above 0.
    """
    ok = (steps >= 0) & (noise >= 0) & (noise < jnp.inf)
    if not isinstance(ok, jax.core.Tracer) and not ok:
        raise ValueError(f"steps, noise are {steps}, {noise}, allowed: 0 or more, finite")
    require("rate", (rate > 0) & (rate < jnp.inf), rate, "above 0, finite")
    score, dtype = _score(energy), wide(z)
    rate, noise = jnp.asarray(rate, dtype), jnp.asarray(noise, dtype)

    def body(i: Array, z: Array) -> Array:
        eps = jax.random.normal(jax.random.fold_in(key, i), z.shape, z.dtype)
        return z + 0.5 * rate * score(z) + noise * jnp.sqrt(rate) * eps

    return jax.lax.fori_loop(0, steps, body, z.astype(dtype)).astype(z.dtype)


def predictor_corrector(
    energy: Energy,
    z: Float[Array, "B D"],
    key: Key[Array, ""],
    *,
    steps: int,
    corrections: int = 1,
    snr: Number = 0.1,
    t_start: Number = 1.0,
    schedule: VPSDE | None = None,
) -> Float[Array, "B D"]:
    """Reverse VP-SDE by Euler-Maruyama, each step followed by Langevin corrections.

    Song et al. (2021), algorithms 3 and 5: a correction's rate is 2 alpha (snr ||eps|| / ||score||)^2,
    with alpha = 1 - beta dt.

    Args:
      steps: of the predictor, at equal distances in t.
      t_start: below 1 keeps more of z, for editing.

    Raises:
      ValueError: steps below 1, negative corrections, snr not above 0, t_start outside (0, 1].
    """
    schedule = VPSDE() if schedule is None else schedule
    if steps < 1 or corrections < 0:
        raise ValueError(f"steps, corrections are {steps}, {corrections}, allowed: 1, 0 or more")
    require("snr", (snr > 0) & (snr < jnp.inf), snr, "above 0, finite")
    require("t_start", (t_start > 0) & (t_start <= 1), t_start, "above 0 and at most 1")
    score, dtype = _score(energy), wide(z)
    snr, t_start = jnp.asarray(snr, dtype), jnp.asarray(t_start, dtype)
    dt = t_start / steps

    def correct(z: Array, key: Key[Array, ""], alpha: Array) -> Array:
        eps = jax.random.normal(key, z.shape, z.dtype)
        s = score(z)
        size = jnp.linalg.norm(eps, axis=-1).mean() / jnp.linalg.norm(s, axis=-1).mean()
        rate = 2.0 * alpha * (snr * size) ** 2
        return z + rate * s + jnp.sqrt(2.0 * rate) * eps

    def body(i: Array, z: Array) -> Array:
        t = t_start - i * dt
        beta = (schedule.beta_at(t) * dt).astype(dtype)
        keys = jax.random.split(jax.random.fold_in(key, i), corrections + 1)
        eps = jax.random.normal(keys[0], z.shape, z.dtype)
        z = z + 0.5 * beta * z + beta * score(z) + jnp.sqrt(beta) * eps
        for k in keys[1:]:
            z = correct(z, k, jnp.maximum(1.0 - beta, 0.0))
        return z

    return jax.lax.fori_loop(0, steps, body, z.astype(dtype)).astype(z.dtype)


def linear_shift(
    z: Float[Array, "B D"], direction: Float[Array, " D"], strength: Float[ArrayLike, ""]
) -> Float[Array, "B D"]:
    """z + strength direction, such as a linear probe's or the difference of two classes' means."""
    return (z + strength * direction).astype(z.dtype)
