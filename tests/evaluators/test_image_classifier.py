"""The judge of images: it learns the classes, and its features carry the Frechet distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import mesh as mesh_lib
from jaxgen.data.images import Images
from jaxgen.evaluators.image_classifier import (
    ClassifierOptions,
    ImageClassifier,
    classifier_task,
)
from jaxgen.metrics import frechet
from jaxgen.train.runs import Runs, TrainOptions

OPTIONS = ClassifierOptions(
    width=4, features=6, steps=60, learning_rate=1e-2, noise=0.1, label_smoothing=0.1
)


def pictures(count, seed):
    """Bright on the left or on the right."""
    rng = np.random.default_rng(seed)
    label = (np.arange(count) % 2).astype(np.int32)
    image = 0.2 * rng.random((count, 8, 8, 1)).astype(np.float32)
    image[label == 0, :, :4] += 0.7
    image[label == 1, :, 4:] += 0.7
    return Images(image, label)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    mesh = mesh_lib.make_mesh({"data": 1}, jax.devices()[:1])
    options = TrainOptions(batch_size=16, warmup=1, log_every=30, ema_decay=0.0)
    runs = Runs(tmp_path_factory.mktemp("judge"), mesh, options)
    return ImageClassifier.train(runs, OPTIONS, pictures(64, 0), pictures(40, 1))


def test_it_learns_the_classes(judge):
    test = pictures(40, 2)
    logits = np.asarray(judge.classifier(jnp.asarray(test.image)))
    assert (logits.argmax(-1) == test.label).mean() > 0.9


def test_its_features_tell_real_images_from_others(judge):
    assert judge.real_train.shape == (64, 6)
    assert judge.real_test.shape == (40, 6)
    assert judge.floor == frechet.frechet_distance(judge.real_train, judge.real_test)
    noise = np.random.default_rng(3).random((40, 8, 8, 1)).astype(np.float32)
    found = judge.features(noise)
    want = judge.classifier.features(jnp.asarray(noise))
    assert np.allclose(found, want, atol=1e-5)
    assert frechet.frechet_distance(found, judge.real_test) > 3 * judge.floor


def test_images_without_labels_are_refused(tmp_path):
    runs = Runs(tmp_path, mesh_lib.make_mesh({"data": 8}), TrainOptions())
    train = Images(pictures(16, 0).image, None)
    with pytest.raises(ValueError, match="label is None, allowed: train images with labels"):
        ImageClassifier.train(runs, OPTIONS, train, train)


def test_smoothed_labels_have_a_loss_of_their_own():
    """Of logits 0 it is the logarithm of the number of classes, whatever is smoothed."""
    task = classifier_task(OPTIONS, (8, 8, 1), 3)
    model = task.build(jax.random.key(0))
    model.out.kernel[...] *= 0
    batch = {"image": jnp.zeros((4, 8, 8, 1)), "label": jnp.asarray([0, 1, 2, 0])}
    value, (metrics, _) = task.loss(model, None, batch, jax.random.key(1), jnp.int32(0))
    assert float(value) == pytest.approx(np.log(3), rel=1e-5)
    assert float(metrics["accuracy"]) == 0.5  # the first class, for ties
