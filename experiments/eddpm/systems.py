"""The models on latents that the study compares, on one backbone and for any kind of data.

All share the encoder, the decoder and an MLP of one size, so they have the same number of
parameters: the MLP predicts noise in EDDPM and in the two-stage model, and stands between z and the
decoder in the VAE, where it gives N(0, I) the same capacity to become a latent. What a kind of data
brings is a `Problem`: `images` and `sequences` have one.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from experiments.common.latent import chain_of, denoiser_of, eddpm_options, sampler_of
from jaxgen.config import Config
from jaxgen.data.pixels import Pixels
from jaxgen.diffusion.schedule import Schedule
from jaxgen.evaluators.common import batched_apply, decode, encode
from jaxgen.models.latent import LatentModel, Standardised, TwoStage, sample_latents
from jaxgen.nn import mlp
from jaxgen.train import latent_tasks
from jaxgen.train.runs import Row, Runs, TrainTask
from jaxgen.train.state import parameter_count

Vectors = Float[Array, "B D"]
System = (
    Any  # a pytree of this module or of a kind of data, with `encode`, `sample`, mostly `decode`
)
Shown = tuple[System, Mapping[str, Any]]


class Networks(Protocol):
    """How a kind of data is encoded and decoded: what tasks are made of."""

    def build(self, rngs: nnx.Rngs, *, predict_variance: bool) -> Any:
        """A fresh `LatentModel`, with the MLP `mlp` in it."""
        ...

    def inputs(self, batch: latent_tasks.Batch) -> PyTree:
        """What encoder and decoder see of a batch."""
        ...

    def auxiliary(self, model: Any, z: Vectors, batch: latent_tasks.Batch) -> dict[str, Array]:
        """Further losses of the autoencoder, by the names they are logged by."""
        ...

    @property
    def pretrained(self) -> latent_tasks.Pretrained | None:
        """Puts weights from files into a fresh model; None without files."""
        ...

    @property
    def frozen(self) -> tuple[str, ...]:
        """What is not trained; see `jaxgen.train.frozen`."""
        ...

    @property
    def rates(self) -> Mapping[str, float]:
        """What learns at a rate of its own; see `jaxgen.train.step.by_rate`."""
        ...

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of a batch, from the config alone."""
        ...


class Trained(NamedTuple):
    """A system of the comparison.

    Attributes:
      parameters: how many there are in its networks.
    """

    label: str
    system: System
    parameters: int


class Problem(Protocol):
    """One kind of data: its splits, networks, judges and report."""

    @property
    def config(self) -> Config:
        """Of the launch."""
        ...

    @property
    def runs(self) -> Runs:
        """Of the launch."""
        ...

    @property
    def networks(self) -> Networks:
        """For the data's shapes."""
        ...

    @staticmethod
    def check(config: Config) -> None:
        """Raises ConfigError for fields that cannot be, or not together."""
        ...

    @staticmethod
    def networks_of(config: Config) -> Networks:
        """From the config alone, for `--mode=compile`."""
        ...

    @classmethod
    def open(cls, config: Config, workdir: pathlib.Path, *, may_train: bool) -> "Problem":
        """Reads the data."""
        ...

    def train_judges(self) -> None:
        """Trains (or restores) what `evaluate` judges by."""
        ...

    def arrays(self) -> Mapping[str, np.ndarray | Pixels]:
        """What batches are made of."""
        ...

    def train_inputs(self) -> PyTree:
        """What encoders see of the train split."""
        ...

    def train_baseline(self, name: str, seed: int) -> Trained:
        """The one system that is peculiar to this kind of data."""
        ...

    def evaluate(self, trained: Trained, seed: int) -> tuple[Row, Mapping[str, Any]]:
        """The row of numbers of one system, and the samples and latents behind it."""
        ...

    def write_report(self, rows: Sequence[Row], shown: Mapping[str, Shown]) -> pathlib.Path:
        """Pictures and report; returns the report's path."""
        ...

    def save_samples(self, stem: pathlib.Path, x: np.ndarray) -> pathlib.Path:
        """New samples, as this kind of data is looked at; returns the path."""
        ...


def eddpm_task(config: Config, networks: Networks) -> TrainTask:
    """EDDPM."""
    return latent_tasks.eddpm_task(
        functools.partial(networks.build, predict_variance=False),
        chain_of(config),
        inputs=networks.inputs,
        auxiliary=networks.auxiliary,
        pretrained=networks.pretrained,
        frozen=networks.frozen,
        rates=networks.rates,
        **eddpm_options(config),
    )


def vae_task(config: Config, networks: Networks, beta: float, *, with_mlp: bool) -> TrainTask:
    """A VAE; `with_mlp` puts the MLP between z and the decoder, else it is left untrained.

    `vae.anneal_steps` and `vae.free_bits` are 0 for the two-stage autoencoder.
    """
    anneal, free_bits = (config.vae.anneal_steps, config.vae.free_bits) if with_mlp else (0, 0.0)
    return latent_tasks.vae_task(
        f"vae_beta{beta:g}" if with_mlp else "two_stage_autoencoder",
        functools.partial(networks.build, predict_variance=True),
        lambda step: beta * jnp.minimum(step / anneal, 1.0) if anneal else beta,
        free_bits=free_bits,
        latent=through_mlp if with_mlp else None,
        inputs=networks.inputs,
        auxiliary=networks.auxiliary,
        pretrained=networks.pretrained,
        frozen=networks.frozen,
        rates=networks.rates,
    )


def second_stage_task(config: Config) -> TrainTask:
    """The second stage of the two-stage model: DDPM on frozen, standardised latents."""
    return latent_tasks.latent_diffusion_task(
        functools.partial(build_mlp, config), chain_of(config), num_t=config.eddpm.num_t
    )


def build_mlp(config: Config, rngs: nnx.Rngs) -> mlp.MLPSkipNet:
    """The noise predictor alone."""
    o = denoiser_of(config)
    return mlp.MLPSkipNet(
        config.model.latent_dim,
        width=o["denoiser_width"],
        depth=o["denoiser_depth"],
        time_scale=o["time_scale"],
        dtype=o["dtype"],
        rngs=rngs,
    )


def through_mlp(model: Any, z: Vectors) -> Vectors:
    """What the VAE's decoder gets."""
    return z + model.mlp(z, jnp.zeros(z.shape[:1]))


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("model", "chain"), meta_fields=("sampler",)
)
@dataclasses.dataclass(frozen=True)
class LatentDiffusion:
    """A trained EDDPM, or a two-stage model."""

    model: Standardised | TwoStage
    chain: Schedule
    sampler: tuple[tuple[str, Any], ...]

    def encode(self, x: PyTree) -> Vectors:
        """Standardised latents."""
        return self.model.encode(x)

    def decode(self, z: Vectors) -> PyTree:
        """Of standardised latents."""
        return self.model.decode(z)

    def denoise(self, z: Vectors, t: Array) -> Vectors:
        """On standardised latents."""
        return self.model.denoise(z, t)

    def sample(self, key: Key[Array, ""], n: int) -> Vectors:
        """n latents by the chain."""
        return sample_latents(self.model, key, n, self.chain, **dict(self.sampler))

    def predict(self, x: PyTree) -> Float[Array, " B"]:
        """By the joint regressor, on latents as it was trained on."""
        if isinstance(self.model, TwoStage):
            first: Any = self.model.autoencoder
            return first.predict(first.encode(x))
        own: Any = self.model.model
        return own.predict(self.model.encode(x))


@functools.partial(jax.tree_util.register_dataclass, data_fields=("model",), meta_fields=())
@dataclasses.dataclass(frozen=True)
class VAE:
    """A trained VAE; its representation is the posterior mean."""

    model: Any

    def encode(self, x: PyTree) -> Vectors:
        """The posterior mean."""
        return self.model.encode(x)

    def decode(self, z: Vectors) -> PyTree:
        """Through the MLP."""
        return self.model.decode(through_mlp(self.model, z))

    def sample(self, key: Key[Array, ""], n: int) -> Vectors:
        """n latents of the prior."""
        return jax.random.normal(key, (n, self.model.latent_dim))

    def predict(self, x: PyTree) -> Float[Array, " B"]:
        """By the joint regressor."""
        return self.model.predict(self.model.encode(x))


def generate(system: System, key: Key[Array, ""], n: int) -> np.ndarray:
    """n new x, on the host."""
    drawn = system.sample(key, n)
    return batched_apply(decode, system, drawn) if hasattr(system, "decode") else np.asarray(drawn)


def latent_statistics(model: LatentModel, x: PyTree) -> tuple[Array, Array]:
    """Mean and standard deviation [D] of the latents of all rows of x."""
    z = batched_apply(encode, model, x)
    return jnp.asarray(z.mean(0)), jnp.asarray(np.maximum(z.std(0), 1e-3))


def standardised(config: Config, model: LatentModel, x: PyTree) -> Standardised:
    """A trained EDDPM, with the moments of all latents of x instead of running ones."""
    mean, std = latent_statistics(model, x)
    if config.model.latent_norm == "none":
        mean, std = jnp.zeros_like(mean), jnp.ones_like(std)
    return Standardised(model, mean, std)


def train(problem: Problem, name: str, seed: int) -> list[Trained]:
    """Trains (or restores) one entry of `config.systems`."""
    config, networks, runs = problem.config, problem.networks, problem.runs
    if name not in ("eddpm", "vae", "two_stage"):
        return [problem.train_baseline(name, seed)]
    arrays, x = problem.arrays(), problem.train_inputs()
    sampler = tuple(sampler_of(config).items())
    if name == "eddpm":
        model = runs.fit(eddpm_task(config, networks), seed, arrays)
        system = LatentDiffusion(standardised(config, model, x), chain_of(config), sampler)
        return [Trained("EDDPM", system, parameter_count(model))]
    if name == "vae":
        done = []
        for beta in config.vae.betas:
            task = vae_task(config, networks, beta, with_mlp=True)
            model = runs.fit(task, seed, arrays)
            done.append(Trained(f"VAE (beta {beta:g})", VAE(model), parameter_count(model)))
        return done
    task = vae_task(config, networks, config.two_stage.beta, with_mlp=False)
    model = runs.fit(task, seed, arrays)
    mean, std = latent_statistics(model, x)
    latents = batched_apply(encode, Standardised(model, mean, std), x)
    net = runs.fit(second_stage_task(config), seed, {"latent": latents})
    both = TwoStage(model, net, mean, std)
    system = LatentDiffusion(both, chain_of(config), sampler)
    return [Trained("two-stage", system, parameter_count(model))]
