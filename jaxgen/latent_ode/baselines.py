"""What LatentOps is compared with: Langevin dynamics, the reverse SDE, and a shift along a line.

All but the shift draw from the same p(z) exp(-E(z)) as `jaxgen.latent_ode.sample`, with the standard
normal as prior: grad log p(z, a) = -z - grad E(z).
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from jaxgen.diffusion.schedule import VPSDE
from jaxgen.latent_ode.energy import Energy


def _score(energy: Energy) -> Energy:
    return jax.vmap(lambda z: -z - jax.grad(energy)(z))


def sgld(
    energy: Energy,
    z: Float[Array, "B D"],
    key: Key[Array, ""],
    *,
    steps: int,
    rate: float,
    noise: float = 1.0,
) -> Float[Array, "B D"]:
    """z <- z + (rate/2) grad log p(z, a) + noise sqrt(rate) eps (Welling and Teh, 2011).

    Args:
      noise: 1 draws from the distribution (as rate goes to 0); practice on text takes less.

    Raises:
      ValueError: negative steps or noise, or a rate that is not above 0.
    """
    if steps < 0 or noise < 0:
        raise ValueError(f"steps, noise are {steps}, {noise}, allowed: 0 or more")
    if rate <= 0:
        raise ValueError(f"rate is {rate}, allowed: above 0")
    score = _score(energy)

    def body(i: Array, z: Array) -> Array:
        eps = jax.random.normal(jax.random.fold_in(key, i), z.shape, z.dtype)
        return z + 0.5 * rate * score(z) + noise * jnp.sqrt(rate) * eps

    return jax.lax.fori_loop(0, steps, body, z)


def predictor_corrector(
    energy: Energy,
    z: Float[Array, "B D"],
    key: Key[Array, ""],
    *,
    steps: int,
    corrections: int = 1,
    snr: float = 0.1,
    t_start: float = 1.0,
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
    if snr <= 0:
        raise ValueError(f"snr is {snr}, allowed: above 0")
    if not 0 < t_start <= 1:
        raise ValueError(f"t_start is {t_start}, allowed: above 0 and at most 1")
    score = _score(energy)
    dt = t_start / steps

    def correct(z: Array, key: Key[Array, ""], alpha: Array) -> Array:
        eps = jax.random.normal(key, z.shape, z.dtype)
        s = score(z)
        size = jnp.linalg.norm(eps, axis=-1).mean() / jnp.linalg.norm(s, axis=-1).mean()
        rate = 2.0 * alpha * (snr * size) ** 2
        return z + rate * s + jnp.sqrt(2.0 * rate) * eps

    def body(i: Array, z: Array) -> Array:
        t = t_start - i * dt
        beta = schedule.beta_at(t) * dt
        keys = jax.random.split(jax.random.fold_in(key, i), corrections + 1)
        eps = jax.random.normal(keys[0], z.shape, z.dtype)
        z = z + 0.5 * beta * z + beta * score(z) + jnp.sqrt(beta) * eps
        for k in keys[1:]:
            z = correct(z, k, jnp.maximum(1.0 - beta, 0.0))
        return z

    return jax.lax.fori_loop(0, steps, body, z)


def linear_shift(
    z: Float[Array, "B D"], direction: Float[Array, " D"], strength: Float[ArrayLike, ""]
) -> Float[Array, "B D"]:
    """z + strength direction, such as a linear probe's or the difference of two classes' means."""
    return z + strength * direction
