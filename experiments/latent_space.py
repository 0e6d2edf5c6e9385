"""A text latent space with its prior and its operators: what `experiments.latentops` works in."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from experiments import attributes, sequence_study, systems
from experiments.sequence_data import Part
from experiments.study import Study
from jaxgen.config import Config
from jaxgen.latent_ode import energy
from jaxgen.losses import vae
from jaxgen.nn import mlp
from jaxgen.text import masking
from jaxgen.train.state import run_key

KINDS = ("vae", "eddpm")


def vae_system(config: Config, domain: systems.Domain, pad: int) -> systems.System:
    """A text VAE with cyclical beta and free bits (Li et al., 2020, Optimus).

    With `vae.token_deletion_rate` it reads sentences with words missing and writes them whole (Shen et al., 2020).
    """
    c = config.vae
    period = -(-config.train.steps // c.cycles)

    def loss(model, extra, batch, key, step):
        key_loss, key_decoder, key_delete = jax.random.split(key, 3)

        def posterior(x):
            if c.token_deletion_rate:
                source = masking.delete_tokens(
                    x["source"], key_delete, rate=c.token_deletion_rate, pad=pad
                )
                x = x | {"source": source}
            return domain.posterior(model, x)

        value, aux = vae.loss(
            posterior,
            domain.logprob(model, key_decoder),
            domain.x(batch),
            key_loss,
            beta=c.beta * vae.cyclical_beta(step, period=period),
            free_bits=c.free_bits,
        )
        return value, (aux, extra)

    def build(key: Key[Array, ""]) -> Any:
        return domain.build(True, nnx.Rngs(key))

    return systems.System("vae", build, loss, pretrained=domain.pretrained)


@dataclasses.dataclass(frozen=True)
class Space:
    """Latents u in coordinates where those of the train split have mean 0 and covariance I.

    Attributes:
      encode: tokens of a split -> u [B, D], jitted.
      decode: u -> target ids, jitted.
      draw: (key, n) -> u from the prior, jitted.
    """

    name: str
    encode: Callable[[Any], Float[Array, "B D"]]
    decode: Callable[[Float[Array, "B D"]], Any]
    draw: Callable[[Key[Array, ""], int], Float[Array, "n D"]]

    def texts(self, u: Any, train: Part) -> list[str]:
        """Greedy decoding of latents, as text."""
        if not len(u):
            return []
        return train.vocabulary.decode(systems.in_batches(self.decode, u))  # type: ignore[misc]


def train_space(study: Study, kind: str, seed: int) -> Space:
    """Trains (or restores) an autoencoder and fits its prior.

    The VAE's prior is a GAN on its latents or a Gaussian, as `prior.kind` says; EDDPM has its own
    diffusion.
    """
    from jaxgen.latent_ode import priors

    config, train = study.config, study.data["train"]
    domain, arrays = sequence_study.domain(study), sequence_study.train_arrays(study)
    raw: Callable[[Any], Array]
    if kind == "vae":
        model = study.fit(vae_system(config, domain, train.vocabulary.source_pad), seed, arrays)
        raw = jax.jit(lambda x: domain.posterior(model, x)[0])
    else:
        model = study.fit(systems.eddpm_system(config, domain), seed, arrays)
        raw = systems.trained_eddpm(config, domain, model, train.x).encode
    z = jnp.asarray(systems.in_batches(raw, train.x))
    fit = priors.Gaussian.fit(z)
    decode = domain.decode(model)
    if kind == "eddpm":
        chain = systems.latent_sampler(config, model.mlp)
        draw = jax.jit(lambda key, n: fit.whiten(chain(key, n)), static_argnums=1)
    elif config.prior.kind == "gan":
        fit_gan = jax.jit(lambda u, k: priors.fit_gan(u, k, steps=config.prior.gan_steps)[0])
        generator = fit_gan(fit.whiten(z), run_key(f"gan-{seed}"))
        draw = jax.jit(lambda key, n: priors.generate(generator, key, n), static_argnums=1)
    else:
        draw = jax.jit(lambda key, n: jax.random.normal(key, (n, z.shape[1])), static_argnums=1)
    return Space(
        kind,
        jax.jit(lambda x: fit.whiten(raw(x))),
        jax.jit(lambda u: decode(fit.unwhiten(u))),
        draw,
    )


class Heads(nnx.Module):
    """One MLP for each attribute, and one for the keywords."""

    def __init__(self, config: Config, words: int, rngs: nnx.Rngs):
        o, dim = config.operators, config.model.latent_dim
        sizes = {name: len(attributes.LABELS[name]) for name in attributes.names(config)}
        if words:
            sizes["keywords"] = words
        self.nets = nnx.Dict(
            {n: mlp.MLP(dim, k, width=o.width, depth=o.depth, rngs=rngs) for n, k in sizes.items()}
        )


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("heads", "directions"),
    meta_fields=("words",),
)
@dataclasses.dataclass(frozen=True)
class Operators:
    """Trained heads on a space, with the words that the keyword head knows; a pytree.

    Attributes:
      directions: {attribute: [K, D] mean latent of each label less the mean of the others}, for the
        linear-shift baseline.
    """

    heads: Heads
    words: tuple[str, ...]
    directions: dict[str, Any]

    def get(self, name: str) -> energy.Operator:
        """The operator of an attribute, or `keywords`."""
        net = self.heads.nets[name]
        if name == "keywords":
            return energy.keywords(net, self.words, name=name, dim=net.dim)
        return energy.classifier(net, attributes.LABELS[name], name=name, dim=net.dim)


def known_cross_entropy(logits: Float[Array, "B K"], y: Int[Array, " B"]) -> Float[Array, ""]:
    """Mean over the rows that have a label."""
    known = y != attributes.UNKNOWN
    each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(y, 0))
    return jnp.where(known, each, 0.0).sum() / jnp.maximum(known.sum(), 1)


def train_operators(study: Study, space: Space, seed: int) -> Operators:
    """Trains the heads on noisy latents of the operators' half of the train split.

    The noise makes the energies smooth where the ODE travels, off the encoded points.
    """
    config, train = study.config, study.data["train"]
    o = config.operators
    mine, _ = attributes.disjoint_halves(len(train))
    texts = [train.text[i] for i in mine]
    u = systems.in_batches(space.encode, {k: a[mine] for k, a in train.x.items()})
    truth = {k: a[mine] for k, a in attributes.label(config, train).items()}
    words = attributes.frequent_words(texts, o.keywords) if o.keywords else ()
    arrays = {"u": u, **truth}
    if words:
        arrays["keywords"] = attributes.occurrences(texts, words)

    def loss(model, extra, batch, key, step):
        noisy = batch["u"] + o.noise * jax.random.normal(key, batch["u"].shape)
        total, aux = jnp.zeros(()), {}
        for name, net in model.nets.items():
            logits, y = net(noisy), batch[name]
            if name == "keywords":
                # Words are rare: the sum over words keeps their gradient in proportion.
                value = optax.sigmoid_binary_cross_entropy(logits, y).sum(-1).mean()
            else:
                value = known_cross_entropy(logits, y)
                hit = (logits.argmax(-1) == y).sum()
                aux[f"{name}_accuracy"] = hit / jnp.maximum((y != attributes.UNKNOWN).sum(), 1)
            total = total + value
        return total, (aux, extra)

    system = systems.System(
        f"operators_{space.name}", lambda key: Heads(config, len(words), nnx.Rngs(key)), loss
    )
    heads = study.fit(system, seed, arrays, steps=o.steps, learning_rate=o.learning_rate)
    directions = {}
    for name, y in truth.items():
        labels = range(len(attributes.LABELS[name]))
        known = y != attributes.UNKNOWN
        directions[name] = np.stack(
            [u[y == k].mean(0) - u[known & (y != k)].mean(0) for k in labels]
        )
    return Operators(heads, words, directions)
