"""Training tasks of latent models: EDDPM, a VAE, and diffusion on latents that are given."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.diffusion import eddpm, gaussian, timestep_sampling
from jaxgen.diffusion.gaussian import Denoise
from jaxgen.diffusion.schedule import Schedule
from jaxgen.losses import vae
from jaxgen.models.latent import LatentModel
from jaxgen.nn import batch_renorm
from jaxgen.numerics import Number
from jaxgen.train.runs import TrainTask

Vectors = Float[Array, "B D"]
Batch = Mapping[str, Array]
Build = Callable[[nnx.Rngs], PyTree]
Pretrained = Callable[[PyTree], PyTree]
# (model, latents, batch) -> {name: a further loss of the autoencoder}
Auxiliary = Callable[[PyTree, Vectors, Batch], dict[str, Float[Array, ""]]]


@runtime_checkable
class VariationalModel(LatentModel, Protocol):
    """A LatentModel whose encoder gives a distribution."""

    def posterior(self, x: PyTree) -> tuple[Vectors, Vectors]:
        """(mean, log variance) of q(z|x)."""
        ...


def whole_batch(batch: Batch) -> PyTree:
    """What encoder and decoder see of a batch: all of it."""
    return batch


def no_auxiliary(model: PyTree, latent: Vectors, batch: Batch) -> dict[str, Float[Array, ""]]:
    """No further loss."""
    return {}


def eddpm_task(
    build: Build,
    chain: Schedule,
    *,
    latent_norm: str = "none",
    encoder_warmup: int = 0,
    adaptive_t: bool = False,
    inputs: Callable[[Batch], PyTree] = whole_batch,
    auxiliary: Auxiliary = no_auxiliary,
    pretrained: Pretrained | None = None,
    frozen: tuple[str, ...] = (),
    rates: Mapping[str, float] | None = None,
    **options: Any,
) -> TrainTask:
    """EDDPM: one loss for encoder, noise predictor and decoder.

    The loss carries the running moments of the latents and the history that adaptive sampling of t needs.
    The authors' image code too divides the latents by recorded statistics.

    Args:
      build: rngs -> a `LatentModel`.
      latent_norm: "running" standardises latents (`nn.batch_renorm`), "none" leaves them.
      encoder_warmup: steps in which the gradient of chain and prior into the encoder rises from 0.
      adaptive_t: t is drawn in proportion to what it contributed (`diffusion.timestep_sampling`).
      inputs: batch -> x, what encoder and decoder see.
      options: of `diffusion.eddpm.loss`.
    """

    def loss(
        model: PyTree, extra: PyTree, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        key_loss, key_decoder = jax.random.split(key)
        extra, x = dict(extra), inputs(batch)
        warm = (step + 1.0) / max(encoder_warmup, 1)
        latent = model.encode(x)
        if latent_norm == "running":
            latent, extra["moments"] = batch_renorm.standardise(latent, extra["moments"])
        history = extra.get("history")
        value, aux = eddpm.loss(
            lambda _: latent,
            model.denoise,
            lambda x, z: model.decode_logprob(x, z, key_decoder),
            x,
            key_loss,
            chain,
            encoder_grad=jnp.minimum(warm, 1.0) if encoder_warmup else 1.0,
            t_probs=timestep_sampling.probabilities(history, chain.num_steps)
            if adaptive_t
            else None,
            **options,
        )
        t, seen = aux.pop("t"), aux.pop("loss_at_t")
        if adaptive_t:
            extra["history"] = timestep_sampling.update(history, t, seen, chain.num_steps)
        more = auxiliary(model, latent, batch)
        return value + sum(more.values()), (aux | more, extra)

    def extra() -> PyTree:
        state: dict[str, Any] = {}
        if latent_norm == "running":
            dim = jax.eval_shape(lambda: build(nnx.Rngs(0))).latent_dim
            state["moments"] = batch_renorm.init(dim)
        if adaptive_t:
            state["history"] = timestep_sampling.init()
        return state

    return TrainTask(
        "eddpm",
        lambda key: build(nnx.Rngs(key)),
        loss,
        extra,
        pretrained=pretrained,
        frozen=frozen,
        rates=rates or {},
    )


def vae_task(
    name: str,
    build: Build,
    beta: Callable[[Array], Number],
    *,
    free_bits: float = 0.0,
    posterior: Callable[[PyTree, PyTree, Key[Array, ""]], tuple[Vectors, Vectors]] | None = None,
    latent: Callable[[PyTree, Vectors], Vectors] | None = None,
    inputs: Callable[[Batch], PyTree] = whole_batch,
    auxiliary: Auxiliary = no_auxiliary,
    pretrained: Pretrained | None = None,
    frozen: tuple[str, ...] = (),
    rates: Mapping[str, float] | None = None,
) -> TrainTask:
    """A VAE, with the weight of its KL term a function of the step.

    Args:
      build: rngs -> a `VariationalModel`.
      beta: step -> weight.
      free_bits: nats of each dimension that cost nothing (Li et al., 2020, Optimus).
      posterior: (model, x, key) -> (mean, log variance), where the encoder is to see something else than x.
      latent: (model, z) -> what the decoder gets, where that is not z itself.
      inputs: see `eddpm_task`.
    """

    def loss(
        model: PyTree, extra: PyTree, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        # A third key only where it is used, since two of three are not the two of two.
        key_loss, key_decoder, *rest = jax.random.split(key, 3 if posterior else 2)
        x = inputs(batch)
        mean, log_var = posterior(model, x, rest[0]) if posterior else model.posterior(x)
        value, aux = vae.loss(
            lambda _: (mean, log_var),
            lambda x, z: model.decode_logprob(x, latent(model, z) if latent else z, key_decoder),
            x,
            key_loss,
            beta=beta(step),
            free_bits=free_bits,
        )
        more = auxiliary(model, mean, batch)
        return value + sum(more.values()), (aux | more, extra)

    return TrainTask(
        name,
        lambda key: build(nnx.Rngs(key)),
        loss,
        pretrained=pretrained,
        frozen=frozen,
        rates=rates or {},
    )


def latent_diffusion_task(
    build: Callable[[nnx.Rngs], Denoise], chain: Schedule, *, num_t: int = 1
) -> TrainTask:
    """DDPM on latents: the second stage of a two-stage model.

    Batches have `latent` [B, D].

    Args:
      build: rngs -> the noise predictor.
      num_t: draws of t for each latent.
    """

    def loss(
        model: Denoise, extra: PyTree, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        value, aux = gaussian.loss(model, batch["latent"], key, chain, num_t=num_t)
        return value, (aux, extra)

    return TrainTask("two_stage", lambda key: build(nnx.Rngs(key)), loss)
