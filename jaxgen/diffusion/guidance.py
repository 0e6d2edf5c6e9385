"""Guidance: an energy on clean data steers a trained reverse process, with any sampler.

    score(z_t | a) = score(z_t) - grad_{z_t} E(z_0_hat(z_t))
    eps(z_t, t | a) = eps(z_t, t) + sqrt(1 - alpha_bar_t) grad_{z_t} E(z_0_hat(z_t))

The second line is classifier guidance (Dhariwal and Nichol, 2021, algorithm 2), whose classifier reads z_t
itself. Here the energy reads the predicted z_0 (Chung et al., 2023, diffusion posterior sampling), so that it
may be one that was trained on clean latents, such as an operator of `jaxgen.latent_ode.energy`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.diffusion.gaussian import Denoise, per_example, predict_z0
from jaxgen.diffusion.schedule import Schedule
from jaxgen.numerics import wide

# z_0 [B, ...] -> [B]; of each row by itself.
RowEnergy = Callable[[Float[Array, "B ..."]], Float[Array, " B"]]


def guided(
    denoise: Denoise, energy: RowEnergy, schedule: Schedule, *, through_network: bool = True
) -> Denoise:
    """The noise predictor of p(z | a) ~ p(z) exp(-E(z)), for the samplers of discrete chains.

    Exact where E is linear, or the posterior of z_0 given z_t is narrow; an approximation elsewhere, since
    the energy's mean over that posterior is taken at its mean.

    Args:
      denoise: the trained predictor.
      energy: differentiable, in nats; its weight is part of it, and may be traced.
      through_network: the gradient passes through z_0_hat, and so through the network. False takes
        d z_0_hat / d z_t = sqrt(alpha_bar_t) I instead, which a standard normal z_0 has.

    Returns:
      (z_t [B, ...], t [B]) -> [B, ...]; where t is beyond the chain, NaN or an error, as of `q_sample`.
    """

    def call(z: Float[Array, "B ..."], t: Int[Array, " B"]) -> Float[Array, "B ..."]:
        chain, dtype = schedule.astype(wide(z)), wide(z)
        if through_network:

            def cost(z: Array) -> tuple[Array, Array]:
                eps = denoise(z, t)
                return energy(predict_z0(z, t, eps, chain)).astype(dtype).sum(), eps

            gradient, eps = jax.grad(cost, has_aux=True)(z)
        else:
            eps = denoise(z, t)
            clean = predict_z0(z, t, eps, chain)
            gradient = jax.grad(lambda z_0: energy(z_0).astype(dtype).sum())(clean)
            gradient *= per_example(jnp.sqrt(chain.at(chain.alpha_bar, t)), z)
        rest = per_example(jnp.sqrt(chain.at(chain.one_minus_alpha_bar, t)), z)
        return (eps + rest * gradient).astype(eps.dtype)

    return call
