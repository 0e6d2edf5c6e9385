"""EDDPM beside its baselines: fields, modes, and the loop over seeds and systems."""

import json
import pathlib

import jax
import numpy as np

from experiments.common import fields
from experiments.common.latent import chain_of
from experiments.common.runs import compile_task, seeds_of
from experiments.eddpm import images, sequences, systems
from experiments.eddpm.systems import Problem, Shown
from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.launch import Mode
from jaxgen.train.runs import Row

PROBLEMS: dict[str, type[Problem]] = {
    "images": images.ImageProblem,
    "text": sequences.SequenceProblem,
    "proteins": sequences.SequenceProblem,
}
RUNTIME = (*fields.RUNTIME, "systems", "sample.", "ascent.")


def validate(config: Config) -> None:
    """Raises ConfigError for any value that cannot run; touches no device and no data."""
    config_lib.check(config, {"data.kind": config_lib.one_of(*PROBLEMS)})
    PROBLEMS[config.data.kind].check(config)
    fields.check_schedule(config)
    fields.check_run(config)


def open_problem(config: Config, workdir: pathlib.Path, *, may_train: bool = True) -> Problem:
    """The data of a config, and the runs on it."""
    chain_of(config)  # raises for one that cannot be
    return PROBLEMS[config.data.kind].open(config, workdir, may_train=may_train)


def run(config: Config, workdir: pathlib.Path, *, reuse: bool) -> None:
    """Trains what is not trained, evaluates, and writes the report.

    Args:
      reuse: take a finished system's numbers from `results/` where they were made with the same
        `config.sample`. Without it everything is evaluated again, and nothing is trained.
    """
    problem = open_problem(config, workdir, may_train=reuse)
    problem.train_judges()
    shown: dict[str, Shown] = {}

    def evaluate(name: str, seed: int) -> list[Row]:
        rows = []
        for trained in systems.train(problem, name, seed):
            numbers, artefacts = problem.evaluate(trained, seed)
            rows.append({"system": trained.label, **numbers})
            if seed == config.seed:
                shown[trained.label] = trained.system, artefacts
        return rows

    rows = problem.runs.rows(
        seeds_of(config),
        config.systems,
        evaluate,
        setting=json.loads(config.sample.to_json()),
        form={"system": str},
        fresh=[config.seed],  # the report shows what it made
    )
    if jax.process_index() == 0:
        print(f"report: {problem.write_report(rows, shown)}")


def train(config: Config, workdir: pathlib.Path) -> None:
    """Trains and evaluates whatever is not finished."""
    run(config, workdir, reuse=True)


def evaluate_again(config: Config, workdir: pathlib.Path) -> None:
    """Evaluates every system from its checkpoint."""
    run(config, workdir, reuse=False)


def sample(config: Config, workdir: pathlib.Path) -> None:
    """Writes new samples of each system under `samples/`, as NAME-new."""
    problem = open_problem(config, workdir, may_train=False)
    for name in config.systems:
        for trained in systems.train(problem, name, config.seed):
            key = jax.random.key(np.random.SeedSequence().generate_state(1)[0])
            x = systems.generate(trained.system, key, config.sample.count)
            stem = workdir / "samples" / f"{trained.label.replace(' ', '_')}-new"
            print(f"samples: {problem.save_samples(stem, x)}")


def compile_eddpm(config: Config, _: pathlib.Path) -> None:
    """Compiles EDDPM's train step for `mesh.topology` and prints what one chip has to hold."""
    networks = PROBLEMS[config.data.kind].networks_of(config)
    task = systems.eddpm_task(config, networks)
    compile_task(config, lambda _: task, networks.batch_shapes())


MODES: dict[str, Mode] = {
    "train": train,
    "eval": evaluate_again,
    "sample": sample,
    "compile": compile_eddpm,
}
