"""The models that the EDDPM study compares, on one backbone.

All share the encoder, the decoder and an MLP of one size, so they have the same number of
parameters: the MLP predicts noise in EDDPM and in the two-stage model, and stands between z and the
decoder in the VAE, where it gives N(0, I) the same capacity to become a latent. The pixel DDPM is a
U-Net of the width that comes closest in parameters.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from jaxgen.config import Config
from jaxgen.diffusion import eddpm, gaussian, samplers, schedule, timesteps
from jaxgen.errors import ConfigError
from jaxgen.nn import conv, mlp, renorm, unet, vae
from jaxgen.train.state import parameter_count
from jaxgen.train.step import Loss

ImageShape = tuple[int, int, int]
Images = Float[Array, "B H W C"]
Vectors = Float[Array, "B D"]


def make_schedule(config: Config) -> schedule.Schedule:
    """The latent chain of `config.schedule`; `constant` takes `beta_max`."""
    c = config.schedule
    kwargs = {
        "linear": {"beta_min": c.beta_min, "beta_max": c.beta_max},
        "vp_sde": {"beta_min": c.beta_min, "beta_max": c.beta_max},
        "constant": {"beta": c.beta_max},
        "cosine": {},
    }
    try:
        return schedule.make(c.kind, c.num_steps, **kwargs[c.kind])
    except ValueError as e:
        raise ConfigError("schedule", c.to_dict(), str(e)) from e


def time_scale(config: Config) -> float:
    """Brings any chain length to the 0..1000 that time embeddings are made for."""
    return 1000.0 / config.schedule.num_steps


def compute_dtype(config: Config) -> jnp.dtype | None:
    """None leaves float32 inputs and parameters as they are."""
    return None if config.model.dtype == "float32" else jnp.dtype(config.model.dtype)


def build_mlp(config: Config, rngs: nnx.Rngs) -> mlp.MLPSkipNet:
    """The one MLP that every system on latents has, whatever its part in it."""
    m = config.model
    return mlp.MLPSkipNet(
        m.latent_dim,
        width=m.denoiser_width,
        depth=m.denoiser_depth,
        time_scale=time_scale(config),
        dtype=compute_dtype(config),
        rngs=rngs,
    )


class Autoencoder(nnx.Module):
    """Encoder, decoder and the MLP of a study on images; see the module docstring."""

    def __init__(
        self, config: Config, shape: ImageShape, *, predict_variance: bool, rngs: nnx.Rngs
    ):
        m = config.model
        dtype = compute_dtype(config)
        latents = m.latent_dim * (2 if predict_variance else 1)
        self.encoder = conv.Encoder(
            shape,
            latents,
            width=m.width,
            blocks=m.blocks,
            # A bias before standardisation has no gradient but rounding, which Adam would amplify.
            out_bias=predict_variance or m.latent_norm == "none",
            dtype=dtype,
            rngs=rngs,
        )
        if m.decoder == "diffusion":
            self.decoder: nnx.Module = unet.UNet(
                shape,
                width=m.width,
                blocks=m.blocks,
                multipliers=tuple(conv.multipliers(conv.num_levels(shape[0]))),
                cond_dim=m.latent_dim,
                dtype=dtype,
                rngs=rngs,
            )
        else:
            self.decoder = conv.Decoder(
                m.latent_dim, shape, width=m.width, blocks=m.blocks, dtype=dtype, rngs=rngs
            )
        self.mlp = build_mlp(config, rngs)

    def posterior(self, x: Images) -> tuple[Vectors, Vectors]:
        """(mean, log variance) of q(z|x), where the encoder predicts both."""
        mean, log_var = jnp.split(self.encoder(x), 2, -1)
        return mean, log_var


def decode_logprob(
    config: Config, model: Autoencoder, key: Key[Array, ""]
) -> Callable[[Images, Vectors], Float[Array, " B"]]:
    """log p(x|z) of the configured decoder, plus the optional MSE term; `key` as in `loss`."""
    m = config.model

    def logprob(x: Images, z: Vectors) -> Float[Array, " B"]:
        if m.decoder == "diffusion":
            return _diffusion_logprob(model.decoder, x, z, key) * (0.5 / m.decoder_std**2)
        out = model.decoder(z)
        if m.decoder == "bernoulli":
            value, mean = conv.bernoulli_logprob(x, out), jax.nn.sigmoid(out)
        else:
            value, mean = conv.gaussian_logprob(x, out, m.decoder_std), out
        if config.eddpm.mse_weight:
            value -= config.eddpm.mse_weight * gaussian.sum_trailing((x - mean) ** 2)
        return value

    return logprob


def pixel_schedule() -> schedule.Schedule:
    """Of diffusion on pixels: the pixel DDPM and the diffusion decoder."""
    return schedule.linear(1000)


def _diffusion_logprob(net: Any, x: Images, z: Vectors, key: Key[Array, ""]) -> Array:
    """-||eps - eps_theta(x_t, t, z)||^2 at one random t: the simple bound of the U-Net decoder."""
    chain = pixel_schedule()
    key_t, key_eps = jax.random.split(key)
    t = jax.random.randint(key_t, x.shape[:1], 1, chain.num_steps + 1)
    eps = jax.random.normal(key_eps, x.shape, x.dtype)
    x_t = gaussian.q_sample(2.0 * x - 1.0, t, eps, chain)
    return -gaussian.sum_trailing((eps - net(x_t, t, z)) ** 2)


@dataclasses.dataclass(frozen=True)
class Trained:
    """What evaluation needs of a trained system; all are jitted functions of arrays.

    Attributes:
      encode: x [B, H, W, C] -> representation [B, ...].
      decode: representation -> x.
      sample_latent: (key, n) -> representations [n, ...].
      denoise: noise predictor on latents, where the system has one.
    """

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    sample_latent: Callable[[Key[Array, ""], int], Any]
    denoise: Callable[..., Any] | None = None


@dataclasses.dataclass(frozen=True)
class System:
    """One training run: how to build the model, its loss, and its batches of arrays."""

    name: str
    build: Callable[[Key[Array, ""]], Any]
    loss: Loss
    extra: Callable[[], Any] = lambda: None


def eddpm_system(config: Config, shape: ImageShape) -> System:
    """EDDPM: one loss for encoder, noise predictor and decoder.

    The loss carries the running moments of the latents (`latent_norm`) and the history that
    adaptive sampling of t needs. The authors' image code too divides the latents by recorded
    statistics.
    """
    chain = make_schedule(config)
    c = config.eddpm

    def loss(model, extra, batch, key, step):
        key_loss, key_decoder = jax.random.split(key)
        extra = dict(extra)
        warm = (step + 1.0) / max(c.encoder_warmup, 1)
        gradient = jnp.minimum(warm, 1.0) if c.encoder_warmup else 1.0
        latent = model.encoder(batch["image"])
        if config.model.latent_norm == "running":
            latent, extra["moments"] = renorm.standardise(latent, extra["moments"])
        probs = timesteps.probabilities(extra["history"], chain.num_steps) if c.adaptive_t else None
        value, aux = eddpm.loss(
            lambda _: latent,
            model.mlp,
            decode_logprob(config, model, key_decoder),
            batch["image"],
            key_loss,
            chain,
            weighting=c.weighting,
            sigma_0=c.sigma_0 or None,
            diffusion_weight=c.diffusion_weight,
            num_t=c.num_t,
            alignment=c.alignment,
            encoder_grad=gradient,
            decoder_noise=c.decoder_noise,
            t_probs=probs,
        )
        t, seen = aux.pop("t"), aux.pop("loss_at_t")
        if c.adaptive_t:
            extra["history"] = timesteps.update(extra["history"], t, seen, chain.num_steps)
        return value, (aux, extra)

    def extra():
        state = {}
        if config.model.latent_norm == "running":
            state["moments"] = renorm.init(config.model.latent_dim)
        if c.adaptive_t:
            state["history"] = timesteps.init()
        return state

    return System(
        "eddpm",
        lambda key: Autoencoder(config, shape, predict_variance=False, rngs=nnx.Rngs(key)),
        loss,
        extra,
    )


def vae_system(config: Config, shape: ImageShape, beta: float, *, with_mlp: bool) -> System:
    """A VAE; `with_mlp` puts the MLP between z and the decoder, else it is left untrained."""

    def loss(model, extra, batch, key, step):
        key_loss, key_decoder = jax.random.split(key)
        logprob = decode_logprob(config, model, key_decoder)
        value, aux = vae.loss(
            model.posterior,
            lambda x, z: logprob(x, _vae_latent(model, z) if with_mlp else z),
            batch["image"],
            key_loss,
            beta=beta,
        )
        return value, (aux, extra)

    return System(
        f"vae_beta{beta:g}" if with_mlp else "two_stage_autoencoder",
        lambda key: Autoencoder(config, shape, predict_variance=True, rngs=nnx.Rngs(key)),
        loss,
    )


def _vae_latent(model: Autoencoder, z: Vectors) -> Vectors:
    return z + model.mlp(z, jnp.zeros(z.shape[:1]))


def latent_diffusion_system(config: Config) -> System:
    """The second stage of the two-stage model: DDPM on frozen, standardised latents."""
    chain = make_schedule(config)

    def loss(model, extra, batch, key, step):
        value, aux = gaussian.loss(model, batch["latent"], key, chain, num_t=config.eddpm.num_t)
        return value, (aux, extra)

    return System("two_stage", lambda key: build_mlp(config, nnx.Rngs(key)), loss)


def ddpm_system(config: Config, shape: ImageShape) -> System:
    """DDPM on pixels, with the U-Net width whose parameter count is nearest to EDDPM's."""
    target = eddpm_system(config, shape)
    goal = parameter_count(jax.eval_shape(target.build, jax.random.key(0)))

    def build(key, width):
        return unet.UNet(
            shape,
            width=width,
            multipliers=tuple(config.ddpm.multipliers),
            dtype=compute_dtype(config),
            rngs=nnx.Rngs(key),
        )

    def count(width):
        return parameter_count(jax.eval_shape(lambda k: build(k, width), jax.random.key(0)))

    # The count grows about as the square of the width.
    guess = round(16 * (goal / count(16)) ** 0.5 / 4) * 4
    near = [max(4, w) for w in (guess - 4, guess, guess + 4)]
    width = min(near, key=lambda w: abs(count(w) - goal))
    chain = pixel_schedule()

    def loss(model, extra, batch, key, step):
        value, aux = gaussian.loss(model, 2.0 * batch["image"] - 1.0, key, chain)
        return value, (aux, extra)

    return System("ddpm", lambda key: build(key, width), loss)


def sampler(config: Config, chain: schedule.Schedule) -> Callable[..., Any]:
    """(denoise, z_T, key) -> z_0 by the configured sampler."""
    s = config.sample
    if s.sampler == "ancestral":
        return lambda denoise, z, key: samplers.ancestral(denoise, z, key, chain)
    if s.sampler == "ode":
        return lambda denoise, z, key: samplers.flow_ode(denoise, z, chain)[0]
    steps = min(s.steps, chain.num_steps)
    return lambda denoise, z, key: samplers.ddim(
        denoise, z, chain, num_steps=steps, eta=s.eta, key=key
    )


def latent_sampler(config: Config, denoise: mlp.MLPSkipNet) -> Callable[..., Any]:
    """(key, n) -> n latents from the configured chain and sampler, jitted."""
    draw = sampler(config, make_schedule(config))

    def sample(key: Key[Array, ""], n: int) -> Vectors:
        key_start, key_steps = jax.random.split(key)
        noise = jax.random.normal(key_start, (n, config.model.latent_dim))
        return draw(denoise, noise, key_steps)

    return jax.jit(sample, static_argnums=1)


def decoder(config: Config, model: Autoencoder, shape: ImageShape) -> Callable[[Vectors], Images]:
    """z -> image in [0, 1]: the decoder's mean, or one DDIM run of the U-Net from fixed noise."""
    m = config.model
    chain = pixel_schedule()

    def decode(z: Vectors) -> Images:
        if m.decoder == "diffusion":
            noise = jax.random.normal(jax.random.key(0), (z.shape[0], *shape))
            steps = min(config.sample.steps, chain.num_steps)
            x = samplers.ddim(lambda x, t: model.decoder(x, t, z), noise, chain, num_steps=steps)
            return jnp.clip(0.5 + 0.5 * x, 0.0, 1.0)
        out = model.decoder(z)
        return jnp.clip(jax.nn.sigmoid(out) if m.decoder == "bernoulli" else out, 0.0, 1.0)

    return decode


def trained_eddpm(config: Config, shape: ImageShape, model: Autoencoder, train: Any) -> Trained:
    """Args:
    train: train images; their latents give the final moments.
    """
    mean, std = latent_statistics(model.encoder, train)
    if config.model.latent_norm == "none":
        mean, std = jnp.zeros_like(mean), jnp.ones_like(std)

    return Trained(
        encode=jax.jit(lambda x: (model.encoder(x) - mean) / std),
        decode=jax.jit(decoder(config, model, shape)),
        sample_latent=latent_sampler(config, model.mlp),
        denoise=model.mlp,
    )


def latent_statistics(
    encode: Callable[[Any], Vectors], images: Any, *, batch: int = 512
) -> tuple[Array, Array]:
    """Mean and standard deviation [D] of the latents of all images."""
    z = in_batches(jax.jit(encode), images, batch=batch)
    return jnp.asarray(z.mean(0)), jnp.asarray(np.maximum(z.std(0), 1e-3))


def in_batches(function: Callable[[Any], Any], rows: Any, *, batch: int = 512) -> np.ndarray:
    """Applies a jitted function to all rows in equal batches (the last one padded), on the host."""
    rows = np.asarray(rows)
    out = []
    for i in range(0, len(rows), batch):
        part = rows[i : i + batch]
        padded = np.concatenate([part, np.repeat(part[-1:], batch - len(part), 0)])
        out.append(np.asarray(function(padded))[: len(part)])
    return np.concatenate(out)


def trained_vae(config: Config, shape: ImageShape, model: Autoencoder) -> Trained:
    """Its representation is the posterior mean."""
    decode = decoder(config, model, shape)
    return Trained(
        encode=jax.jit(lambda x: model.posterior(x)[0]),
        decode=jax.jit(lambda z: decode(_vae_latent(model, z))),
        sample_latent=lambda key, n: jax.random.normal(key, (n, config.model.latent_dim)),
    )


def frozen_encoder(model: Autoencoder, train: Any) -> Callable[[Any], Any]:
    """Standardised posterior means of the first stage."""
    mean, std = latent_statistics(lambda x: model.posterior(x)[0], train)
    return jax.jit(lambda x: (model.posterior(x)[0] - mean) / std)


def trained_two_stage(
    config: Config, shape: ImageShape, model: Autoencoder, denoise: mlp.MLPSkipNet, train: Any
) -> Trained:
    """Latents are standardised; decoding undoes it."""
    mean, std = latent_statistics(lambda x: model.posterior(x)[0], train)
    decode = decoder(config, model, shape)

    return Trained(
        encode=frozen_encoder(model, train),
        decode=jax.jit(lambda z: decode(mean + std * z)),
        sample_latent=latent_sampler(config, denoise),
        denoise=denoise,
    )


def trained_ddpm(config: Config, shape: ImageShape, model: unet.UNet) -> Trained:
    """Its representation is x_T by DDIM inversion; decoding and generation are DDIM from there."""
    chain = pixel_schedule()
    steps = min(config.sample.steps, chain.num_steps)

    def decode(z: Images) -> Images:
        x = samplers.ddim(model, z, chain, num_steps=steps)
        return jnp.clip(0.5 + 0.5 * x, 0.0, 1.0)

    def encode(x: Images) -> Images:
        return samplers.ddim_encode(model, 2.0 * x - 1.0, chain, num_steps=steps)

    return Trained(
        encode=jax.jit(encode),
        decode=jax.jit(decode),
        sample_latent=lambda key, n: jax.random.normal(key, (n, *shape)),
    )
