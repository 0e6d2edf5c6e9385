"""Posed images: what systems draw of test conditions, judges' numbers, and pictures side by side."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.common.runs import Study
from experiments.constraints import game, image_judges
from experiments.constraints.image_judges import Judges
from experiments.constraints.images import Data, condition
from experiments.constraints.systems import SYSTEMS
from jaxgen.evaluators.common import batched_apply
from jaxgen.train import markup, report, writers
from jaxgen.train.runs import Row
from jaxgen.train.state import run_key

SHOWN = 12
COLUMNS = {
    "ssim": "SSIM ↑",
    "pose_error": "pose error, pixels ↓",
    "part_iou": "part IoU ↑",
    "identity": "digit kept ↑",
    "l1": "L1 ↓",
    "reward": "f, as pre-trained",
    "parser_before": "f's IoU before",
    "parser_after": "f's IoU after",
}
CURVES = ("own", "ess", "log_partition", "f_data", "f_q", "f_p")
BATCH = 64
train_judges = image_judges.train


def draw(
    problem: game.Problem, players: game.Players, f: Any, data: Data, seed: int, *, best: bool
) -> tuple[Float[np.ndarray, "N S S 1"], Float[np.ndarray, " N"]]:
    """An image of each test condition, and its reward under the pre-trained f.

    Args:
      best: of K draws the one with the largest reward, which needs the pose alone.
    """
    key, test = run_key(f"test-{seed}"), data.test
    count = problem.config.constraint.samples if best else 1

    @jax.jit
    def one(pair: tuple[Any, Any], rows: dict[str, Array]) -> Array:
        model, f = pair
        x = problem.draw(model, rows, jax.random.fold_in(key, rows["row"][0]), count)
        r = problem.reward(f, x, rows)
        chosen = jnp.take_along_axis(x, r.argmax(1)[:, None, None, None, None], 1)[:, 0]
        return jnp.concatenate([chosen.reshape(len(x), -1), r.max(1)[:, None]], 1)

    rows = {"condition": condition(test), "quadrants": test.quadrants}
    rows["row"] = np.arange(len(test), dtype=np.int32)
    found = batched_apply(one, (players.model, f), rows, batch=BATCH)
    return found[:, :-1].reshape(test.target.shape), found[:, -1]


def evaluate(
    study: Study[Data],
    problem: game.Problem,
    name: str,
    players: game.Players,
    f: Any,
    judges: Judges,
    seed: int,
) -> Row:
    """Numbers of a system on test conditions; keeps the first images for the page.

    Args:
      players: the trained model, and the constraint that it was trained with; f: as pre-trained.
    """
    data, system = study.data, SYSTEMS[name]
    made, reward = draw(problem, players, f, data, seed, best=system.best)
    path = _path(study, name, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, images=made[:SHOWN])
    row: Row = dict(judges.numbers(made, data.test, data.label["test"]))
    row["reward"] = float(reward.mean())
    if system.reward == "structured":
        row["parser_before"] = image_judges.parser_iou(f, data.test)
        row["parser_after"] = image_judges.parser_iou(players.constraint, data.test)
    return row


def _path(study: Study[Data], name: str, seed: int) -> pathlib.Path:
    return study.workdir / "samples" / f"{name}-{seed}.npz"


def write(study: Study[Data], rows: list[Row], judges: Judges) -> pathlib.Path:
    """The page; returns its path."""
    config, data = study.config, study.data
    test, label = data.test, data.label["test"]
    rules = {
        "real target": judges.numbers(test.target, test, label),
        "source as it is": judges.numbers(test.source, test, label),
    }
    page = report.Report("Learnable constraints: images under a pose", study.workdir, config)
    page.text(_about(study))
    page.section("Results")
    page.comparison(rows, COLUMNS, rules=rules)
    page.text(
        "Judges were trained on other posed images with true labels and are no part of any training: four "
        "key points, a parser, a digit classifier. The rows of real targets are their own errors. f's IoU "
        "(a diagnostic, no judge) is that of the constraint's parser on real posed test images.\n"
    )
    page.section("Pictures")
    columns = {
        "source": test.source[:SHOWN],
        "pose": test.heat[:SHOWN].sum(-1, keepdims=True).clip(0, 1),
        "target": test.target[:SHOWN],
    }
    for name in config.systems:
        path = _path(study, name, config.seed)
        if path.exists():
            columns[SYSTEMS[name].title] = np.load(path)["images"]
    strip = np.stack([np.asarray(c, np.float32) for c in columns.values()], 1)
    grid = writers.image_grid(strip.reshape(-1, *strip.shape[2:]), len(columns))
    writers.save_png(study.workdir / "samples" / "pictures.png", grid)
    page.text(f"From left to right: {markup.literal(', '.join(columns))}.\n")
    page.picture("test images", "samples/pictures.png")
    page.curves(metrics=CURVES)
    return page.write({"systems": rows, "floors": rules})


def _about(study: Study[Data]) -> str:
    config, data, c = study.config, study.data, study.config.constraint
    alpha = (
        f"an effective sample size of {c.target_ess:g}" if c.target_ess else f"alpha {c.alpha:g}"
    )
    return (
        f"Data: {markup.literal(config.data.source)}; {len(data.pairs):,} pairs to train on, "
        f"{len(data.knowledge):,} upright images of half the classes for the constraint's parser, "
        f"{len(data.judges):,} posed images for judges, {len(data.test):,} pairs to test. Every system: "
        f"{config.train.steps:,} steps of {config.train.batch_size} conditions x {c.samples} draws from one base "
        f"({config.start.steps:,} steps), {alpha}, weight {c.weight:g}; {config.seeds} seed(s), ± is the "
        "standard deviation over seeds.\n"
    )
