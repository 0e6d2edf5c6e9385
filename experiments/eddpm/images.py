"""The study on images: networks, the pixel DDPM, the judge, and the three scores."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from experiments.common.latent import denoiser_of
from experiments.common.runs import open_study
from experiments.eddpm import image_fields, image_report
from experiments.eddpm.systems import Networks, Shown, Trained, eddpm_task, generate
from jaxgen.config import Config
from jaxgen.data import idx, images, splits
from jaxgen.data.pixels import Pixels
from jaxgen.diffusion import gaussian
from jaxgen.errors import ConfigError
from jaxgen.evaluators.common import batched_apply, decode, encode
from jaxgen.evaluators.image_classifier import ClassifierOptions, ImageClassifier
from jaxgen.metrics import frechet, probes
from jaxgen.models.image_autoencoder import ImageAutoencoder, Images, ImageShape, pixel_chain
from jaxgen.nn import unet
from jaxgen.train import writers
from jaxgen.train.latent_tasks import Batch, Pretrained
from jaxgen.train.runs import Row, Runs, TrainTask
from jaxgen.train.state import parameter_count, run_key

Data = dict[str, images.Images]


@dataclasses.dataclass(frozen=True)
class ImageNetworks:
    """Convolutional networks and a Gaussian, Bernoulli or diffusion decoder; see `systems.Networks`."""

    config: Config
    shape: ImageShape
    pretrained: Pretrained | None = None
    frozen: tuple[str, ...] = ()
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def build(self, rngs: nnx.Rngs, *, predict_variance: bool) -> ImageAutoencoder:
        """The autoencoder of `config.model`."""
        m = self.config.model
        return ImageAutoencoder(
            self.shape,
            latent_dim=m.latent_dim,
            width=m.width,
            blocks=m.blocks,
            decoder=m.decoder,
            decoder_std=m.decoder_std,
            decode_steps=self.config.sample.steps,
            mse_weight=self.config.eddpm.mse_weight,
            predict_variance=predict_variance,
            encoder_bias=predict_variance or m.latent_norm == "none",
            rngs=rngs,
            **denoiser_of(self.config),
        )

    def inputs(self, batch: Batch) -> Images:
        """The images."""
        return batch["image"]

    def auxiliary(self, model: Any, z: Array, batch: Batch) -> dict[str, Array]:
        """None."""
        return {}

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of a batch, from the config alone."""
        shape = (self.config.train.batch_size, *self.shape)
        return {"image": jax.ShapeDtypeStruct(shape, jnp.float32)}


def load(config: Config, _: pathlib.Path) -> Data:
    """Train, valid and test images of `config.data`."""
    d = config.data
    if d.source == "idx":
        data = idx.load_splits(d.path, valid_fraction=d.valid_fraction, limit=d.limit)
    else:
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
    shape, wanted = data["train"].image.shape[1:], image_fields.shape_in(config)
    if shape != wanted:
        raise ConfigError("data.source", shape, f"images of {wanted}, of source {d.source}")
    label = data["train"].label
    if label is None or len(np.unique(label)) < 2:
        raise ConfigError("data.source", d.source, "data with labels of two classes or more")
    return data


def ddpm_task(config: Config, networks: Networks, shape: ImageShape) -> TrainTask:
    """DDPM on pixels, with the U-Net width whose parameter count is nearest to EDDPM's."""
    target = eddpm_task(config, networks)
    goal = parameter_count(jax.eval_shape(target.build, jax.random.key(0)))

    def build(key: Key[Array, ""], width: int) -> unet.UNet:
        return unet.UNet(
            shape,
            width=width,
            multipliers=tuple(config.ddpm.multipliers),
            dtype=denoiser_of(config)["dtype"],
            rngs=nnx.Rngs(key),
        )

    def count(width: int) -> int:
        return parameter_count(jax.eval_shape(lambda k: build(k, width), jax.random.key(0)))

    # The count grows about as the square of the width.
    guess = round(16 * (goal / count(16)) ** 0.5 / 4) * 4
    near = [max(4, w) for w in (guess - 4, guess, guess + 4)]
    width = min(near, key=lambda w: abs(count(w) - goal))
    chain = pixel_chain()

    def loss(
        model: unet.UNet, extra: PyTree, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        value, aux = gaussian.loss(model, 2.0 * batch["image"] - 1.0, key, chain)
        return value, (aux, extra)

    return TrainTask("ddpm", lambda key: build(key, width), loss)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("net",), meta_fields=("shape", "steps")
)
@dataclasses.dataclass(frozen=True)
class PixelDDPM:
    """A trained DDPM; its representation is x_T by DDIM inversion, and it decodes from there."""

    net: unet.UNet
    shape: ImageShape
    steps: int

    def encode(self, x: Images) -> Images:
        """x_T."""
        from jaxgen.diffusion import samplers

        steps = min(self.steps, pixel_chain().num_steps)
        return samplers.ddim_encode(self.net, 2.0 * x - 1.0, pixel_chain(), num_steps=steps)

    def decode(self, z: Images) -> Images:
        """The image at the end of DDIM."""
        from jaxgen.diffusion import samplers

        steps = min(self.steps, pixel_chain().num_steps)
        x = samplers.ddim(self.net, z, pixel_chain(), num_steps=steps)
        return jnp.clip(0.5 + 0.5 * x, 0.0, 1.0)

    def sample(self, key: Key[Array, ""], n: int) -> Images:
        """n draws of x_T."""
        return jax.random.normal(key, (n, *self.shape))


@dataclasses.dataclass
class ImageProblem:
    """A study on images; see `systems.Problem`."""

    config: Config
    runs: Runs
    data: Data
    networks: Networks
    judge: ImageClassifier = dataclasses.field(init=False)

    @staticmethod
    def check(config: Config) -> None:
        """Raises ConfigError for fields that cannot be, or not together."""
        image_fields.check(config)

    @staticmethod
    def networks_of(config: Config) -> ImageNetworks:
        """From the config alone."""
        return ImageNetworks(config, image_fields.shape_in(config))

    @classmethod
    def open(cls, config: Config, workdir: pathlib.Path, *, may_train: bool) -> "ImageProblem":
        """Reads the images."""
        opened = open_study(config, workdir, load, may_train=may_train)
        shape = opened.data["train"].image.shape[1:]
        return cls(config, opened.runs, opened.data, ImageNetworks(config, shape))

    def train_judges(self) -> None:
        """The classifier of `config.classifier`."""
        c = self.config.classifier
        options = ClassifierOptions(
            c.width, c.features, c.steps, c.learning_rate, c.noise, c.label_smoothing
        )
        self.judge = ImageClassifier.train(
            self.runs, options, self.data["train"], self.data["test"]
        )

    def arrays(self) -> Mapping[str, np.ndarray | Pixels]:
        """What batches are made of."""
        return {"image": self.data["train"].image}

    def train_inputs(self) -> Float[np.ndarray, "N H W C"] | Pixels:
        """The train images."""
        return self.data["train"].image

    def train_baseline(self, name: str, seed: int) -> Trained:
        """The pixel DDPM."""
        shape = self.data["train"].image.shape[1:]
        task = ddpm_task(self.config, self.networks, shape)
        net = self.runs.fit(task, seed, self.arrays())
        system = PixelDDPM(net, shape, self.config.sample.steps)
        return Trained("DDPM (pixels)", system, parameter_count(net))

    def evaluate(self, trained: Trained, seed: int) -> tuple[Row, Mapping[str, Any]]:
        """Reconstruction, samples, and probes of the representation."""
        system, train, test = trained.system, self.data["train"], self.data["test"]
        c = self.config.classifier
        probed = splits.balanced(len(train), c.probe_rows, train.label)
        tested = splits.spread(len(test), c.test_rows, test.label)
        originals = test.image[tested]
        z_train = batched_apply(encode, system, train.image[probed])
        z_test = batched_apply(encode, system, originals)
        restored = batched_apply(decode, system, z_test)
        key = run_key(f"samples-{trained.label}-{seed}")
        samples = generate(system, key, self.config.sample.count)
        features = self.judge.features(samples)
        flat_train, flat_test = z_train.reshape(len(probed), -1), z_test.reshape(len(tested), -1)
        labels = (np.asarray(train.label)[probed], np.asarray(test.label)[tested])
        accuracy, probe = probes.linear_probe(flat_train, labels[0], flat_test, labels[1])
        row = {
            "parameters": trained.parameters,
            "reconstruction_mse": float(np.mean((restored - originals) ** 2)),
            "frechet_test": frechet.frechet_distance(features, self.judge.real_test),
            "frechet_train": frechet.frechet_distance(features, self.judge.real_train),
            "probe_accuracy": accuracy,
            "knn_accuracy": probes.knn_accuracy(flat_train, labels[0], flat_test, labels[1]),
            "nearest_train_mse": nearest_mse(samples[:500], train.image),
            "latent_std": float(flat_train.std(0).mean()),
        }
        shown = {"samples": samples, "z_train": flat_train, "y_train": labels[0], "probe": probe}
        shown |= {"originals": originals[:24], "restored": restored[:24]}
        return row, shown

    def real_numbers(self) -> dict[str, float]:
        """What the measures give on real images: floors and ceilings."""
        train, test = self.data["train"], self.data["test"]
        guess = self.judge.logits(test.image).argmax(-1)
        return {
            "frechet_floor": self.judge.floor,
            "nearest_train_mse": nearest_mse(test.image[:500], train.image),
            "classifier_accuracy": float((guess == test.label).mean()),
        }

    def write_report(self, rows: Sequence[Row], shown: Mapping[str, Shown]) -> pathlib.Path:
        """Pictures and report; returns the report's path."""
        real = self.real_numbers()
        rules = image_report.floor_rows(self.data, self.judge, real)
        workdir = self.runs.workdir
        return image_report.write(self.config, workdir, self.data, rows, shown, real, rules)

    def save_samples(self, stem: pathlib.Path, x: np.ndarray) -> pathlib.Path:
        """New samples as a grid and as numbers; returns the path to look at."""
        writers.save_png(stem.with_suffix(".png"), writers.image_grid(x[:100], 10))
        np.savez_compressed(stem.with_suffix(".npz"), samples=x)
        return stem.with_suffix(".png")


def nearest_mse(a: np.ndarray, b: np.ndarray | Pixels, *, rows: int = 5000) -> float:
    """Mean over a of the mean squared pixel difference to its nearest image in b; `rows` of b at a time."""
    a = a.reshape(len(a), -1).astype(np.float64)
    norms, nearest = (a**2).sum(1), np.full(len(a), np.inf)
    for start in range(0, len(b), rows):
        some = b[start : start + rows].reshape(-1, a.shape[1]).astype(np.float64)
        squared = norms[:, None] + (some**2).sum(1) - 2.0 * a @ some.T
        nearest = np.minimum(nearest, squared.min(1))
    return float(np.maximum(nearest, 0.0).mean() / a.shape[1])
