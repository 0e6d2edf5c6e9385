"""Experience from a world: fields, and the parts of a run, each of which is kept in the workdir."""

import dataclasses
import functools
import os
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import fields
from experiments.common.runs import Study, compile_task, open_study, seeds_of
from experiments.e2wm import authors, collect, evaluation, play, report, tasks
from experiments.e2wm import corpus as corpora
from experiments.e2wm.corpus import Corpus
from experiments.e2wm.evaluation import Reader
from experiments.e2wm.systems import NAMES as SYSTEM_NAMES
from experiments.e2wm.systems import System, systems_of
from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.data.root import expand
from jaxgen.errors import ConfigError
from jaxgen.launch import Mode
from jaxgen.metrics.floors import unigram_perplexity
from jaxgen.peft import ewc
from jaxgen.train.runs import Row
from jaxgen.world.gathering import PLANNERS

NAMES = {
    **fields.NAMES,
    "": "seed seeds systems",
    "collect": "planner worlds nodes actions simulations depth events examples test_examples seed",
    "data": "general_path general_tokens general_limit embodied shots tokenizer vocab_size",
    "model": "path kind width depth heads positions dtype remat scan",
    "pretrain": "steps batch_size learning_rate warmup",
    "lora": "rank alpha targets dropout learning_rate",
    "weights": "plan recognise count path",
    "fisher": "texts reduce labels",
    "ewc": "strengths full_strength l2_strength separate_strength",
    "replay": "share weight kl_weight",
    "evaluate": "beams batch_size plan_tokens path_tokens limit",
}
RUNTIME = (*fields.RUNTIME, "systems", "evaluate.", "data.embodied")
BEGINS = ("train", "collect", "pretrain", "finetune", "play")


def _expressions(value: Any) -> bool:
    try:
        return isinstance(value, tuple | list) and all(re.compile(v) for v in value) and bool(value)
    except re.error:
        return False


def _is_there(value: Any) -> bool:
    return config_lib.TEXT[0](value) and (not value or os.path.exists(expand(value)))


def validate(config: Config) -> None:
    """Raises ConfigError for any value that cannot run; touches no device and no data."""
    c = config_lib
    strength = c.number(0.0, 1e12)
    rules = {
        "systems": c.some_of(*SYSTEM_NAMES),
        "collect.planner": c.one_of(*PLANNERS),
        "collect.nodes": c.integer(20, 1024),
        "collect.depth": c.integer(2, 256),
        **dict.fromkeys(("collect.worlds", "collect.simulations"), c.integer(1, 2**16)),
        "collect.actions": c.integer(8, 2**16),
        "collect.events": c.integer(6, 200),
        "collect.examples": c.integer(4, 10**6),
        "collect.test_examples": c.integer(2, 10**6),
        "data.general_path": (_is_there, "an existing text file or folder, or nothing"),
        "data.embodied": (_is_there, "an existing folder, or nothing"),
        "data.general_tokens": c.integer(8, 2**16),
        "data.general_limit": c.at_least(0),
        "data.shots": c.integer(0, 16),
        "data.tokenizer": c.one_of("bpe", "wordpiece", "word"),
        "model.kind": c.one_of("gpt2", "gpt_neo"),
        "model.positions": c.integer(16, 2**17),
        "lora.rank": c.integer(1, 4096),
        "lora.alpha": c.POSITIVE,
        "lora.targets": (_expressions, "one or more regular expressions of layers"),
        **dict.fromkeys((f"weights.{t}" for t in collect.TASKS), c.NON_NEGATIVE),
        "fisher.texts": c.integer(1, 10**7),
        "fisher.reduce": c.one_of(*ewc.REDUCE),
        "fisher.labels": c.one_of(*ewc.LABELS),
        "ewc.strengths": c.many(strength, "numbers, 0 or more, each once", once=True),
        **dict.fromkeys((f"ewc.{k}_strength" for k in ("full", "l2", "separate")), strength),
        "replay.share": c.SHARE,
        "replay.weight": c.NON_NEGATIVE,
        "replay.kl_weight": c.NON_NEGATIVE,
        "evaluate.beams": c.integer(1, 64),
        "evaluate.plan_tokens": c.integer(1, 4096),
        "evaluate.path_tokens": c.integer(1, 4096),
    }
    c.check_fields(config, NAMES, rules)
    if "base" not in config.systems:
        allowed = "base among them, from which the others' rise is measured"
        raise ConfigError("systems", tuple(config.systems), allowed)
    if not config.model.path:
        fields.check_divides(config, "model.heads", "model.width")
        longest = config.data.general_tokens
        if longest > config.model.positions:
            allowed = f"at most model.positions, {config.model.positions}"
            raise ConfigError("data.general_tokens", longest, allowed)
    fields.check_run(config)


def base_model(study: Study[Corpus]) -> Any:
    """The model that all systems begin from: of `model.path`, or trained here on general text."""
    config, corpus = study.config, study.data
    if config.model.path:
        return tasks.pretrained(config)
    p = config.pretrain
    options = dataclasses.replace(study.runs.options, warmup=p.warmup, schedule="cosine")
    return dataclasses.replace(study.runs, options=options).fit(
        tasks.base_task(config, len(corpus.tokenizer)),
        config.seed,
        {"general": corpus.general["train"]},
        steps=p.steps,
        learning_rate=p.learning_rate,
        batch_size=p.batch_size,
    )


def train_system(study: Study[Corpus], name: str, system: System, base: Any, seed: int) -> Any:
    """A system's model, plain: updates are merged into the kernels."""
    config, corpus = study.config, study.data
    if system.trains == "nothing":
        return base
    extra = tasks.prepare(config, corpus, system, base, seed)
    rate = (config.lora if system.trains == "lora" else config.train).learning_rate
    model = study.runs.fit(
        tasks.finetune_task(config, name, system, base, seed, lambda: extra),
        seed,
        tasks.arrays(corpus, system),
        learning_rate=rate,
    )
    return tasks.merged(model, system)


def run(
    config: Config, workdir: pathlib.Path, *, may_train: bool = True, until: str = "report"
) -> None:
    """Does what is not done, up to a part: collect, pretrain, finetune, or all and the report."""
    study = open_study(config, workdir, corpora.load, may_train=may_train)
    if until == "collect":
        return
    base = evaluation.to_device(base_model(study))
    if until == "pretrain":
        return
    systems = systems_of(config)
    if until == "finetune":
        for seed in seeds_of(config):
            for name, system in systems.items():
                train_system(study, name, system, base, seed)
        return

    def evaluate(name: str, seed: int) -> list[Row]:
        if name == "base" and seed != config.seed:  # the same model for all seeds
            return [{"system": systems[name].title, "name": name, "repeated": True}]
        model = train_system(study, name, systems[name], base, seed)
        reader = Reader(evaluation.to_device(model), study.data, config.evaluate.batch_size)
        numbers, plans = evaluation.evaluate(config, reader)
        if config.data.embodied:
            numbers |= authors.evaluate(config, reader)
        return [{"system": systems[name].title, "name": name, **numbers, "plans": plans}]

    # What the authors' files say is part of a row, so rows without them are made again.
    setting = {"embodied": bool(config.data.embodied), **config.evaluate.to_dict()}
    rows = study.runs.rows(
        seeds_of(config), tuple(systems), evaluate, setting=setting, form={"system": str}
    )
    rows = [r for r in rows if not r.get("repeated")]
    if jax.process_index() == 0:
        print(f"report: {report.write(study, rows, floors(study), fisher_total(study, base))}")


def floors(study: Study[Corpus]) -> dict[str, float]:
    """What needs no network: the NLL of a unigram, and guessing at random."""
    general = study.data.general
    train, test = (general[p][:, 1:].ravel() for p in ("train", "test"))
    found = unigram_perplexity(train, test, len(study.data.tokenizer))
    return {
        "nll": float(np.log(found)),
        "recognise_seen": 1 / collect.OPTIONS,
        "recognise_unseen": 1 / collect.OPTIONS,
        "count_all": 1 / (collect.MOST + 1),
    }


def fisher_total(study: Study[Corpus], base: Any) -> float:
    """The sum of the Fisher information of all kernels with updates, which gives lambda its scale."""
    model = tasks.adapted(study.config, base, study.config.seed)
    return float(ewc.total(tasks.fisher(study.config, study.data, model, "wrapped")))


def compile_slice(config: Config, workdir: pathlib.Path) -> None:
    """Compiles EWC-LoRA's step for `mesh.topology`; the optimiser holds the low-rank updates alone."""
    size, rows = config.data.vocab_size, config.train.batch_size
    length = config.model.positions
    system = System("EWC-LoRA", penalty="ewc", strength=config.ewc.strengths[0])

    def make(_: Any) -> Any:
        base = tasks.base_task(config, size)
        shapes = jax.eval_shape(base.build, jax.random.key(0))
        none = functools.partial(tasks.blank, config, base, system)
        return tasks.finetune_task(config, "ewc_lora", system, shapes, 0, none)

    batch = {
        "tokens": jax.ShapeDtypeStruct((rows, length), jnp.int32),
        "weights": jax.ShapeDtypeStruct((rows, length), jnp.float32),
    }
    compile_task(config, make, batch)


MODES: dict[str, Mode] = {
    "train": run,
    "collect": functools.partial(run, until="collect"),
    "pretrain": functools.partial(run, until="pretrain"),
    "finetune": functools.partial(run, until="finetune"),
    "eval": functools.partial(run, may_train=False),
    "play": play.play,
    "compile": compile_slice,
}
