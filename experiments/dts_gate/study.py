"""DTS-Gate: fields, and the loop over seeds and methods."""

import functools
import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from experiments.common import fields, moe
from experiments.common.moe import Corpus
from experiments.common.runs import Study, compile_task, mesh_of, open_study, seeds_of
from experiments.dts_gate import curves, report
from experiments.dts_gate.gating import METHODS, segments
from experiments.dts_gate.training import specialisation, task, train_method
from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.errors import ConfigError
from jaxgen.launch import Mode
from jaxgen.moe.loss_free import SCORES
from jaxgen.train import aot
from jaxgen.train.runs import Row, TrainTask

NAMES = {
    **moe.NAMES,
    "": "seed seeds methods",
    "train": moe.NAMES["train"] + " eval_every eval_windows",
    "dts": "start end decay decay_steps threshold noise_free_weights budgets shared_steps mask_rate",
    "reference": "hard_at decay_steps noise_until noise_free_weights caps balance_weight",
    "capacity": "train evaluation",
    "loss_free": "rate score",
    "relu": "target coefficient factor caps",
}
RUNTIME = (*fields.RUNTIME, "methods")
# (first step, experts a token)
BUDGET = config_lib.many(config_lib.integer(0, 10**9), "a pair of whole numbers", least=2, most=2)
BUDGETS = config_lib.many(BUDGET, "(first step, experts a token) pairs, such as ((0, 8), (60, 1))")


def validate(config: Config) -> None:
    """Raises ConfigError for any value that cannot run; touches no device and no data."""
    c = config_lib
    rules = {
        **moe.RULES,
        "methods": c.some_of(*METHODS),
        **dict.fromkeys(("dts.budgets", "reference.caps", "relu.caps"), BUDGETS),
        "reference.hard_at": c.STEPS,
        "reference.noise_until": c.SOME_STEPS,
        **dict.fromkeys(("capacity.train", "capacity.evaluation"), c.positive(1e-3, 1e3)),
        "loss_free.score": c.one_of(*SCORES),
        **dict.fromkeys(("relu.target", "relu.coefficient"), c.positive(1e-12, 1e3)),
        "relu.factor": c.number(1.0, 100.0),
    }
    c.check_fields(config, NAMES, rules)
    moe.check(config)
    for field in ("dts.budgets", "reference.caps", "relu.caps"):
        check_budgets(config, field)
    if config.dts.shared_steps >= config.train.steps:
        raise ConfigError("dts.shared_steps", config.dts.shared_steps, "below train.steps")


def check_budgets(config: Config, field: str) -> None:
    """Steps rise from 0, and experts fall."""
    budgets, experts = config_lib.get(config, field), config.model.experts
    starts, sizes = zip(*budgets, strict=True)
    falling = all(a > b for a, b in itertools.pairwise(sizes))
    rising = all(a < b for a, b in itertools.pairwise(starts))
    if starts[0] or not rising or not falling or not 1 <= sizes[-1] <= sizes[0] <= experts:
        raise ConfigError(
            field,
            budgets,
            f"(first step, experts a token) pairs from step 0 on, experts falling from {experts} at most",
        )


def evaluate(study: Study[Corpus], method: str, seed: int) -> list[Row]:
    """The row of a method: trained, tested, and what its log says of the way there."""
    config, corpus = study.config, study.data
    trained = train_method(study, corpus, method, seed)
    at = jnp.int32(config.train.steps)
    values, _ = trained.test(trained.model, trained.extra, at, corpus.parts["test"])
    return [
        {
            "system": method,
            "nll": values["valid_nll"],
            "domains": specialisation(config, corpus, method, trained),
            **curves.of_run(study, corpus, method, seed),
        }
    ]


def run(config: Config, workdir: pathlib.Path, *, may_train: bool) -> None:
    """Trains what is not finished, tests, and writes the report."""
    moe.check_experts(config, mesh_of(config))
    study = open_study(config, workdir, moe.load, may_train=may_train)
    rows = study.runs.rows(
        seeds_of(config),
        tuple(config.methods),
        functools.partial(evaluate, study),
        form={"nll": float, "curve": dict},
    )
    if jax.process_index() == 0:
        print(f"report: {report.write(study, study.data, rows)}")


train = functools.partial(run, may_train=True)
evaluate_again = functools.partial(run, may_train=False)


def compile_moe(config: Config, _: pathlib.Path) -> None:
    """Compiles the train step of Switch, its experts over the mesh, for `mesh.topology`."""
    shape = (config.train.batch_size, config.data.context + 1)

    def make(mesh: Any) -> TrainTask:
        moe.check_experts(config, mesh)
        segment = segments(config, "switch")[-1]
        return task(config, config.data.vocab_size, "switch", "switch", segment, mesh=mesh)

    compile_task(
        config,
        make,
        {"tokens": jax.ShapeDtypeStruct(shape, jnp.int32)},
    )
    m, experts = config.model, max(config.mesh.expert, 1)
    chips = len(aot.topology_devices(config.mesh.topology)) // max(config.mesh.model, 1)
    pairs = config.train.batch_size * config.data.context // chips
    # There and back; forward, again where blocks are recomputed, and backward.
    size = pairs * m.width * jnp.dtype(m.dtype).itemsize * (3 if m.remat else 2)
    size *= m.depth // m.expert_every
    print(
        f"exchange of rows by formula: buffers of {size * ((m.receive_capacity_factor or experts) + 1) / 2**20:,.1f} MiB per "
        f"chip; evenly routed, {2 * size * (experts - 1) / experts / 2**20:,.1f} MiB travel"
    )


MODES: dict[str, Mode] = {"train": train, "eval": evaluate_again, "compile": compile_moe}
