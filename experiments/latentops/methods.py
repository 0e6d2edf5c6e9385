"""The methods that the study compares, and how they are judged.

Every method moves latents u towards the same operators; each has one guidance_strength, which is chosen on the
valid split by the geometric mean that the table reports. Judges never steer: labels come from the
grammar's parser or from a classifier of text that was trained on other sentences, fluency from a
language model.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import attributes as attribute_fields
from experiments.latentops import guided
from experiments.latentops.space import Space
from jaxgen.config import Config
from jaxgen.data.tokens import TextSplit
from jaxgen.diffusion.schedule import Schedule
from jaxgen.evaluators.attributes import LABELS
from jaxgen.evaluators.common import batched_apply, encode
from jaxgen.evaluators.controlled_text import ControlledText, self_bleu
from jaxgen.latent_ode import baselines, energy
from jaxgen.metrics import floors, mauve
from jaxgen.metrics import text as text_metrics
from jaxgen.models.attribute_heads import UNKNOWN, Operators
from jaxgen.train.runs import Row
from jaxgen.train.state import run_key

# As many values of each method's guidance_strength; chosen ones should lie inside, not at an end. From a draw of the
# prior it is further to an attribute than from a sentence, so generation may pull harder.
_LENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
_METHODS = ("ODE", "SGLD", "predictor-corrector", "linear shift", "no control")


def _grids(weights: tuple[float, ...]) -> dict[str, tuple[float, ...]]:
    return dict(zip(_METHODS, (weights, weights, weights, _LENGTHS, (0.0,)), strict=True))


GRIDS = {
    "edit": _grids((0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)),
    "generate": _grids((1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)),
}
# (operators, u [B, D], {attribute: labels [B]}, {attribute: 0 or 1}, key, guidance_strength) -> (u, failed, nfe).
Move = Callable[..., tuple[Any, Any, Any]]


def make_moves(config: Config, *, editing: bool) -> dict[str, Move]:
    """The methods by name, jitted. The guidance_strength is the operators' weight, or the length of the shift.

    All operators are evaluated and those that are not wanted have weight 0, so that one compiled
    function serves every combination, guidance_strength and seed.
    """
    from jaxgen.latent_ode import sample

    o, s, p = config.ode, config.sgld, config.predictor_corrector

    def energy_of(
        operators: Operators, labels: Any, on: Any, guidance_strength: Any
    ) -> energy.Energy:
        whole = energy.compose([(operators.get(name), labels[name], on[name]) for name in labels])
        return lambda u: guidance_strength * whole(u)

    def rows(move: Callable[..., Any]) -> Move:
        """`move` is of one row: (energy, u [1, D], key) -> (u [1, D], failed [1], nfe [1])."""

        def run(
            operators: Operators, u: Any, labels: Any, on: Any, key: Any, guidance_strength: Any
        ) -> Any:
            def one(u: Any, labels: Any, key: Any) -> Any:
                return move(energy_of(operators, labels, on, guidance_strength), u[None], key)

            moved = jax.vmap(one)(u, labels, jax.random.split(key, u.shape[0]))
            return jax.tree.map(lambda a: a[:, 0], moved)

        return jax.jit(run)

    def finished(u: Any, nfe: int) -> tuple[Any, Any, Any]:
        return u, ~jnp.isfinite(u).all(-1), jnp.full(u.shape[0], nfe)

    def ode(total: energy.Energy, u: Any, key: Any) -> Any:
        end, stats = sample.solve(total, u, rtol=o.rtol, atol=o.atol, max_steps=o.max_steps)
        return end, stats.failed, stats.nfe

    def sgld(total: energy.Energy, u: Any, key: Any) -> Any:
        steps, noise = (s.edit_steps, s.edit_noise) if editing else (s.steps, s.noise)
        end = baselines.sgld(total, u, key, steps=steps, rate=s.rate, noise=noise)
        return finished(end, steps)

    def predictor_corrector(total: energy.Energy, u: Any, key: Any) -> Any:
        steps, start = (p.edit_steps, p.t_edit) if editing else (p.steps, 1.0)
        end = baselines.predictor_corrector(total, u, key, steps=steps, snr=p.snr, t_start=start)
        return finished(end, 2 * steps)

    def shift(
        operators: Operators, u: Any, labels: Any, on: Any, key: Any, guidance_strength: Any
    ) -> Any:
        for name, label in labels.items():
            direction = on[name] * operators.directions[name][label]
            u = jax.vmap(baselines.linear_shift, in_axes=(0, 0, None))(
                u[:, None], direction, guidance_strength
            )
            u = u[:, 0]
        return finished(u, 0)

    def nothing(
        operators: Operators, u: Any, labels: Any, on: Any, key: Any, guidance_strength: Any
    ) -> Any:
        return finished(u, 0)

    every = (rows(ode), rows(sgld), rows(predictor_corrector), jax.jit(shift), jax.jit(nothing))
    return dict(zip(_METHODS, every, strict=True))


def draw_targets(
    known: Mapping[str, np.ndarray], names: Sequence[str], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """For each sentence and attribute a label that it does not have yet."""
    out = {}
    for name in names:
        count = len(LABELS[name])
        now = known[name]
        other = (now + rng.integers(1, count, len(now))) % count
        out[name] = np.where(now == UNKNOWN, rng.integers(0, count, len(now)), other)
    return out


@dataclasses.dataclass(frozen=True)
class Task:
    """Rows to be moved: latents, targets, and the texts they come from (none for generation)."""

    name: str
    names: tuple[str, ...]
    u: np.ndarray
    targets: dict[str, np.ndarray]
    sources: list[str] | None


def make_tasks(config: Config, space: Space, part: TextSplit, count: int, seed: int) -> list[Task]:
    """Editing and generation, for each combination of attributes."""
    rows = part.take(count)
    known = attribute_fields.label(config, rows)
    u = batched_apply(encode, space, rows.x)
    tasks = []
    for names in config.evaluate.combinations:
        rng = np.random.default_rng([seed, len(names)])
        targets = draw_targets(known, names, rng)
        tasks.append(Task("edit", tuple(names), u, targets, rows.text))
        key = run_key(f"generate-{space.name}-{'-'.join(names)}-{len(part)}-{seed}")
        drawn = np.asarray(space.draw(key, len(rows)))
        even = {n: rng.integers(0, len(LABELS[n]), len(rows)) for n in names}
        tasks.append(Task("generate", tuple(names), drawn, even, None))
    return tasks


def apply(
    move: Move,
    operators: Operators,
    task: Task,
    seed: int,
    guidance_strength: float,
    *,
    repeats: int = 0,
) -> dict[str, Any]:
    """Moves all rows in one call.

    Args:
      repeats: timed calls after the first; 0 leaves `seconds` out.
    """
    names = operators.directions
    some = np.zeros(len(task.u), np.int32)
    labels = {n: jnp.asarray(task.targets.get(n, some), jnp.int32) for n in names}
    key = run_key(f"{task.name}-{'-'.join(task.names)}-{seed}")
    on = {n: jnp.asarray(float(n in task.names)) for n in names}
    arguments = (operators, jnp.asarray(task.u), labels, on, key, guidance_strength)
    end, failed, nfe = jax.block_until_ready(move(*arguments))
    out: dict[str, Any] = {
        "u": np.asarray(end),
        "failed": np.asarray(failed),
        "nfe": np.asarray(nfe),
    }
    if repeats:
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            jax.block_until_ready(move(*arguments))
            times.append(time.perf_counter() - begin)
        out["seconds"] = float(np.median(times)) / len(task.u)
    return out


def judge(
    judges: ControlledText, space: Space, train: TextSplit, task: Task, moved: Mapping[str, Any]
) -> tuple[dict[str, float], list[str]]:
    """Numbers of moved latents, and their texts. A failed row has no text and counts as wrong."""
    good = np.flatnonzero(~moved["failed"])
    texts = space.texts(moved["u"][good], train)
    right = judges.accuracy(texts, {k: v[good] for k, v in task.targets.items()}) if texts else 0
    numbers = {
        "accuracy": float(np.sum(right)) / len(task.u),
        "ppl": judges.perplexity(texts) if texts else float("inf"),
        "failed": float(moved["failed"].mean()),
        "nfe": float(moved["nfe"].mean()),
    }
    if "seconds" in moved:
        numbers["milliseconds"] = 1e3 * moved["seconds"]
    if task.sources is None:
        numbers["self_bleu"] = self_bleu(texts)
        numbers["distinct_2"] = text_metrics.distinct_n(texts, 2)
        spare = max(100.0 - judges.real_self_bleu, 1.0)
        kept = np.minimum(1.0, (100.0 - numbers["self_bleu"]) / spare)
    else:
        numbers["bleu"] = text_metrics.bleu(texts, [task.sources[i] for i in good])
        kept = numbers["bleu"] / 100.0
    kept = float(np.nan_to_num(kept))  # without texts there is no BLEU
    numbers["mean"] = judges.mean(numbers["accuracy"], numbers["ppl"], kept)
    return numbers, texts


def generation(judges: ControlledText, texts: Sequence[str], data: Mapping[str, TextSplit]) -> Row:
    """How near new sentences are to real ones, how varied, and how many of their phrases are known.

    Args:
      data: MAUVE compares with as many valid sentences as there are, phrases are looked up in train's.
    """
    out: Row = {
        "diversity": text_metrics.diversity(texts),
        "memorised": text_metrics.memorised(texts, data["train"].text),
    }
    if len(texts) > 1:
        real = data["valid"].take(len(texts)).text
        out["mauve"] = mauve.mauve(judges.features(real), judges.features(texts))
    return out


def floor_rows(
    judges: ControlledText, task: Task, texts: Sequence[str], data: Mapping[str, TextSplit]
) -> dict[str, Row]:
    """What rules score: the input as it is (of edits), real sentences (of generation), one target for all.

    Args:
      texts: real test sentences.
      data: see `generation`.
    """
    joint = np.stack([task.targets[n] for n in task.names], 1)
    codes = np.unique(joint, axis=0, return_inverse=True)[1].ravel()
    rows: dict[str, Row] = {"majority class": {"accuracy": floors.majority_accuracy(codes, codes)}}
    if task.sources is None:
        distinct = text_metrics.distinct_n(texts, 2)
        real: Row = {"ppl": judges.real_ppl, "self_bleu": judges.real_self_bleu}
        real |= {"distinct_2": distinct, **generation(judges, texts, data)}
        return rows | {"data": real | judges.further(texts, {})}
    targets = {n: task.targets[n] for n in task.names}
    copy = {
        "accuracy": float(judges.accuracy(task.sources, targets).mean()),
        "bleu": text_metrics.bleu(task.sources, task.sources),
        "ppl": judges.perplexity(task.sources),
    }
    copy |= judges.further(task.sources, targets)
    mean = judges.mean(copy["accuracy"], copy["ppl"], copy["bleu"] / 100.0)
    return rows | {"copy of the input": copy | {"mean": mean}}


def evaluate(
    config: Config,
    data: Mapping[str, TextSplit],
    judges: ControlledText,
    moves: Mapping[tuple[str, str], Move],
    guide: Callable[..., tuple[Any, Any, Any]],
    space: Space,
    operators: Operators,
    seed: int,
) -> tuple[list[Row], dict[str, Any]]:
    """One row of numbers a task and method, more with `floor` set of rules, and texts to show.

    Args:
      moves: by (task, method); see `make_moves`.
      guide: see `guided.make`.
    """
    train, e = data["train"], config.evaluate
    valid = make_tasks(config, space, data["valid"], e.tune_count, seed)
    test = make_tasks(config, space, data["test"], e.count, seed)
    rows: list[Row] = []
    shown = {}
    real = data["test"].take(e.count).text
    for task, tune in zip(test, valid, strict=True):
        cell = {
            "space": space.name,
            "task": task.name,
            "attributes": " + ".join(task.names),
            "seed": seed,
        }
        for rule, numbers in floor_rows(judges, task, real, data).items():
            rows.append({"system": rule, **cell, "floor": True, **numbers})
        grids = dict(GRIDS[task.name])
        if task.name == "generate" and isinstance(space.prior, Schedule):
            grids[guided.NAME] = guided.GRID
        for name, grid in grids.items():
            own = functools.partial(guide, space)
            move = own if name == guided.NAME else moves[task.name, name]

            def score(guidance_strength: float, move: Move = move, tune: Task = tune) -> float:
                moved = apply(move, operators, tune, seed, guidance_strength)
                return judge(judges, space, train, tune, moved)[0]["mean"]

            guidance_strength = max(grid, key=score) if len(grid) > 1 else grid[0]
            moved = apply(move, operators, task, seed, guidance_strength, repeats=3)
            numbers, texts = judge(judges, space, train, task, moved)
            solved = np.flatnonzero(~moved["failed"])
            asked = {n: task.targets[n][solved] for n in task.names}
            numbers |= judges.further(texts, asked)
            if task.sources is None:
                numbers |= generation(judges, texts, data)
            rows.append({"system": name, **cell, "guidance_strength": guidance_strength, **numbers})
            shown[task.name, cell["attributes"], name] = (
                task,
                texts,
                solved,
            )
    return rows, {"tables": shown, "space": space, "operators": operators}
