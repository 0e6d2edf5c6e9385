"""A classifier as judge of images: its features carry the Frechet distance. It never sees a generated image."""

import dataclasses

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.data.images import Images
from jaxgen.data.pixels import Pixels
from jaxgen.evaluators.common import batched_apply
from jaxgen.metrics import frechet
from jaxgen.models.image_autoencoder import ImageShape
from jaxgen.nn import conv
from jaxgen.train.runs import Runs, TrainTask


class Classifier(nnx.Module):
    """Convolutional encoder and a linear layer."""

    def __init__(
        self, shape: ImageShape, classes: int, *, width: int, features: int, rngs: nnx.Rngs
    ):
        """Args:
        shape: (H, W, C).
        width: channels at full resolution.
        features: numbers that an image is described by.
        """
        self.encoder = conv.Encoder(shape, features, width=width, rngs=rngs)
        self.out = nnx.Linear(features, classes, rngs=rngs)

    def features(self, x: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
        """What the last layer reads."""
        return jax.nn.silu(self.encoder(x))

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B K"]:
        """Logits."""
        return self.out(self.features(x))


@jax.jit
def _features(model: Classifier, x: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
    return model.features(x)


@jax.jit
def _logits(model: Classifier, x: Float[Array, "B H W C"]) -> Float[Array, "B K"]:
    return model(x)


@dataclasses.dataclass(frozen=True)
class ClassifierOptions:
    """Size and training of a classifier; `noise` is the std of what is added to its training images."""

    width: int
    features: int
    steps: int
    learning_rate: float
    noise: float
    label_smoothing: float


def classifier_task(options: ClassifierOptions, shape: ImageShape, classes: int) -> TrainTask:
    """Trains on noisy images and smoothed labels; batches have `image` and `label`.

    Smoothing bounds its logits, so that its features do not grow on the images it was trained on.
    """
    o = options

    def build(key: Key[Array, ""]) -> Classifier:
        return Classifier(shape, classes, width=o.width, features=o.features, rngs=nnx.Rngs(key))

    def loss(
        model: Classifier, extra: PyTree, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        x = batch["image"]
        logits = model(x + o.noise * jax.random.normal(key, x.shape))
        soft = optax.smooth_labels(jax.nn.one_hot(batch["label"], classes), o.label_smoothing)
        value = optax.softmax_cross_entropy(logits, soft).mean()
        accuracy = (logits.argmax(-1) == batch["label"]).mean()
        return value, ({"accuracy": accuracy}, extra)

    return TrainTask("classifier", build, loss)


@dataclasses.dataclass(frozen=True)
class ImageClassifier:
    """A trained classifier, and its features of real images, to measure systems against."""

    classifier: Classifier
    real_train: Float[np.ndarray, "N F"]
    real_test: Float[np.ndarray, "M F"]

    @classmethod
    def train(
        cls, runs: Runs, options: ClassifierOptions, train: Images, test: Images
    ) -> "ImageClassifier":
        """Trains the classifier on the train split, or restores it; one for all systems and seeds.

        Raises:
          ValueError: images without labels.
        """
        if train.label is None:
            raise ValueError("label is None, allowed: train images with labels")
        task = classifier_task(options, train.image.shape[1:], int(train.label.max()) + 1)
        arrays = {"image": train.image, "label": train.label}
        o = options
        model = runs.fit(task, 0, arrays, steps=o.steps, learning_rate=o.learning_rate)
        real = [batched_apply(_features, model, part.image) for part in (train, test)]
        return cls(model, *real)

    def features(self, images: Float[np.ndarray, "N H W C"] | Pixels) -> Float[np.ndarray, "N F"]:
        """Of any images."""
        return batched_apply(_features, self.classifier, images)

    def logits(self, images: Float[np.ndarray, "N H W C"] | Pixels) -> Float[np.ndarray, "N K"]:
        """Of any images."""
        return batched_apply(_logits, self.classifier, images)

    @property
    def floor(self) -> float:
        """Frechet distance between the two real splits."""
        return frechet.frechet_distance(self.real_train, self.real_test)
