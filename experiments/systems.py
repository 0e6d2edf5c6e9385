"""The models on latents that the EDDPM study compares, on one backbone and for any kind of data.

All share the encoder, the decoder and an MLP of one size, so they have the same number of
parameters: the MLP predicts noise in EDDPM and in the two-stage model, and stands between z and the
decoder in the VAE, where it gives N(0, I) the same capacity to become a latent. What a kind of data
brings (networks, likelihood, decoding) is a `Domain`: `image_study` and `sequence_study` make one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.config import Config
from jaxgen.diffusion import eddpm, gaussian, schedule, timestep_sampling
from jaxgen.errors import ConfigError
from jaxgen.losses import vae
from jaxgen.nn import batch_renorm, mlp
from jaxgen.train.step import Loss

# Fields of a config that the systems read; see `jaxgen.config.check_fields`.
NAMES = {
    "schedule": "kind num_steps beta_min beta_max",
    "eddpm": "weighting alignment sigma_0 diffusion_weight num_t mse_weight encoder_warmup adaptive_t "
    "decoder_noise",
    "sample": "sampler steps eta count",
}
Vectors = Float[Array, "B D"]
Logprob = Callable[[PyTree, Vectors], Float[Array, " B"]]


@dataclasses.dataclass(frozen=True)
class Domain:
    """What one kind of data brings to the systems below.

    Attributes:
      build: (predict_variance, rngs) -> the module, with a noise predictor `mlp` in it.
      encode: (model, x) -> [B, D], or [B, 2 D] for mean and log variance.
      logprob: (model, key) -> a function (x, z) -> log p(x|z) [B] in nats; `key` for likelihoods
        that are estimates, or that drop something.
      decode: model -> a function z -> x, deterministic.
      x: batch -> x, what encoder and likelihood see.
      auxiliary: (model, latent, batch) -> a further loss of the autoencoder, or None.
      predict: (model, latent) -> the value that a joint regressor predicts [B], or None.
      pretrained: fresh model -> the model with weights from files, or None.
    """

    build: Callable[[bool, nnx.Rngs], Any]
    encode: Callable[[Any, PyTree], Vectors]
    logprob: Callable[[Any, Key[Array, ""]], Logprob]
    decode: Callable[[Any], Callable[[Vectors], Any]]
    x: Callable[[PyTree], PyTree] = lambda batch: batch
    auxiliary: Callable[[Any, Vectors, PyTree], Array] | None = None
    predict: Callable[[Any, Vectors], Float[Array, " B"]] | None = None
    pretrained: Callable[[Any], Any] | None = None

    def posterior(self, model: Any, x: PyTree) -> tuple[Vectors, Vectors]:
        """(mean, log variance) of q(z|x), where the encoder predicts both."""
        mean, log_var = jnp.split(self.encode(model, x), 2, -1)
        return mean, log_var

    def predictor(self, model: Any, encode: Callable[[Any], Vectors]) -> Any:
        """x -> values by the joint regressor on encode(x), jitted; None where there is none."""
        predict = self.predict
        return None if predict is None else jax.jit(lambda x: predict(model, encode(x)))

    def auxiliary_loss(self, model: Any, latent: Vectors, batch: PyTree) -> dict[str, Array]:
        """The auxiliary loss under the name it is logged by; empty where there is none."""
        return {} if self.auxiliary is None else {"auxiliary": self.auxiliary(model, latent, batch)}


@dataclasses.dataclass(frozen=True)
class Trained:
    """What evaluation needs of a trained system; all are jitted functions of arrays.

    Attributes:
      encode: x -> representation [B, ...].
      decode: representation -> x; None where the system cannot reconstruct.
      sample: (key, n) -> n latents, or n x where there is no `decode`.
      denoise: noise predictor on latents, where the system has one.
      predict: x -> values by the joint regressor, where the system has one.
    """

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any] | None
    sample: Callable[[Key[Array, ""], int], Any]
    denoise: Callable[..., Any] | None = None
    predict: Callable[[Any], Any] | None = None

    def generate(self, key: Key[Array, ""], n: int) -> np.ndarray:
        """n new x, on the host."""
        drawn = self.sample(key, n)
        return np.asarray(drawn) if self.decode is None else in_batches(self.decode, drawn)


@dataclasses.dataclass(frozen=True)
class System:
    """One training run: how to build the model, its loss, and its batches of arrays.

    `pretrained` puts weights from files into a fresh model. The run's key comes from `key` and the seed,
    from `name` where it is empty; systems that shall train the same model share one.
    """

    name: str
    build: Callable[[Key[Array, ""]], Any]
    loss: Loss
    extra: Callable[[], Any] = lambda: None
    pretrained: Callable[[Any], Any] | None = None
    key: str = ""


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


def encoder_bias(config: Config, predict_variance: bool) -> bool:
    """Whether an encoder's last layer has a bias.

    Before standardisation it has no gradient but rounding, which Adam would amplify.
    """
    return predict_variance or config.model.latent_norm == "none"


def eddpm_system(config: Config, domain: Domain) -> System:
    """EDDPM: one loss for encoder, noise predictor and decoder.

    The loss carries the running moments of the latents (`latent_norm`) and the history that
    adaptive sampling of t needs. The authors' image code too divides the latents by recorded
    statistics.
    """
    chain = make_schedule(config)
    c = config.eddpm

    def loss(model, extra, batch, key, step):
        key_loss, key_decoder = jax.random.split(key)
        extra, x = dict(extra), domain.x(batch)
        warm = (step + 1.0) / max(c.encoder_warmup, 1)
        gradient = jnp.minimum(warm, 1.0) if c.encoder_warmup else 1.0
        latent = domain.encode(model, x)
        if config.model.latent_norm == "running":
            latent, extra["moments"] = batch_renorm.standardise(latent, extra["moments"])
        probs = (
            timestep_sampling.probabilities(extra["history"], chain.num_steps)
            if c.adaptive_t
            else None
        )
        value, aux = eddpm.loss(
            lambda _: latent,
            model.mlp,
            domain.logprob(model, key_decoder),
            x,
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
            extra["history"] = timestep_sampling.update(extra["history"], t, seen, chain.num_steps)
        more = domain.auxiliary_loss(model, latent, batch)
        return value + sum(more.values()), (aux | more, extra)

    def extra():
        state = {}
        if config.model.latent_norm == "running":
            state["moments"] = batch_renorm.init(config.model.latent_dim)
        if c.adaptive_t:
            state["history"] = timestep_sampling.init()
        return state

    return System(
        "eddpm", lambda key: domain.build(False, nnx.Rngs(key)), loss, extra, domain.pretrained
    )


def vae_system(config: Config, domain: Domain, beta: float, *, with_mlp: bool) -> System:
    """A VAE; `with_mlp` puts the MLP between z and the decoder, else it is left untrained.

    `vae.anneal_steps` raises beta linearly from 0, and `vae.free_bits` leaves that many nats of each
    dimension free (Li et al., 2020, Optimus); both are 0 for the two-stage autoencoder.
    """
    anneal, free_bits = (config.vae.anneal_steps, config.vae.free_bits) if with_mlp else (0, 0.0)

    def loss(model, extra, batch, key, step):
        key_loss, key_decoder = jax.random.split(key)
        x = domain.x(batch)
        logprob = domain.logprob(model, key_decoder)
        mean, log_var = domain.posterior(model, x)
        value, aux = vae.loss(
            lambda _: (mean, log_var),
            lambda x, z: logprob(x, _vae_latent(model, z) if with_mlp else z),
            x,
            key_loss,
            beta=beta * jnp.minimum(step / anneal, 1.0) if anneal else beta,
            free_bits=free_bits,
        )
        more = domain.auxiliary_loss(model, mean, batch)
        return value + sum(more.values()), (aux | more, extra)

    return System(
        f"vae_beta{beta:g}" if with_mlp else "two_stage_autoencoder",
        lambda key: domain.build(True, nnx.Rngs(key)),
        loss,
        pretrained=domain.pretrained,
    )


def _vae_latent(model: Any, z: Vectors) -> Vectors:
    return z + model.mlp(z, jnp.zeros(z.shape[:1]))


def latent_diffusion_system(config: Config) -> System:
    """The second stage of the two-stage model: DDPM on frozen, standardised latents."""
    chain = make_schedule(config)

    def loss(model, extra, batch, key, step):
        value, aux = gaussian.loss(model, batch["latent"], key, chain, num_t=config.eddpm.num_t)
        return value, (aux, extra)

    return System("two_stage", lambda key: build_mlp(config, nnx.Rngs(key)), loss)


def sampler(config: Config, chain: schedule.Schedule) -> Callable[..., Any]:
    """(denoise, z_T, key) -> z_0 by the configured sampler."""
    from jaxgen.diffusion import samplers

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


def latent_statistics(
    encode: Callable[[Any], Vectors], x: PyTree, *, batch: int = 512
) -> tuple[Array, Array]:
    """Mean and standard deviation [D] of the latents of all rows of x."""
    z = in_batches(jax.jit(encode), x, batch=batch)
    return jnp.asarray(z.mean(0)), jnp.asarray(np.maximum(z.std(0), 1e-3))


def in_batches(function: Callable[[Any], Any], rows: PyTree, *, batch: int = 512) -> np.ndarray:
    """Applies a jitted function to all rows in equal batches (the last one padded), on the host.

    Args:
      rows: an array [N, ...], or a pytree of such.
    """
    rows = jax.tree.map(np.asarray, rows)
    count = len(jax.tree.leaves(rows)[0])

    def part(a: np.ndarray, start: int) -> np.ndarray:
        piece = a[start : start + batch]
        return np.concatenate([piece, np.repeat(piece[-1:], batch - len(piece), 0)])

    out = [
        np.asarray(function(jax.tree.map(lambda a, i=i: part(a, i), rows)))[: count - i]
        for i in range(0, count, batch)
    ]
    return np.concatenate(out)


def trained_eddpm(config: Config, domain: Domain, model: Any, train: PyTree) -> Trained:
    """Args:
    train: x of the train split; their latents give the final moments.
    """
    mean, std = latent_statistics(lambda x: domain.encode(model, x), train)
    if config.model.latent_norm == "none":
        mean, std = jnp.zeros_like(mean), jnp.ones_like(std)

    def encode(x: PyTree) -> Vectors:
        return (domain.encode(model, x) - mean) / std

    return Trained(
        encode=jax.jit(encode),
        decode=jax.jit(domain.decode(model)),
        sample=latent_sampler(config, model.mlp),
        denoise=model.mlp,
        predict=domain.predictor(model, encode),
    )


def trained_vae(config: Config, domain: Domain, model: Any) -> Trained:
    """Its representation is the posterior mean."""
    decode = domain.decode(model)

    def encode(x: PyTree) -> Vectors:
        return domain.posterior(model, x)[0]

    return Trained(
        encode=jax.jit(encode),
        decode=jax.jit(lambda z: decode(_vae_latent(model, z))),
        sample=lambda key, n: jax.random.normal(key, (n, config.model.latent_dim)),
        predict=domain.predictor(model, encode),
    )


@dataclasses.dataclass(frozen=True)
class FirstStage:
    """The frozen autoencoder of the two-stage model, with its latents standardised."""

    domain: Domain
    model: Any
    mean: Array
    std: Array

    @classmethod
    def of(cls, domain: Domain, model: Any, train: PyTree) -> "FirstStage":
        """Args: as of `trained_eddpm`."""
        return cls(
            domain, model, *latent_statistics(lambda x: domain.posterior(model, x)[0], train)
        )

    def encode(self, x: PyTree) -> Vectors:
        return (self.domain.posterior(self.model, x)[0] - self.mean) / self.std


def trained_two_stage(config: Config, first: FirstStage, denoise: mlp.MLPSkipNet) -> Trained:
    """Latents are standardised; decoding undoes it."""
    decode = first.domain.decode(first.model)
    return Trained(
        encode=jax.jit(first.encode),
        decode=jax.jit(lambda z: decode(first.mean + first.std * z)),
        sample=latent_sampler(config, denoise),
        denoise=denoise,
        predict=first.domain.predictor(
            first.model, lambda x: first.domain.posterior(first.model, x)[0]
        ),
    )
