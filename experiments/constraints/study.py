"""Learnable constraints: fields, and the loop over seeds and systems of either task."""

import functools
import pathlib
from typing import Any

import jax

from experiments.common import fields
from experiments.common.runs import Study, compile_task, open_study, seeds_of
from experiments.constraints import game, image_report, images, template_report, templates
from experiments.constraints.systems import SYSTEMS
from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.data.tokens import TokenShape
from jaxgen.errors import ConfigError
from jaxgen.launch import Mode
from jaxgen.train.runs import Row

TASKS = {"images": images, "templates": templates}
REPORTS = {"images": image_report, "templates": template_report}
SHARED = {
    "": "seed seeds task systems",
    "start": "steps learning_rate",
}
RUNTIME = (*fields.RUNTIME, "systems")
NEED_DENSITY = ("dpg",)


def names(config: Config) -> dict[str, str]:
    """The fields that a task reads."""
    return {**fields.NAMES, **SHARED, **TASKS[config.task].NAMES}


def validate(config: Config) -> None:
    """Raises ConfigError for any value that cannot run; touches no device and no data."""
    c = config_lib
    c.check(config, {"task": c.one_of(*TASKS)})
    task = TASKS[config.task]
    known = [s for s in SYSTEMS if config.task == "templates" or s not in NEED_DENSITY]
    rules = {
        "task": c.one_of(*TASKS),
        "systems": c.some_of(*known),
        "data.seed": c.SEED,
        "constraint.alpha": c.NON_NEGATIVE,
        "constraint.weight": c.NON_NEGATIVE,
        "constraint.anchor": c.NON_NEGATIVE,
        "constraint.rate": c.positive(1e-6, 1e3),
        "constraint.samples": c.integer(1, 2**16),
        "constraint.target_ess": (
            lambda v: v == 0 or c.positive(1.0, 65_536.0)[0](v),
            "0 (alpha is fixed), or above 1 and at most constraint.samples",
        ),
        **task.RULES,
    }
    c.check_fields(config, names(config), rules)
    k = config.constraint
    if k.target_ess and not 1 < k.target_ess <= k.samples:
        allowed = f"0, or above 1 and at most constraint.samples, {k.samples}"
        raise ConfigError("constraint.target_ess", k.target_ess, allowed)
    task.check(config)


def problem_of(config: Config, data: Any = None) -> game.Problem:
    """The task of a config; without data as far as shapes go."""
    if config.task == "images":
        return images.ImageProblem(config)
    size, length = config.data.vocab_size, config.data.max_tokens
    shape = TokenShape(size, size, length, begin=1, end=2, unknown=3, source_pad=0)
    return templates.TemplateProblem(config, shape if data is None else data.shape)


def train_start(study: Study[Any], problem: game.Problem, seed: int) -> tuple[Any, Any]:
    """The base and the constraint that all systems of a seed begin from."""
    config, arrays = study.config, study.data.arrays()
    start, c = config.start, config.constraint
    base = study.runs.fit(
        game.base_task(problem), seed, arrays, steps=start.steps, learning_rate=start.learning_rate
    )
    f = study.runs.fit(
        game.knowledge_task(problem), seed, arrays, steps=c.steps, learning_rate=c.learning_rate
    )
    return base, f


def train_system(study: Study[Any], problem: game.Problem, name: str, seed: int) -> game.Players:
    """A system from there on; its constraint is what it learned, or what it began with."""
    base, f = train_start(study, problem, seed)
    system = SYSTEMS[name]
    name = "base" if system.best else name
    run = game.task(problem, name, SYSTEMS[name], base, f)
    players = study.runs.fit(run, seed, study.data.arrays())
    return game.Players(players.model, players.constraint if players.constraint else f)


def run(config: Config, workdir: pathlib.Path, *, may_train: bool) -> None:
    """Trains what is not trained (if it may), tests everything, writes the report."""
    task, report = TASKS[config.task], REPORTS[config.task]
    study = open_study(config, workdir, task.load, may_train=may_train)
    problem = problem_of(config, study.data)
    judges = functools.lru_cache(maxsize=1)(lambda: report.train_judges(study))

    def evaluate(name: str, seed: int) -> list[Row]:
        players = train_system(study, problem, name, seed)
        _, f = train_start(study, problem, seed)
        found = report.evaluate(study, problem, name, players, f, judges(), seed)
        return [{"system": SYSTEMS[name].title, **found}]

    rows = study.runs.rows(seeds_of(config), tuple(config.systems), evaluate, form={"system": str})
    if jax.process_index() == 0:
        print(f"report: {report.write(study, rows, judges())}")


def compile_learned(config: Config, _: pathlib.Path) -> None:
    """The learned constraint's step, for `mesh.topology`."""
    problem = problem_of(config)
    system = SYSTEMS["learned"]
    made = game.task(problem, "learned", system, None, None)
    compile_task(config, lambda _: made, problem.batch_shapes())


train = functools.partial(run, may_train=True)
evaluate_again = functools.partial(run, may_train=False)

MODES: dict[str, Mode] = {"train": train, "eval": evaluate_again, "compile": compile_learned}
