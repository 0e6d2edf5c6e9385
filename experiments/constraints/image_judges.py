"""Judges of posed images, trained on other real images with true labels; none of them is ever a constraint."""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from experiments.common.runs import Study
from experiments.constraints.images import Data, parse_loss
from jaxgen.constraints.parts import PartAgreement
from jaxgen.data import posed
from jaxgen.evaluators.common import batched_apply
from jaxgen.evaluators.image_classifier import Classifier, ClassifierOptions, classifier_task
from jaxgen.metrics import images as image_metrics
from jaxgen.nn import conv
from jaxgen.train.latent_tasks import Batch
from jaxgen.train.runs import TrainTask

Images = Float[np.ndarray, "N S S 1"]


@jax.jit
def _points(model: conv.Encoder, x: Array) -> Array:
    """[B, 4, 2], in pixels."""
    return 0.5 * x.shape[1] * (1.0 + model(x).reshape(-1, posed.PARTS, 2))


@jax.jit
def parse(f: PartAgreement, x: Array) -> Array:
    """The likeliest part of each pixel."""
    return f.parse(x).argmax(-1)


@jax.jit
def _classes(model: Classifier, x: Array) -> Array:
    return model(x).argmax(-1)


@dataclasses.dataclass(frozen=True)
class Judges:
    """Key points, parts and classes of posed images."""

    points: conv.Encoder
    parser: PartAgreement
    classifier: Classifier

    def numbers(
        self, made: Images, truth: posed.Posed, label: Int[np.ndarray, " N"]
    ) -> dict[str, float]:
        """Of images that should be `truth.target`."""
        where = batched_apply(_points, self.points, made, batch=128)
        parts = batched_apply(parse, self.parser, made, batch=128)
        found = batched_apply(_classes, self.classifier, made, batch=128)
        same = image_metrics.ssim(made[..., 0], truth.target[..., 0])
        return {
            "ssim": float(same.mean()),
            "pose_error": float(image_metrics.point_error(where, truth.points).mean()),
            "part_iou": float(np.nanmean(image_metrics.part_iou(parts, truth.parts, posed.PARTS))),
            "identity": float((found == label).mean()),
            "l1": float(np.abs(made - truth.target).mean()),
        }


def parser_iou(f: Any, truth: posed.Posed) -> float:
    """Mean IoU of a parser's parts on real posed images."""
    found = batched_apply(parse, f, truth.target, batch=128)
    return float(np.nanmean(image_metrics.part_iou(found, truth.parts, posed.PARTS)))


def train(study: Study[Data]) -> Judges:
    """Trains the three, or restores them; one set for all systems and seeds."""
    data, j = study.data, study.config.judge
    size = study.config.data.canvas
    rows = data.judges

    def build_points(key: Key[Array, ""]) -> conv.Encoder:
        out = 2 * posed.PARTS
        return conv.Encoder((size, size, 1), out, width=j.width, rngs=nnx.Rngs(key))

    def points_loss(
        model: Any, extra: PyTree, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        error = (_points(model, batch["image"]) - batch["points"]) / (0.5 * size)
        return (error**2).mean(), ({}, extra)

    def build_parser(key: Key[Array, ""]) -> PartAgreement:
        return PartAgreement(1, posed.PARTS, width=2 * j.width, rngs=nnx.Rngs(key))

    def parser_loss(
        model: Any, extra: PyTree, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        return parse_loss(model, batch["image"], batch["parts"], 0.0), ({}, extra)

    image = {"image": rows.target}
    options = ClassifierOptions(j.width, j.features, j.steps, j.learning_rate, 0.05, 0.05)
    label = data.label["judges"]
    classes = int(max(label.max(), data.label["test"].max())) + 1
    rate = {"steps": j.steps, "learning_rate": j.learning_rate, "batch_size": 32, "judging": True}
    fit = study.runs.fit
    return Judges(
        fit(
            TrainTask("judge_points", build_points, points_loss),
            0,
            image | {"points": rows.points},
            **rate,
        ),
        fit(
            TrainTask("judge_parser", build_parser, parser_loss),
            0,
            image | {"parts": rows.parts},
            **rate,
        ),
        fit(
            classifier_task(options, (size, size, 1), classes),
            0,
            image | {"label": label},
            **rate,
        ),
    )
