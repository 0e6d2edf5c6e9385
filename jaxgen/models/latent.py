"""Models with one latent vector for each example: what EDDPM trains, and what any sampler of latents needs."""

import dataclasses
import functools
from typing import Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.diffusion.gaussian import Denoise
from jaxgen.diffusion.schedule import Schedule
from jaxgen.errors import require

SAMPLERS = ("ddim", "ancestral", "ode")


@runtime_checkable
class LatentModel(Protocol):
    """Encoder, noise predictor and decoder of one latent space; a pytree.

    Attributes:
      latent_dim: D.
    """

    latent_dim: int

    def encode(self, x: PyTree) -> Float[Array, "B D"]:
        """The latents of a batch (the mean of q(z|x), where that is a distribution)."""
        ...

    def denoise(self, z: Float[Array, "B D"], t: Array) -> Float[Array, "B D"]:
        """The noise in z_t, at steps t [B] of the chain."""
        ...

    def decode_logprob(
        self, x: PyTree, z: Float[Array, "B D"], key: Key[Array, ""] | None = None
    ) -> Float[Array, " B"]:
        """log p(x|z) in nats; `key` for likelihoods that are estimates, and for dropout."""
        ...

    def decode(self, z: Float[Array, "B D"]) -> PyTree:
        """The likeliest x, as near as the decoder comes to it; deterministic."""
        ...


def sample(
    model: LatentModel,
    key: Key[Array, ""],
    n: int,
    chain: Schedule,
    *,
    sampler: str = "ddim",
    steps: int = 32,
    eta: float = 0.0,
) -> PyTree:
    """n new x: `sample_latents`, decoded."""
    z = sample_latents(model, key, n, chain, sampler=sampler, steps=steps, eta=eta)
    return model.decode(z)


@functools.partial(jax.jit, static_argnames=("n", "sampler", "steps", "eta"))
def sample_latents(
    model: LatentModel,
    key: Key[Array, ""],
    n: int,
    chain: Schedule,
    *,
    sampler: str = "ddim",
    steps: int = 32,
    eta: float = 0.0,
) -> Float[Array, "n D"]:
    """n latents, by the reverse process from standard normal noise.

    Args:
      sampler: "ddim", "ancestral" (all steps of the chain) or "ode" (the probability flow).
      steps: of DDIM; at most those of the chain.
      eta: of DDIM, 0 for the deterministic one.

    Raises:
      ValueError: an unknown sampler.
    """
    # Not above: diffrax takes a second to import.
    from jaxgen.diffusion import samplers

    require("sampler", sampler in SAMPLERS, sampler, ", ".join(SAMPLERS))
    key_start, key_steps = jax.random.split(key)
    noise = jax.random.normal(key_start, (n, model.latent_dim))
    if sampler == "ancestral":
        return samplers.ancestral(model.denoise, noise, key_steps, chain)
    if sampler == "ode":
        return samplers.flow_ode(model.denoise, noise, chain)[0]
    count = min(steps, chain.num_steps)
    return samplers.ddim(model.denoise, noise, chain, num_steps=count, eta=eta, key=key_steps)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("model", "mean", "std"), meta_fields=()
)
@dataclasses.dataclass(frozen=True)
class Standardised:
    """A LatentModel whose latents are standardised by fixed statistics.

    Its decoder and noise predictor were trained on standardised latents, so `encode` alone changes.
    """

    model: LatentModel
    mean: Float[Array, " D"]
    std: Float[Array, " D"]

    @property
    def latent_dim(self) -> int:
        """D."""
        return self.model.latent_dim

    def encode(self, x: PyTree) -> Float[Array, "B D"]:
        """(encoder(x) - mean) / std."""
        return (self.model.encode(x) - self.mean) / self.std

    def denoise(self, z: Float[Array, "B D"], t: Array) -> Float[Array, "B D"]:
        """As of the model."""
        return self.model.denoise(z, t)

    def decode_logprob(
        self, x: PyTree, z: Float[Array, "B D"], key: Key[Array, ""] | None = None
    ) -> Float[Array, " B"]:
        """As of the model."""
        return self.model.decode_logprob(x, z, key)

    def decode(self, z: Float[Array, "B D"]) -> PyTree:
        """As of the model."""
        return self.model.decode(z)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("autoencoder", "denoiser", "mean", "std"),
    meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class TwoStage:
    """A frozen autoencoder, and a noise predictor on its standardised latents.

    Rombach et al. (2022), "High-Resolution Image Synthesis with Latent Diffusion Models".
    """

    autoencoder: LatentModel
    denoiser: Denoise
    mean: Float[Array, " D"]
    std: Float[Array, " D"]

    @property
    def latent_dim(self) -> int:
        """D."""
        return self.autoencoder.latent_dim

    def encode(self, x: PyTree) -> Float[Array, "B D"]:
        """(encoder(x) - mean) / std."""
        return (self.autoencoder.encode(x) - self.mean) / self.std

    def denoise(self, z: Float[Array, "B D"], t: Array) -> Float[Array, "B D"]:
        """By the second stage."""
        return self.denoiser(z, t)

    def decode_logprob(
        self, x: PyTree, z: Float[Array, "B D"], key: Key[Array, ""] | None = None
    ) -> Float[Array, " B"]:
        """By the first stage, which has its own scale."""
        return self.autoencoder.decode_logprob(x, self.mean + self.std * z, key)

    def decode(self, z: Float[Array, "B D"]) -> PyTree:
        """By the first stage, which has its own scale."""
        return self.autoencoder.decode(self.mean + self.std * z)
