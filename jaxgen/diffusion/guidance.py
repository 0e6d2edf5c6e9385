"""Guidance: an energy on clean data steers a trained reverse process, with any sampler.

    score(z_t | a) = score(z_t) - grad_{z_t} mean_k E(z_0^k),    z_0^k ~ q(z_0 | z_t)
    eps(z_t, t | a) = eps(z_t, t) + sqrt(1 - alpha_bar_t) grad_{z_t} mean_k E(z_0^k)

The second line is classifier guidance (Dhariwal and Nichol, 2021, algorithm 2), whose classifier reads z_t
itself. Here the energy reads guesses of z_0, so that it may be one that was trained on clean latents, such as
an operator of `jaxgen.latent_ode.energy`. What to guess:

    the network's z_0_hat alone                      Chung et al. (2023), diffusion posterior sampling
    draws of a Gaussian's posterior, `gaussian_posterior`    Song et al. (2023), loss-guided diffusion
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxgen.diffusion.gaussian import Denoise, per_example, predict_z0
from jaxgen.diffusion.schedule import Schedule
from jaxgen.errors import require
from jaxgen.numerics import wide

# z_0 [B, ...] -> [B]; of each row by itself.
RowEnergy = Callable[[Float[Array, "B ..."]], Float[Array, " B"]]
# (z_t [B, D], t [B]) -> draws of z_0 [K, B, D], differentiable in z_t.
Posterior = Callable[[Float[Array, "B D"], Int[Array, " B"]], Float[Array, "K B D"]]


def guided(
    denoise: Denoise,
    energy: RowEnergy,
    schedule: Schedule,
    *,
    posterior: Posterior | None = None,
) -> Denoise:
    """The noise predictor of p(z | a) ~ p(z) exp(-E(z)), for the samplers of discrete chains.

    Exact where E is linear; elsewhere an approximation, since the mean of E stands for
    -log mean exp(-E).

    Args:
      denoise: the trained predictor.
      energy: differentiable, in nats; its weight is part of it, and may be traced.
      posterior: draws of z_0 given z_t. None takes the network's one guess, and the gradient through the
        network; where little of z_0 is left in z_t the errors of both are large.

    Returns:
      (z_t [B, ...], t [B]) -> [B, ...]; where t is beyond the chain, NaN or an error, as of `q_sample`.
    """

    def call(z: Float[Array, "B ..."], t: Int[Array, " B"]) -> Float[Array, "B ..."]:
        chain, dtype = schedule.astype(wide(z)), wide(z)

        def cost(z: Array) -> tuple[Array, Array]:
            eps = denoise(z, t)
            if posterior is None:
                each = energy(predict_z0(z, t, eps, chain))
            else:
                each = jax.vmap(energy)(posterior(z, t)).mean(0)
            return each.astype(dtype).sum(), eps

        gradient, eps = jax.grad(cost, has_aux=True)(z)
        rest = per_example(jnp.sqrt(chain.at(chain.one_minus_alpha_bar, t)), z)
        return (eps + rest * gradient).astype(eps.dtype)

    return call


def gaussian_posterior(
    mean: Float[Array, " D"],
    covariance: Float[Array, "D D"],
    schedule: Schedule,
    key: Key[Array, ""],
    *,
    draws: int = 8,
) -> Posterior:
    """Draws of z_0 given z_t where z_0 ~ N(mean, C), such as a Gaussian that was fitted to latents.

        E[z_0 | z_t]   = mean + sqrt(a) C (a C + (1 - a) I)^{-1} (z_t - sqrt(a) mean),    a = alpha_bar_t
        Cov[z_0 | z_t] = (1 - a) C (a C + (1 - a) I)^{-1}

    Axes that the noise hides stay where the Gaussian has them, with its spread, and pull little; a guess by the
    network, whose error is divided by sqrt(a), pulls most where it knows least.

    Args:
      mean: m.
      covariance: C, symmetric, not negative.
      key: of the draws; other ones at each t and for each row, and the same ones for the same.
      draws: K.

    Raises:
      ValueError: draws below 1.
    """
    require("draws", draws >= 1, draws, "at least 1")
    variance, axes = jnp.linalg.eigh(covariance)
    variance = jnp.maximum(variance, 0.0)

    def draw(z: Float[Array, "B D"], t: Int[Array, " B"]) -> Float[Array, "K B D"]:
        chain = schedule.astype(wide(z))
        kept = chain.at(chain.alpha_bar, t)[:, None]
        rest = chain.at(chain.one_minus_alpha_bar, t)[:, None]
        share = variance / (kept * variance + rest)
        centre = ((z - jnp.sqrt(kept) * mean) @ axes * (jnp.sqrt(kept) * share)) @ axes.T + mean
        rows = jnp.arange(z.shape[0])
        keys = jax.vmap(lambda r, s: jax.random.fold_in(jax.random.fold_in(key, r), s))(rows, t)
        shape = (draws, z.shape[-1])
        eps = jax.vmap(lambda k: jax.random.normal(k, shape, wide(z)), out_axes=1)(keys)
        return (centre + (eps * jnp.sqrt(rest * share)) @ axes.T).astype(z.dtype)

    return draw
