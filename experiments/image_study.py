"""The study on images: networks, likelihoods, the pixel DDPM, the judge, and the three scores."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Key

from experiments import image_report, systems
from experiments.image_fields import NAMES, ImageShape, check, shape_in
from experiments.study import Study
from jaxgen.config import Config
from jaxgen.data import images
from jaxgen.diffusion import gaussian, schedule
from jaxgen.errors import ConfigError
from jaxgen.metrics import frechet, probes
from jaxgen.nn import conv, unet
from jaxgen.train import writers
from jaxgen.train.state import parameter_count, run_key

Images = Float[Array, "B H W C"]
__all__ = ["NAMES", "check"]  # parts of what `experiments.eddpm` asks of a kind of data


def load(config: Config, _: pathlib.Path) -> dict[str, images.Images]:
    """Train, valid and test images of `config.data`."""
    d = config.data
    data = images.load(
        d.source,
        name=d.name,
        path=d.path,
        size=d.size,
        channels=d.channels,
        valid_fraction=d.valid_fraction,
        test_fraction=d.test_fraction,
        limit=d.limit,
    )
    for split, part in data.items():
        if split != "valid" and len(part) < 10:
            raise ConfigError("data", len(part), f"at least 10 images in the {split} split")
    label = data["train"].label
    if label is None or len(np.unique(label)) < 2:
        raise ConfigError("data.source", d.source, "data with labels of two classes or more")
    return data


def shape_of(study: Study) -> ImageShape:
    """Of one image."""
    return study.data["train"].image.shape[1:]


def x_of(part: images.Images) -> Any:
    """What encoders and decoders see of a split."""
    return part.image


def train_arrays(study: Study) -> dict[str, Any]:
    """What batches are made of."""
    return {"image": study.data["train"].image}


def domain(study: Study) -> systems.Domain:
    """See `make_domain`."""
    return make_domain(study.config, shape_of(study))


def make_domain(config: Config, shape: ImageShape) -> systems.Domain:
    """Convolutional networks and a Gaussian, Bernoulli or diffusion decoder."""
    return systems.Domain(
        build=lambda predict_variance, rngs: Autoencoder(
            config, shape, predict_variance=predict_variance, rngs=rngs
        ),
        encode=lambda model, x: model.encoder(x),
        logprob=functools.partial(decode_logprob, config),
        decode=functools.partial(decoder, config, shape=shape),
        x=lambda batch: batch["image"],
    )


def abstract_domain(config: Config) -> tuple[systems.Domain, dict[str, Any]]:
    """The domain and the shapes of a batch, from the config alone, for `--mode=compile`."""
    shape = shape_in(config)
    image = jax.ShapeDtypeStruct((config.train.batch_size, *shape), jnp.float32)
    return make_domain(config, shape), {"image": image}


def train_baseline(study: Study, name: str, seed: int) -> list[tuple[str, Any, systems.Trained]]:
    """The pixel DDPM, the one system that is peculiar to images."""
    config, shape = study.config, shape_of(study)
    model = study.fit(ddpm_system(config, shape), seed, train_arrays(study))
    return [("DDPM (pixels)", model, trained_ddpm(config, shape, model))]


class Autoencoder(nnx.Module):
    """Encoder, decoder and the MLP of a study on images; see `systems`."""

    def __init__(
        self, config: Config, shape: ImageShape, *, predict_variance: bool, rngs: nnx.Rngs
    ):
        m = config.model
        dtype = systems.compute_dtype(config)
        latents = m.latent_dim * (2 if predict_variance else 1)
        self.encoder = conv.Encoder(
            shape,
            latents,
            width=m.width,
            blocks=m.blocks,
            out_bias=systems.encoder_bias(config, predict_variance),
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
        self.mlp = systems.build_mlp(config, rngs)


def decode_logprob(config: Config, model: Autoencoder, key: Key[Array, ""]) -> systems.Logprob:
    """log p(x|z) of the configured decoder, plus the optional MSE term; `key` as in `loss`."""
    m = config.model

    def logprob(x: Images, z: systems.Vectors) -> Float[Array, " B"]:
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


def _diffusion_logprob(net: Any, x: Images, z: systems.Vectors, key: Key[Array, ""]) -> Array:
    """-||eps - eps_theta(x_t, t, z)||^2 at one random t: the simple bound of the U-Net decoder."""
    chain = pixel_schedule()
    key_t, key_eps = jax.random.split(key)
    t = jax.random.randint(key_t, x.shape[:1], 1, chain.num_steps + 1)
    eps = jax.random.normal(key_eps, x.shape, x.dtype)
    x_t = gaussian.q_sample(2.0 * x - 1.0, t, eps, chain)
    return -gaussian.sum_trailing((eps - net(x_t, t, z)) ** 2)


def ddpm_system(config: Config, shape: ImageShape) -> systems.System:
    """DDPM on pixels, with the U-Net width whose parameter count is nearest to EDDPM's."""
    target = systems.eddpm_system(config, make_domain(config, shape))
    goal = parameter_count(jax.eval_shape(target.build, jax.random.key(0)))

    def build(key, width):
        return unet.UNet(
            shape,
            width=width,
            multipliers=tuple(config.ddpm.multipliers),
            dtype=systems.compute_dtype(config),
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

    return systems.System("ddpm", lambda key: build(key, width), loss)


def decoder(
    config: Config, model: Autoencoder, shape: ImageShape
) -> Callable[[systems.Vectors], Images]:
    """z -> image in [0, 1]: the decoder's mean, or one DDIM run of the U-Net from fixed noise."""
    from jaxgen.diffusion import samplers

    m = config.model
    chain = pixel_schedule()

    def decode(z: systems.Vectors) -> Images:
        if m.decoder == "diffusion":
            noise = jax.random.normal(jax.random.key(0), (z.shape[0], *shape))
            steps = min(config.sample.steps, chain.num_steps)
            x = samplers.ddim(lambda x, t: model.decoder(x, t, z), noise, chain, num_steps=steps)
            return jnp.clip(0.5 + 0.5 * x, 0.0, 1.0)
        out = model.decoder(z)
        return jnp.clip(jax.nn.sigmoid(out) if m.decoder == "bernoulli" else out, 0.0, 1.0)

    return decode


def trained_ddpm(config: Config, shape: ImageShape, model: unet.UNet) -> systems.Trained:
    """Its representation is x_T by DDIM inversion; decoding and generation are DDIM from there."""
    from jaxgen.diffusion import samplers

    chain = pixel_schedule()
    steps = min(config.sample.steps, chain.num_steps)

    def decode(z: Images) -> Images:
        x = samplers.ddim(model, z, chain, num_steps=steps)
        return jnp.clip(0.5 + 0.5 * x, 0.0, 1.0)

    def encode(x: Images) -> Images:
        return samplers.ddim_encode(model, 2.0 * x - 1.0, chain, num_steps=steps)

    return systems.Trained(
        encode=jax.jit(encode),
        decode=jax.jit(decode),
        sample=lambda key, n: jax.random.normal(key, (n, *shape)),
    )


class Classifier(nnx.Module):
    """Judge of samples: its features carry the Frechet distance. Never sees a generated image."""

    def __init__(self, config: Config, shape: ImageShape, classes: int, rngs: nnx.Rngs):
        c = config.classifier
        self.encoder = conv.Encoder(shape, c.features, width=c.width, rngs=rngs)
        self.out = nnx.Linear(c.features, classes, rngs=rngs)

    def features(self, x: Any) -> Any:
        return jax.nn.silu(self.encoder(x))

    def __call__(self, x: Any) -> Any:
        return self.out(self.features(x))


def train_classifier(study: Study) -> Classifier:
    """Trained on the train split with noise and smoothed labels; one for all systems and seeds.

    Smoothing bounds its logits, so that its features do not grow on the images it was trained on.
    """
    train = study.data["train"]
    classes = int(train.label.max()) + 1
    c = study.config.classifier

    def loss(model, extra, batch, key, _):
        x = batch["image"]
        logits = model(x + c.noise * jax.random.normal(key, x.shape))
        soft = optax.smooth_labels(jax.nn.one_hot(batch["label"], classes), c.label_smoothing)
        value = optax.softmax_cross_entropy(logits, soft).mean()
        accuracy = (logits.argmax(-1) == batch["label"]).mean()
        return value, ({"accuracy": accuracy}, extra)

    system = systems.System(
        "classifier",
        lambda key: Classifier(study.config, shape_of(study), classes, nnx.Rngs(key)),
        loss,
    )
    arrays = {"image": train.image, "label": train.label}
    return study.fit(system, 0, arrays, steps=c.steps, learning_rate=c.learning_rate)


@dataclasses.dataclass(frozen=True)
class Judge:
    """Fixed features of real images, to measure systems against."""

    classifier: Classifier
    features: Any
    real_train: Any
    real_test: Any

    @classmethod
    def train(cls, study: Study) -> "Judge":
        """Trains the classifier, or restores it."""
        classifier = train_classifier(study)
        features = functools.partial(systems.in_batches, jax.jit(classifier.features))
        train, test = study.data["train"].image, study.data["test"].image
        return cls(classifier, features, features(train), features(test))

    @property
    def floor(self) -> float:
        """Frechet distance between the two real splits."""
        return frechet.frechet_distance(self.real_train, self.real_test)


def evaluate(
    study: Study, judge: Judge, label: str, model: Any, t: systems.Trained, seed: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """The row of numbers of one trained system, and the samples and latents behind it."""
    config, train, test = study.config, study.data["train"], study.data["test"]
    assert t.decode is not None
    z_train = systems.in_batches(t.encode, train.image)
    z_test = systems.in_batches(t.encode, test.image)
    restored = systems.in_batches(t.decode, z_test)
    samples = t.generate(run_key(f"samples-{label}-{seed}"), config.sample.count)
    features = judge.features(samples)
    flat_train, flat_test = z_train.reshape(len(train), -1), z_test.reshape(len(test), -1)
    assert train.label is not None
    assert test.label is not None
    accuracy, probe = probes.linear_probe(flat_train, train.label, flat_test, test.label)
    row = {
        "parameters": parameter_count(model),
        "reconstruction_mse": float(np.mean((restored - test.image) ** 2)),
        "frechet_test": frechet.frechet_distance(features, judge.real_test),
        "frechet_train": frechet.frechet_distance(features, judge.real_train),
        "probe_accuracy": accuracy,
        "knn_accuracy": probes.knn_accuracy(flat_train, train.label, flat_test, test.label),
        "nearest_train_mse": nearest_mse(samples[:500], train.image),
        "latent_std": float(flat_train.std(0).mean()),
    }
    return row, {"samples": samples, "restored": restored, "z_train": flat_train, "probe": probe}


def nearest_mse(a: Any, b: Any) -> float:
    """Mean over a of the mean squared pixel difference to its nearest image in b."""
    a, b = a.reshape(len(a), -1).astype(np.float64), b.reshape(len(b), -1).astype(np.float64)
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * a @ b.T
    return float(np.maximum(squared.min(1), 0.0).mean() / a.shape[1])


def real_numbers(study: Study, judge: Judge) -> dict[str, float]:
    """What the measures give on real images: floors and ceilings."""
    train, test = study.data["train"], study.data["test"]
    return {
        "frechet_floor": judge.floor,
        "nearest_train_mse": nearest_mse(test.image, train.image),
        "classifier_accuracy": float(
            (np.asarray(judge.classifier(test.image)).argmax(-1) == test.label).mean()
        ),
    }


def write(
    study: Study,
    judge: Judge,
    rows: Sequence[Mapping[str, Any]],
    shown: Mapping[str, tuple[systems.Trained, Mapping[str, Any]]],
) -> pathlib.Path:
    """Pictures and report; returns the report's path."""
    real = real_numbers(study, judge)
    rules = image_report.floor_rows(study.data, judge, real)
    return image_report.write(study.config, study.workdir, study.data, rows, shown, real, rules)


def save_samples(study: Study, stem: pathlib.Path, x: Any) -> pathlib.Path:
    """New samples as a grid and as numbers; returns the path to look at."""
    writers.save_png(stem.with_suffix(".png"), writers.image_grid(x[:100], 10))
    np.savez_compressed(stem.with_suffix(".npz"), samples=x)
    return stem.with_suffix(".png")
