"""The EDDPM objective: a diffusion model whose first and last steps are learned.

Data x is encoded to mu = E(x), z_0 ~ q(z_0|x) = N(mu, sigma_0^2 I) starts an ordinary diffusion
chain z_1..z_T with noise predictor eps_theta, and a decoder gives p(x|z_0). One loss trains all
three networks, and its gradient reaches the encoder through every term. The negative ELBO is

    L = -log p(x|z_0)                                                  reconstruction
      + sum_{t>=2} lambda_t ||eps - eps_theta(z_t, t)||^2              diffusion
      + KL(q(z_0|x) || p_theta(z_0|z_1))                               alignment, t = 1
      + KL(q(z_T|x) || N(0, I))                                        prior

with lambda_t = beta_t / (2 alpha_t (1 - alpha_bar_t)) and p_theta(z_0|z_1) = N(mu_theta, beta_1 I),
mu_theta = (z_1 - sqrt(beta_1) eps_theta(z_1, 1)) / sqrt(alpha_1). The sum over t is estimated with
one sampled t for each example.

Source: Liu et al. (2024), "Unified Generation, Reconstruction, and Representation: Generalized
Diffusion with Adaptive Latent Encoding-Decoding" (ICML), section 3; the `simple` weighting and the
alignment term at t = 1 follow the authors' released code as well. The optional arguments at the end
of `loss` follow Meshchaninov et al. (2026), arXiv 2605.07933, and are off by default.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.diffusion.gaussian import (
    Denoise,
    predict_z0,
    prior_kl,
    q_sample,
    reverse_variance_kl,
)
from jaxgen.diffusion.schedule import Schedule
from jaxgen.errors import require
from jaxgen.numerics import Number, is_zero, mean, sum_trailing, wide

Latent = Float[Array, "B ..."]
Encode = Callable[[PyTree], Latent | tuple[Latent, Latent]]
DecodeLogprob = Callable[[PyTree, Latent], Float[Array, " B"]]

WEIGHTINGS = ("simple", "elbo")
ALIGNMENTS = ("kl", "joint")


class Terms(NamedTuple):
    """The parts of the objective at each t, [N], in nats before any re-weighting."""

    reconstruction: Float[Array, " N"]  # -log p(x|z_0)
    chain: Float[Array, " N"]  # lambda_t ||.||^2: alignment where t = 1, diffusion elsewhere
    variance: Float[Array, " N"]  # the part of the alignment that depends on sigma_0 alone
    prior: Float[Array, " N"]  # KL(q(z_T|x) || N(0, I))
    eps_error: Float[Array, " N"]  # ||eps - eps_theta||^2, to log


def terms(
    mu: Latent,
    sigma: Float[ArrayLike, "..."],
    denoise: Denoise,
    decode_logprob: DecodeLogprob,
    x: PyTree,
    t: Int[Array, " N"],
    noise_0: Latent,
    noise_t: Float[Array, "N ..."],
    schedule: Schedule,
    *,
    alignment: str = "kl",
    encoder_grad: Float[ArrayLike, ""] = 1.0,
    decoder_noise: Float[ArrayLike, "..."] = 0.0,
) -> Terms:
    """Every term of the objective at given t and given noise, in float32 or wider; no randomness.

    Args:
      mu: encoder mean [B, ...].
      sigma: std of q(z_0|x); a scalar, or [B, ...] where the encoder predicts it.
      t: [N], in 1..T; N is B, or a multiple: then an example's t lie side by side.
      noise_0: standard normal [B, ...], makes z_0. Must be independent of `noise_t`.
      noise_t: standard normal [N, ...], makes z_t.
      alignment: how E_q[-log p(z_0|z_1)] is taken at t = 1. "kl" is the paper's
        KL(q(z_0|x) || p(z_0|z_1)), in which z_0 is a fresh draw, not the one that made z_1. "joint"
        keeps the draw that made z_1, as the exact ELBO has it; its chain term is then
        lambda_1 ||eps - eps_theta||^2. They agree as sigma_0 -> 0.
      encoder_grad: factor on the gradient that chain and prior send into the encoder.
      decoder_noise: added to the decoder's input only.
    """
    schedule, sigma = schedule.astype(wide(mu)), jnp.asarray(sigma, wide(mu))
    at_each_t = functools.partial(jnp.repeat, repeats=t.size // max(len(mu), 1), axis=0)
    z_0 = (mu + sigma * noise_0).astype(mu.dtype)
    z_chain = at_each_t(_scale_gradient(z_0, encoder_grad))
    z_t = q_sample(z_chain, t, noise_t, schedule)
    eps_hat = denoise(z_t, t)
    eps_error = sum_trailing((noise_t - eps_hat).astype(sigma.dtype) ** 2)

    beta_1 = schedule.beta[1]
    ratio = jnp.broadcast_to(jnp.square(sigma) / beta_1, mu.shape)
    if alignment == "kl":
        # At t = 1 whatever t is: a long chain's last alpha_bar would make the unused gradients NaN.
        predicted = predict_z0(z_t, jnp.ones_like(t), eps_hat, schedule)
        residual = at_each_t(_scale_gradient(mu, encoder_grad)) - predicted
        at_one = sum_trailing(residual.astype(sigma.dtype) ** 2) / (2.0 * beta_1)
        variance = 0.5 * (ratio - 1.0 - jnp.log(ratio))
    elif alignment == "joint":
        at_one = schedule.elbo_weight(t) * eps_error
        variance = 0.5 * (-1.0 - jnp.log(ratio))
    else:
        raise ValueError(f"alignment is {alignment!r}, allowed: {', '.join(ALIGNMENTS)}")
    chain = jnp.where(t == 1, at_one, schedule.elbo_weight(t) * eps_error)
    return Terms(
        reconstruction=at_each_t(-decode_logprob(x, (z_0 + decoder_noise).astype(mu.dtype))),
        chain=chain,
        variance=at_each_t(sum_trailing(variance)),
        prior=at_each_t(prior_kl(_scale_gradient(mu, encoder_grad), sigma, schedule)),
        eps_error=eps_error,
    )


def loss(
    encode: Encode,
    denoise: Denoise,
    decode_logprob: DecodeLogprob,
    x: PyTree,
    key: Key[Array, ""],
    schedule: Schedule,
    *,
    weighting: str = "simple",
    sigma_0: Number | None = None,
    diffusion_weight: Number = 1.0,
    num_t: int = 1,
    alignment: str = "kl",
    encoder_grad: Number = 1.0,
    decoder_noise: Number = 0.0,
    t_probs: Float[Array, " T"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The EDDPM loss of a batch, averaged over examples; 0 without examples.

    Float32 or wider, whatever the latents are; float options may be traced, to be annealed.

    Args:
      encode: x -> mu [B, ...], or x -> (mu, sigma) for a predicted sigma_0.
      denoise: (z_t [B, ...], t [B]) -> predicted noise, like z_t.
      decode_logprob: (x, z_0) -> log p(x|z_0) [B], in nats.
      x: a batch; any pytree that `encode` and `decode_logprob` take.
      key: consumed here; use it nowhere else.
      weighting: "elbo" estimates -ELBO in nats, all constants included. "simple" divides the terms
        at the sampled t by lambda_t: the diffusion term is diffusion_weight ||eps - eps_theta||^2,
        the alignment carries alpha_1 / beta_1, and reconstruction and prior carry 1/(lambda_t T);
        constants are left out.
      sigma_0: std of q(z_0|x) where `encode` gives no sigma; None means sqrt(beta_1).
      diffusion_weight: w of the diffusion and alignment terms.
      num_t: draws of (t, eps) for each example. The mean over them has the same expectation and
        less noise, and costs only the noise predictor (B * num_t rows), not encoder and decoder.
      alignment: see `terms`.
      encoder_grad: see `terms`; a traced value may rise from 0 to 1 as a warm-up.
      decoder_noise: std of noise added to the decoder's input alone.
      t_probs: probabilities of t = 1..T, for importance sampling; every term stays unbiased.

    Returns:
      The loss, and aux: scalars `reconstruction`, `chain`, `align`, `prior` (nats), `eps_mse`
      (mean over dimensions), `latent_std`; and arrays `t` and `loss_at_t`, both
      [B * num_t] (what each sampled t contributes, before importance weights), which adaptive
      sampling of t needs.

    Raises:
      ValueError: unknown weighting or alignment; sigma_0, decoder_noise or num_t that cannot be.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting is {weighting!r}, allowed: {', '.join(WEIGHTINGS)}")
    if sigma_0 is not None:
        require("sigma_0", (sigma_0 > 0) & (sigma_0 < jnp.inf), sigma_0, "above 0, or None")
    ok = (decoder_noise >= 0) & (decoder_noise < jnp.inf)
    require("decoder_noise", ok, decoder_noise, "at least 0, finite")
    key_t, key_0, key_eps, key_dec = jax.random.split(key, 4)
    encoded = encode(x)
    predicted_sigma = isinstance(encoded, tuple)
    if predicted_sigma:
        mu, sigma = encoded
    else:
        mu, sigma = encoded, jnp.sqrt(schedule.beta[1]) if sigma_0 is None else sigma_0
    dtype, dim = wide(mu), math.prod(mu.shape[1:])
    schedule, diffusion_weight = schedule.astype(dtype), jnp.asarray(diffusion_weight, dtype)
    num_steps, shape = schedule.num_steps, (num_t, mu.shape[0])
    if t_probs is None:
        t = jax.random.randint(key_t, shape, 1, num_steps + 1, jnp.int32)
        importance = jnp.ones(shape, dtype)
    else:
        t = 1 + jax.random.categorical(key_t, jnp.log(t_probs), shape=shape).astype(jnp.int32)
        importance = 1.0 / (num_steps * t_probs[t - 1].astype(dtype))
    noise_0 = jax.random.normal(key_0, mu.shape, dtype).astype(mu.dtype)
    noise_t = jax.random.normal(key_eps, (num_t, *mu.shape), dtype).astype(mu.dtype)
    extra = jnp.zeros((), dtype)
    if not is_zero(decoder_noise):
        extra = decoder_noise * jax.random.normal(key_dec, mu.shape, dtype)
    o: dict[str, Any] = dict(alignment=alignment, encoder_grad=encoder_grad, decoder_noise=extra)
    # [num_t, B, ...] to [B * num_t, ...]: over two axes XLA's CPU takes gradients of weights 1.4 to 4 times as
    # slowly; with examples first, a batch that is spread over devices stays so.
    draws = (a.swapaxes(0, 1).reshape(-1, *a.shape[2:]) for a in (t, importance, noise_t))
    t, importance, noise_t = draws
    part = terms(mu, sigma, denoise, decode_logprob, x, t, noise_0, noise_t, schedule, **o)
    constant: Array | float = 0.0
    if weighting == "elbo":
        constant = dim * reverse_variance_kl(schedule)
    elif not predicted_sigma:
        part = part._replace(variance=jnp.zeros_like(part.variance))
    sampled, fixed = weigh(part, t, schedule, weighting, diffusion_weight=diffusion_weight)
    at_one = (t == 1).astype(dtype)
    aux = {
        "reconstruction": mean(part.reconstruction),
        "chain": mean(num_steps * importance * part.chain),
        "align": (part.chain * at_one).sum() / jnp.maximum(at_one.sum(), 1.0),
        "prior": mean(part.prior),
        "eps_mse": mean(importance * part.eps_error) / dim,
        "latent_std": jnp.std(mu, axis=0).mean() if mu.size else jnp.zeros((), mu.dtype),
        "t": t,
        "loss_at_t": jax.lax.stop_gradient(sampled),
    }
    return mean(importance * sampled + fixed) + constant, aux


def weigh(
    part: Terms,
    t: Int[Array, "*B"],
    schedule: Schedule,
    weighting: str,
    *,
    diffusion_weight: Number = 1.0,
) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
    """Splits the weighted loss into what the sampled t changes and what it does not, each [B].

    Averaged over t = 1..T, their sum under "elbo" is -ELBO but for the constant of
    `reverse_variance_kl`; under "simple" the whole summand at t is divided by lambda_t T.
    """
    chain = diffusion_weight * part.chain
    fixed = part.reconstruction + part.prior + part.variance
    if weighting == "elbo":
        return schedule.num_steps * chain, fixed
    weight = schedule.elbo_weight(t)
    return chain / weight + fixed / (weight * schedule.num_steps), jnp.zeros_like(fixed)


def _scale_gradient(a: Array, scale: Float[ArrayLike, ""]) -> Array:
    """The identity, whose gradient is multiplied by `scale`."""
    if isinstance(scale, float) and scale == 1.0:
        return a
    return (jax.lax.stop_gradient(a) * (1.0 - scale) + a * scale).astype(a.dtype)
