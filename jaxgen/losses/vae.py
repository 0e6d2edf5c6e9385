"""The variational autoencoder objective (Kingma and Welling, 2014), network-agnostic."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Num, PyTree

from jaxgen.errors import require
from jaxgen.numerics import Number, is_zero, mean, wide


def kl_to_standard_normal(
    mu: Float[Array, "B D"], log_var: Float[Array, "B D"]
) -> Float[Array, "B D"]:
    """KL(N(mu, exp(log_var)) || N(0, 1)) of each dimension, in nats (appendix B)."""
    return 0.5 * (jnp.exp(log_var) + mu**2 - 1.0 - log_var)


def loss(
    encode: Callable[[PyTree], tuple[Float[Array, "B D"], Float[Array, "B D"]]],
    decode_logprob: Callable[[PyTree, Float[Array, "B D"]], Float[Array, " B"]],
    x: PyTree,
    key: Key[Array, ""],
    *,
    beta: Number = 1.0,
    free_bits: Number = 0.0,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """-log p(x|z) + beta KL, batch mean, in nats; beta as in Higgins et al. (2017).

    Float32 or wider, whatever the latents are; 0 without rows.

    Args:
      encode: x -> (mu, log_var).
      decode_logprob: (x, z) -> log p(x|z) [B].
      beta: may be traced, to be annealed.
      free_bits: nats of each dimension's batch-mean KL that cost nothing (Kingma et al., 2016); may be
        traced.

    Returns:
      The loss and {"reconstruction", "kl", "latent_std"}.

    Raises:
      ValueError: beta or free_bits that are negative or not finite.
    """
    for name, value in (("beta", beta), ("free_bits", free_bits)):
        require(name, (value >= 0) & (value < jnp.inf), value, "at least 0, finite")
    mu, log_var = encode(x)
    eps = jax.random.normal(key, mu.shape, wide(mu))
    z = (mu + jnp.exp(0.5 * log_var) * eps).astype(mu.dtype)
    dtype = wide(mu)
    reconstruction = -mean(decode_logprob(x, z))
    kl = mean(kl_to_standard_normal(mu.astype(dtype), log_var.astype(dtype)), 0)
    spared = kl if is_zero(free_bits) else jnp.maximum(kl, jnp.asarray(free_bits, dtype))
    cost = spared.sum() if len(mu) else kl.sum()
    aux = {
        "reconstruction": reconstruction,
        "kl": kl.sum(),
        "latent_std": jnp.std(mu, axis=0).mean() if len(mu) else jnp.zeros((), mu.dtype),
    }
    return reconstruction + jnp.asarray(beta, dtype) * cost, aux


def cyclical_beta(
    step: Num[ArrayLike, ""], *, period: int, zero: float = 0.5, rise: float = 0.25
) -> Float[Array, ""]:
    """0 for a share `zero` of each period, then a linear rise over `rise` of it, then 1.

    Fu et al. (2019), with Optimus' default shares (Li et al., 2020).

    Raises:
      ValueError: period below 1, or shares that are negative or above 1 together.
    """
    if period < 1:
        raise ValueError(f"period is {period}, allowed: at least 1")
    if zero < 0 or rise <= 0 or zero + rise > 1:
        raise ValueError(f"zero, rise are {zero}, {rise}, allowed: shares of at most 1 together")
    place = jnp.mod(jnp.asarray(step, jnp.float32), period) / period
    return jnp.clip((place - zero) / rise, 0.0, 1.0)
