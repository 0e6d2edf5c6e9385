"""The forward process q, the reverse process p, and the DDPM objective.

Everything here takes a noise predictor `denoise(z_t, t) -> eps_hat` as a plain function, so it is
the same code for pixels, latent vectors and sequences of vectors. Shapes: z is [B, ...], t is [B].
States come back in the dtype of z; losses are float32 or wider.
Source: Ho, Jain and Abbeel (2020), "Denoising Diffusion Probabilistic Models".
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.diffusion.schedule import Schedule
from jaxgen.numerics import mean, sum_trailing, wide

Denoise = Callable[[Float[Array, "B ..."], Int[Array, " B"]], Float[Array, "B ..."]]


def per_example(v: Float[Array, " B"], like: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Shapes a vector [B] so that it broadcasts over the trailing axes of `like`."""
    return v.reshape(v.shape + (1,) * (like.ndim - v.ndim))


def q_sample(
    z_0: Float[Array, "B ..."],
    t: Int[Array, " B"],
    eps: Float[Array, "B ..."],
    schedule: Schedule,
) -> Float[Array, "B ..."]:
    """z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps (eq. 4); t may be 0.

    Here and below, a t beyond the chain is a ValueError, and under jit NaN.
    """
    signal = per_example(jnp.sqrt(schedule.at(schedule.alpha_bar, t)), z_0)
    noise = per_example(jnp.sqrt(schedule.at(schedule.one_minus_alpha_bar, t)), z_0)
    return (signal * z_0 + noise * eps).astype(z_0.dtype)


def q_posterior(
    z_0: Float[Array, "B ..."],
    z_t: Float[Array, "B ..."],
    t: Int[Array, " B"],
    schedule: Schedule,
) -> tuple[Float[Array, "B ..."], Float[Array, " B"]]:
    """Mean [B, ...] and variance [B] of q(z_{t-1} | z_t, z_0) for t >= 1 (eq. 6 and 7)."""
    beta, rest = schedule.at(schedule.beta, t), schedule.one_minus_alpha_bar[t]
    on_z0 = jnp.sqrt(schedule.alpha_bar[t - 1]) * beta / rest
    on_zt = jnp.sqrt(schedule.alpha(t)) * schedule.one_minus_alpha_bar[t - 1] / rest
    mean = per_example(on_z0, z_0) * z_0 + per_example(on_zt, z_t) * z_t
    return mean.astype(z_t.dtype), schedule.posterior_variance(t).astype(z_t.dtype)


def predict_z0(
    z_t: Float[Array, "B ..."],
    t: Int[Array, " B"],
    eps_hat: Float[Array, "B ..."],
    schedule: Schedule,
) -> Float[Array, "B ..."]:
    """Solves eq. 4 for z_0 with the predicted noise.

    Of a z_t in which nothing is left of z_0 (a long chain's end) it is large, and finite.
    """
    noise = per_example(jnp.sqrt(schedule.at(schedule.one_minus_alpha_bar, t)), z_t)
    z_0 = (z_t - noise * eps_hat) / per_example(jnp.sqrt(schedule.ratio(t, 0)), z_t)
    return z_0.astype(z_t.dtype)


def p_mean(
    z_t: Float[Array, "B ..."],
    t: Int[Array, " B"],
    eps_hat: Float[Array, "B ..."],
    schedule: Schedule,
) -> Float[Array, "B ..."]:
    """Mean of p_theta(z_{t-1} | z_t) for t >= 1 (eq. 11)."""
    scale = schedule.at(schedule.beta, t) / jnp.sqrt(schedule.one_minus_alpha_bar[t])
    mean = (z_t - per_example(scale, z_t) * eps_hat) / per_example(jnp.sqrt(schedule.alpha(t)), z_t)
    return mean.astype(z_t.dtype)


def prior_kl(
    mean: Float[Array, "B ..."],
    sigma: Float[ArrayLike, "..."],
    schedule: Schedule,
) -> Float[Array, " B"]:
    """KL(q(z_T | x) || N(0, I)) in nats, where q(z_0 | x) = N(mean, sigma^2 I)."""
    schedule, mean = schedule.astype(wide(mean)), mean.astype(wide(mean))
    alpha_bar, rest = schedule.alpha_bar[-1], schedule.one_minus_alpha_bar[-1]
    var = jnp.broadcast_to(alpha_bar * jnp.square(sigma) + rest, mean.shape)
    return 0.5 * sum_trailing(var + alpha_bar * mean**2 - 1.0 - jnp.log(var))


def reverse_variance_kl(schedule: Schedule) -> Float[Array, ""]:
    """Sum over t >= 2 of the part of each reverse KL that no parameter touches, per dimension.

    The reverse step uses variance beta_t while the true posterior has a smaller one; each step
    pays 0.5 (r - 1 - log r) nats with r their ratio. Left out of training losses, it is needed
    wherever a value is called an ELBO.
    """
    ratio = schedule.one_minus_alpha_bar[1:-1] / schedule.one_minus_alpha_bar[2:]
    return 0.5 * jnp.sum(ratio - 1.0 - jnp.log(ratio))


def loss(
    denoise: Denoise,
    z_0: Float[Array, "B ..."],
    key: Key[Array, ""],
    schedule: Schedule,
    *,
    weighting: str = "simple",
    num_t: int = 1,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The DDPM objective, averaged over the batch and over `num_t` uniform t for each example.

    0 without examples.

    Args:
      weighting: "simple" is ||eps - eps_theta||^2 summed over dimensions (eq. 14); "elbo" is an
        unbiased estimate of -ELBO in nats, with p(z_0 | z_1) = N(., beta_1).

    Returns:
      The loss and {"eps_mse": mean over dimensions}.
    """
    if weighting not in ("simple", "elbo"):
        raise ValueError(f"weighting is {weighting!r}, allowed: simple, elbo")
    key_t, key_eps = jax.random.split(key)
    z_0 = jnp.repeat(z_0, num_t, axis=0)
    schedule = schedule.astype(wide(z_0))
    t = jax.random.randint(key_t, z_0.shape[:1], 1, schedule.num_steps + 1, jnp.int32)
    eps = jax.random.normal(key_eps, z_0.shape, wide(z_0)).astype(z_0.dtype)
    eps_hat = denoise(q_sample(z_0, t, eps, schedule), t)
    error = sum_trailing((eps - eps_hat).astype(wide(z_0)) ** 2)
    dim = math.prod(z_0.shape[1:])
    value = error
    if weighting == "elbo":
        value = schedule.num_steps * schedule.elbo_weight(t) * error
        value += 0.5 * dim * jnp.log(2.0 * jnp.pi * schedule.beta[1])
        value += dim * reverse_variance_kl(schedule) + prior_kl(z_0, 0.0, schedule)
    return mean(value), {"eps_mse": mean(error) / dim}
