"""A text latent space with its prior and its operators."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from experiments.common import attributes as attribute_fields
from experiments.common.latent import chain_of, eddpm_options, sampler_of
from experiments.common.text_model import build_autoencoder, load_pretrained, pretrained_rates
from jaxgen.config import Config
from jaxgen.data.tokens import TextSplit, TokenShape
from jaxgen.evaluators import attributes
from jaxgen.evaluators.common import batched_apply, decode, encode
from jaxgen.latent_ode import priors
from jaxgen.losses import vae
from jaxgen.models.attribute_heads import KEYWORDS, AttributeHeads, Operators, mean_directions
from jaxgen.models.latent import LatentModel, Standardised, sample_latents
from jaxgen.nn import mlp
from jaxgen.text.masking import delete_tokens
from jaxgen.train import latent_tasks
from jaxgen.train.runs import Runs, TrainTask
from jaxgen.train.state import run_key

KINDS = ("vae", "eddpm")
Vectors = Float[Array, "B D"]


def vae_task(config: Config, shape: TokenShape) -> TrainTask:
    """A text VAE with cyclical beta and free bits (Li et al., 2020, Optimus).

    With `vae.token_deletion_rate` it reads sentences with words missing and writes them whole (Shen et al., 2020).
    """
    c = config.vae
    period = -(-config.train.steps // c.cycles)

    def posterior(model: Any, x: Any, key: Key[Array, ""]) -> tuple[Vectors, Vectors]:
        if c.token_deletion_rate:
            rate, pad = c.token_deletion_rate, shape.source_pad
            x = x | {"source": delete_tokens(x["source"], key, rate=rate, pad=pad)}
        return model.posterior(x)

    return latent_tasks.vae_task(
        "vae",
        functools.partial(_build, config, shape, predict_variance=True),
        lambda step: c.beta * vae.cyclical_beta(step, period=period),
        free_bits=c.free_bits,
        posterior=posterior,
        pretrained=load_pretrained(config),
        frozen=tuple(config.model.frozen),
        rates=pretrained_rates(config),
    )


def eddpm_task(config: Config, shape: TokenShape) -> TrainTask:
    """EDDPM."""
    return latent_tasks.eddpm_task(
        functools.partial(_build, config, shape, predict_variance=False),
        chain_of(config),
        pretrained=load_pretrained(config),
        frozen=tuple(config.model.frozen),
        rates=pretrained_rates(config),
        **eddpm_options(config),
    )


def _build(config: Config, shape: TokenShape, rngs: nnx.Rngs, *, predict_variance: bool) -> Any:
    return build_autoencoder(config, shape, rngs, predict_variance=predict_variance)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("model", "whitening", "prior"),
    meta_fields=("name", "sampler"),
)
@dataclasses.dataclass(frozen=True)
class Space:
    """Latents u in coordinates where those of the train split have mean 0 and covariance I.

    Attributes:
      prior: a GAN's generator or EDDPM's chain; None for a standard normal distribution.
    """

    name: str
    model: LatentModel
    whitening: priors.Gaussian
    prior: Any
    sampler: tuple[tuple[str, Any], ...] = ()

    def encode(self, x: Any) -> Vectors:
        """Tokens -> u."""
        return self.whitening.whiten(self.model.encode(x))

    def decode(self, u: Vectors) -> Any:
        """u -> target ids, greedily."""
        return self.model.decode(self.whitening.unwhiten(u))

    @functools.partial(jax.jit, static_argnums=2)
    def draw(self, key: Key[Array, ""], n: int) -> Vectors:
        """n u from the prior."""
        if self.prior is None:
            return jax.random.normal(key, (n, self.model.latent_dim))
        if isinstance(self.prior, mlp.MLP):
            return priors.generate(self.prior, key, n)
        z = sample_latents(self.model, key, n, self.prior, **dict(self.sampler))
        return self.whitening.whiten(z)

    def texts(self, u: Any, train: TextSplit) -> list[str]:
        """Greedy decoding of latents, as text."""
        return train.vocabulary.decode(batched_apply(decode, self, u)) if len(u) else []


def train_space(
    config: Config, runs: Runs, train: TextSplit, kind: str, seed: int
) -> tuple[Space, Vectors]:
    """Trains (or restores) an autoencoder and fits its prior; the space, and u of the train split.

    The VAE's prior is a GAN on its latents or a Gaussian, as `prior.kind` says; EDDPM has its own
    diffusion.
    """
    task = (vae_task if kind == "vae" else eddpm_task)(config, train.vocabulary)
    model = runs.fit(task, seed, train.x)
    latents = batched_apply(encode, model, train.x)  # once: a pretrained encoder takes a while
    if kind == "eddpm" and config.model.latent_norm == "running":
        mean, std = latents.mean(0), np.maximum(latents.std(0), 1e-3)
        model = Standardised(model, jnp.asarray(mean), jnp.asarray(std))
        latents = (latents - mean) / std
    fit = priors.Gaussian.fit(jnp.asarray(latents))
    u = fit.whiten(jnp.asarray(latents))
    prior: Any = None
    if kind == "eddpm":
        prior = chain_of(config)
    elif config.prior.kind == "gan":
        gan = jax.jit(lambda u, k: priors.fit_gan(u, k, steps=config.prior.gan_steps)[0])
        prior = gan(u, run_key(f"gan-{seed}"))
    return Space(kind, model, fit, prior, tuple(sampler_of(config).items())), u


def operators_task(config: Config, name: str, words: int) -> TrainTask:
    """The heads of `config.operators`, trained on latents `u` with labels by attribute."""
    o = config.operators
    sizes = {n: len(attributes.LABELS[n]) for n in attribute_fields.names(config)}
    if words:
        sizes[KEYWORDS] = words

    def build(key: Key[Array, ""]) -> AttributeHeads:
        dim, rngs = config.model.latent_dim, nnx.Rngs(key)
        return AttributeHeads(dim, sizes, width=o.width, depth=o.depth, rngs=rngs)

    def loss(model: AttributeHeads, extra: Any, batch: Any, key: Any, step: Any) -> Any:
        value, accuracy = model.loss(batch["u"], batch, key, noise=o.noise)
        return value, (accuracy, extra)

    return TrainTask(f"operators_{name}", build, loss)


def train_operators(
    config: Config, runs: Runs, train: TextSplit, name: str, latents: Vectors, seed: int
) -> Operators:
    """Trains a space's heads on noisy latents of the operators' half of the train split.

    Args:
      name: of the space.
      latents: u of the whole split.
    """
    o = config.operators
    mine, _ = attributes.disjoint_halves(len(train))
    texts = [train.text[i] for i in mine]
    u = np.asarray(latents)[mine]
    truth = {k: a[mine] for k, a in attribute_fields.label(config, train).items()}
    words = attributes.frequent_words(texts, o.keywords) if o.keywords else ()
    arrays = {"u": u, **truth}
    if words:
        arrays[KEYWORDS] = attributes.occurrences(texts, words)
    task = operators_task(config, name, len(words))
    heads = runs.fit(task, seed, arrays, steps=o.steps, learning_rate=o.learning_rate)
    labels = tuple((name, tuple(attributes.LABELS[name])) for name in truth)
    directions = {n: mean_directions(u, y, len(attributes.LABELS[n])) for n, y in truth.items()}
    return Operators(heads, directions, labels, words)
