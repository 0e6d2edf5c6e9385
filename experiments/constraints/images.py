"""Images under a pose that is asked for: fields, data, networks; see `game.Problem`."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from experiments.common import fields
from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.constraints.parts import PartAgreement
from jaxgen.data import idx, images, posed, splits
from jaxgen.errors import ConfigError
from jaxgen.models.pose_transfer import PoseDiffusion, PoseGenerator
from jaxgen.nn import conv
from jaxgen.train.latent_tasks import Batch

NAMES = {
    "data": "source path name size canvas pairs knowledge judges test poses seed",
    "model": "kind width noise_dim decode_steps gradient_steps",
    "constraint": "width steps learning_rate smoothing alpha target_ess weight samples rate anchor",
    "judge": "width features steps learning_rate",
}
SOURCES = ("digits", "idx", "folder", "tfds", "hf")
RULES: dict[str, config_lib.Rule] = {
    "data.source": config_lib.one_of(*SOURCES),
    "data.canvas": (
        lambda v: config_lib.integer(16, 2048)[0](v) and v % 8 == 0,
        "a multiple of 8, at least 16 and at most 2048",
    ),
    **dict.fromkeys(
        ("data.pairs", "data.knowledge", "data.judges", "data.test"), config_lib.integer(10, 10**7)
    ),
    "data.poses": config_lib.integer(1, 1024),
    "model.kind": config_lib.one_of("generator", "diffusion"),
    "model.noise_dim": config_lib.integer(0, 2**16),
    "model.decode_steps": config_lib.integer(1, 1000),
    "model.gradient_steps": config_lib.integer(1, 1000),
}
HEATS = posed.PARTS
LIMIT = 5.0  # a critic's log-odds are between -LIMIT and LIMIT


def check(config: Config) -> None:
    """What fields of this task have to be together."""
    d, m = config.data, config.model
    if d.source not in ("digits", "idx") and not d.size:
        raise ConfigError("data.size", d.size, f"at least 1 for source {d.source}")
    if d.size > d.canvas:
        raise ConfigError("data.size", d.size, f"at most data.canvas, {d.canvas}")
    if m.gradient_steps > m.decode_steps:
        allowed = f"at most model.decode_steps, {m.decode_steps}"
        raise ConfigError("model.gradient_steps", m.gradient_steps, allowed)
    if m.kind == "diffusion" and d.canvas % 4:
        raise ConfigError("data.canvas", d.canvas, "a multiple of 4 for a diffusion")
    fields.check_run(config)


@dataclasses.dataclass(frozen=True)
class Data:
    """Four disjoint sets of images.

    Attributes:
      pairs: what systems are trained on.
      knowledge: upright images of half the classes, which the constraint knows before.
      judges: what judges alone are trained on, each image under several poses.
      test: pairs to test, of unseen images.
      label: of the judges' and the test images.
    """

    pairs: posed.Posed
    knowledge: posed.Posed
    judges: posed.Posed
    test: posed.Posed
    label: dict[str, Int[np.ndarray, " N"]]

    def arrays(self) -> dict[str, np.ndarray]:
        """What batches are made of."""
        p, k = self.pairs, self.knowledge
        again = np.resize(np.arange(len(k)), len(p))
        return {
            "condition": condition(p),
            "target": p.target,
            "quadrants": p.quadrants,
            "known": k.source[again],
            "parts": k.parts[again],
        }


def condition(p: posed.Posed) -> Float[np.ndarray, "N S S C"]:
    """Source image and heat maps."""
    return np.concatenate([p.source, p.heat], -1)


def load(config: Config, _: pathlib.Path) -> Data:
    """Reads images, splits them, and poses them.

    Raises:
      ConfigError: fewer images than the four sets need.
    """
    d = config.data
    train, test = _read(config)
    rng = np.random.default_rng(d.seed)
    order = rng.permutation(len(train))
    first = [int(i) for i in order[: d.pairs]]
    label = np.asarray(train.label)
    classes = np.unique(label)
    known = set(classes[: (len(classes) + 1) // 2].tolist())
    rest = order[d.pairs :]
    knowledge = [int(i) for i in rest if label[i] in known][: d.knowledge]
    used = set(knowledge)
    judges = [int(i) for i in rest if int(i) not in used][: d.judges]
    for name, found, wanted in (
        ("pairs", len(first), d.pairs),
        ("knowledge", len(knowledge), d.knowledge),
        ("judges", len(judges), d.judges),
        ("test", len(test), d.test),
    ):
        if found < wanted:
            raise ConfigError(f"data.{name}", wanted, f"at most {found} here, of these images")
    again = np.repeat(np.asarray(judges), d.poses)
    rows = splits.balanced(len(test), d.test, test.label)

    def pose(part: np.ndarray) -> posed.Posed:
        return posed.make(part[..., 0], posed.draw(rng, len(part)), d.canvas)

    return Data(
        pairs=pose(train.image[first]),
        knowledge=posed.make(train.image[knowledge][..., 0], None, d.canvas),
        judges=pose(train.image[again]),
        test=pose(test.image[rows]),
        label={"judges": label[again], "test": np.asarray(test.label)[rows]},
    )


def _read(config: Config) -> tuple[images.Images, images.Images]:
    d = config.data
    if d.source == "idx":
        parts = idx.load(d.path)
    else:
        own = 0 if d.source == "digits" else d.size
        options = {"valid_fraction": 0.0, "test_fraction": 0.2}
        parts = images.load(
            d.source, name=d.name, path=d.path, size=own, channels=1, limit=0, **options
        )
    out = []
    for name in ("train", "test"):
        part = parts[name]
        if part.label is None:
            raise ConfigError("data.source", d.source, "images with labels")
        image = np.asarray(part.image)
        bright = image.sum((1, 2, 3)) > 0
        image, label = image[bright], part.label[bright]
        if d.size and d.size != image.shape[1]:
            image = posed.enlarge(image[..., 0], d.size)[..., None]
        if image.shape[1] > d.canvas:
            allowed = f"at least {image.shape[1]}, the images' side, or a data.size"
            raise ConfigError("data.canvas", d.canvas, allowed)
        out.append(images.Images(image, label))
    return out[0], out[1]


class Critic(nnx.Module):
    """A free network on image and condition: log-odds that the image is real, within +-`LIMIT`."""

    def __init__(self, size: int, *, width: int, rngs: nnx.Rngs):
        self.net = conv.Encoder((size, size, 2 + HEATS), 1, width=width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B S S 1"], seen: Float[Array, "B S S C"]
    ) -> Float[Array, " B"]:
        logit = self.net(jnp.concatenate([x, seen], -1))[:, 0]
        return LIMIT * jnp.tanh(logit / LIMIT)


@dataclasses.dataclass(frozen=True)
class ImageProblem:
    """See `game.Problem`."""

    config: Config
    explicit: bool = False

    def build_model(self, key: Key[Array, ""]) -> nnx.Module:
        """A generator or a diffusion."""
        m, size, rngs = self.config.model, self.config.data.canvas, nnx.Rngs(key)
        if m.kind == "generator":
            return PoseGenerator(size, 1 + HEATS, width=m.width, noise_dim=m.noise_dim, rngs=rngs)
        steps = {"decode_steps": m.decode_steps, "gradient_steps": m.gradient_steps}
        return PoseDiffusion(size, 1 + HEATS, width=m.width, rngs=rngs, **steps)

    def build_constraint(self, key: Key[Array, ""]) -> PartAgreement:
        """A parser of four parts."""
        width = self.config.constraint.width
        return PartAgreement(1, posed.PARTS, width=width, rngs=nnx.Rngs(key))

    def build_critic(self, key: Key[Array, ""]) -> Critic:
        """About as large as the parser."""
        return Critic(self.config.data.canvas, width=8, rngs=nnx.Rngs(key))

    def draw(self, model: Any, batch: Batch, key: Key[Array, ""], count: int) -> Array:
        """[C, K, S, S, 1]."""
        seen = jnp.repeat(batch["condition"], count, 0)
        x = model.draw(seen, key)
        return x.reshape(-1, count, *x.shape[1:])

    def own_loss(
        self, model: Any, batch: Batch, key: Key[Array, ""], samples: Array | None
    ) -> Float[Array, ""]:
        """L1 of what is drawn, or the diffusion's loss."""
        key_draw, key_own = jax.random.split(key)
        seen, target = batch["condition"], batch["target"]
        if samples is None:
            return model.loss(seen, target, key_own, model.draw(seen, key_draw)).mean()
        count = samples.shape[1]
        seen, target = (jnp.repeat(a, count, 0) for a in (seen, target))
        return model.loss(seen, target, key_own, samples.reshape(target.shape)).mean()

    def log_prob(self, model: Any, samples: Array, batch: Batch) -> Float[Array, "C K"]:
        """There is none."""
        raise ValueError("a model of images has no density here")

    def reward(self, f: Any, samples: Array, batch: Batch) -> Float[Array, "C K"]:
        """See `game.Problem`."""
        count = samples.shape[1]
        given = batch["condition"] if isinstance(f, Critic) else batch["quadrants"]
        flat = samples.reshape(-1, *samples.shape[2:])
        return f(flat, jnp.repeat(given, count, 0)).reshape(samples.shape[:2])

    def reward_data(self, f: Any, batch: Batch) -> Float[Array, " C"]:
        """See `game.Problem`."""
        given = batch["condition"] if isinstance(f, Critic) else batch["quadrants"]
        return f(batch["target"], given)

    def knowledge_loss(self, f: Any, batch: Batch) -> Float[Array, ""]:
        """Cross-entropy of upright images' parts, with smoothed labels."""
        return parse_loss(f, batch["known"], batch["parts"], self.config.constraint.smoothing)

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of a batch, from the config alone."""
        rows, s = self.config.train.batch_size, self.config.data.canvas
        image = jax.ShapeDtypeStruct((rows, s, s, 1), jnp.float32)
        whole = jax.ShapeDtypeStruct((rows, s, s), jnp.int32)
        seen = jax.ShapeDtypeStruct((rows, s, s, 1 + HEATS), jnp.float32)
        return {
            "condition": seen,
            "target": image,
            "quadrants": whole,
            "known": image,
            "parts": whole,
        }


def parse_loss(
    f: PartAgreement,
    x: Float[Array, "B S S 1"],
    parts: Int[Array, "B S S"],
    smoothing: float,
) -> Float[Array, ""]:
    """Cross-entropy of the parts, foreground and background weighing the same."""
    labels = optax.smooth_labels(jax.nn.one_hot(parts, posed.PARTS + 1), smoothing)
    each = optax.softmax_cross_entropy(f.parse(x), labels)
    there = parts > 0
    halves = [(each * m).sum() / jnp.maximum(m.sum(), 1) for m in (there, ~there)]
    return 0.5 * (halves[0] + halves[1])
