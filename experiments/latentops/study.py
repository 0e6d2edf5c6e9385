"""LatentOps: fields, modes, and the loop over seeds and spaces."""

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments.common import attributes as attribute_fields
from experiments.common import fields, text_fields
from experiments.common.latent import chain_of
from experiments.common.runs import Study, open_study, seeds_of
from experiments.latentops import guided, methods, report
from experiments.latentops.space import KINDS, Space, Vectors, train_space
from experiments.latentops.space import train_operators as fit_operators
from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.data.lines import read_stdin
from jaxgen.data.tokens import TextSplit
from jaxgen.errors import ConfigError, UsageError
from jaxgen.evaluators.attributes import LABELS
from jaxgen.evaluators.common import encode
from jaxgen.latent_ode import energy
from jaxgen.launch import Mode
from jaxgen.models.attribute_heads import Operators
from jaxgen.train.runs import Row

LatentOps = Study[dict[str, TextSplit]]
RUNTIME = (*fields.RUNTIME, "sample.", "edit.", "evaluate.", "guided.")
NAMES = {
    **text_fields.NAMES,
    "": "seed seeds spaces",
    **fields.LATENT_NAMES,
    "vae": "beta free_bits cycles token_deletion_rate",
    "prior": "kind gan_steps",
    "operators": "attributes width depth noise keywords steps learning_rate",
    "ode": "rtol atol max_steps",
    "sgld": "steps rate noise edit_steps edit_noise",
    "predictor_corrector": "steps snr edit_steps t_edit",
    "guided": "steps eta draws",
    "evaluate": "count tune_count combinations",
    "edit": "text sentiment tense formality person keywords strength count",
}


def validate(config: Config) -> None:
    """Raises ConfigError for any value that cannot run; touches no device and no data."""
    c = config_lib
    rules = {
        **text_fields.RULES,
        "data.kind": c.one_of("text"),
        "spaces": c.some_of(*KINDS),
        "operators.attributes": c.some_of(*LABELS),
        "evaluate.combinations": c.many(c.some_of(*LABELS), "tuples of attributes, none twice"),
    }
    c.check_fields(config, NAMES, rules)
    text_fields.check_sequences(config)
    fields.check_schedule(config)
    fields.check_run(config)
    wanted = attribute_fields.names(config)
    for combination in config.evaluate.combinations:
        if set(combination) - set(wanted):
            raise ConfigError(
                "evaluate.combinations", combination, f"some of {', '.join(wanted)} in each"
            )
    for name in LABELS:
        value = config.edit[name]
        if value and name not in wanted:
            raise ConfigError(f"edit.{name}", value, f"one of {', '.join(wanted)} has operators")
        labels = LABELS[name]
        if value and value not in (*labels, *map(str, range(len(labels)))):
            raise ConfigError(f"edit.{name}", value, "one of " + ", ".join(labels))


def open_latentops(config: Config, workdir: pathlib.Path, *, may_train: bool) -> LatentOps:
    """The study of a config, with its data."""
    chain_of(config)  # raises for one that cannot be
    return open_study(config, workdir, attribute_fields.load, may_train=may_train)


def prepare(
    config: Config, workdir: pathlib.Path, kind: str, *, may_train: bool
) -> tuple[LatentOps, Space, Operators]:
    """One space with its operators, for the config's first seed."""
    study = open_latentops(config, workdir, may_train=may_train)
    train = study.data["train"]
    space, u = train_space(config, study.runs, train, kind, config.seed)
    return study, space, fit_operators(config, study.runs, train, kind, u, config.seed)


def spaces(study: LatentOps) -> Iterator[tuple[int, Space, Vectors]]:
    """Trains (or restores) the autoencoders of all seeds, one after the other; their u of the train split."""
    train = study.data["train"]
    for seed in seeds_of(study.config):
        for kind in study.config.spaces:
            yield seed, *train_space(study.config, study.runs, train, kind, seed)


def train_vae(config: Config, workdir: pathlib.Path) -> None:
    """Trains the autoencoders of all seeds."""
    for _ in spaces(open_latentops(config, workdir, may_train=True)):
        pass


def train_operators(config: Config, workdir: pathlib.Path) -> None:
    """Trains autoencoders and operators of all seeds."""
    study = open_latentops(config, workdir, may_train=True)
    for seed, space, u in spaces(study):
        fit_operators(config, study.runs, study.data["train"], space.name, u, seed)


def run(config: Config, workdir: pathlib.Path, *, may_train: bool) -> None:
    """Trains what is not trained (if it may), judges all methods, writes the report."""
    study = open_latentops(config, workdir, may_train=may_train)
    data, runs = study.data, study.runs
    trained = [
        (seed, space, fit_operators(config, runs, data["train"], space.name, u, seed))
        for seed, space, u in spaces(study)
    ]
    judges = attribute_fields.judges(config, runs, data)
    moves = {
        (task, name): move
        for task in ("edit", "generate")
        for name, move in methods.make_moves(config, editing=task == "edit").items()
    }
    guide = guided.make(config)
    rows: list[Row] = []
    shown: dict[str, Any] = {}
    for seed, space, operators in trained:
        done, artefacts = methods.evaluate(
            config, data, judges, moves, guide, space, operators, seed
        )
        rows += done
        if seed == config.seed:
            shown[space.name] = artefacts
    if jax.process_index() == 0:
        print(f"report: {report.write(study, judges, rows, shown)}")


train = functools.partial(run, may_train=True)
evaluate_again = functools.partial(run, may_train=False)


def parts_of(config: Config, operators: Operators) -> list[tuple[energy.Operator, Any, float]]:
    """(operator, target, weight) of `config.edit`.

    Raises:
      ConfigError: no target at all, or a keyword that has no operator.
    """
    chosen = {name: config.edit[name] for name in LABELS if config.edit[name]}
    words = config.edit.keywords.split()
    unknown = [w for w in words if w not in operators.words]
    if unknown:
        some = ", ".join(operators.words)
        raise ConfigError("edit.keywords", unknown[0], f"words of the keyword operator: {some}")
    if not chosen and not words:
        raise ConfigError("edit", "", "a target, such as --config.edit.sentiment=positive")
    s = config.edit.strength
    parts: list[tuple[energy.Operator, Any, float]] = [
        (operators.get(name), int(v) if v.isdigit() else v, s) for name, v in chosen.items()
    ]
    return parts + ([(operators.get("keywords"), words, s)] if words else [])


def move(config: Config, operators: Operators, u: Any) -> tuple[np.ndarray, np.ndarray]:
    """Latents at the end of the ODE for `config.edit`, and which of them failed."""
    from jaxgen.latent_ode import sample

    parts_of(config, operators)  # raises before anything is compiled
    o = config.ode

    @jax.jit
    def solve(operators: Operators, u: Any) -> Any:
        total = energy.compose(parts_of(config, operators))
        return sample.solve(total, u, rtol=o.rtol, atol=o.atol, max_steps=o.max_steps)

    end, stats = solve(operators, u)
    return np.asarray(end), np.asarray(stats.failed)


def generate(config: Config, workdir: pathlib.Path) -> None:
    """Prints `edit.count` new sentences with the attributes of `config.edit`."""
    study, space, operators = prepare(config, workdir, config.spaces[0], may_train=False)
    key = jax.random.key(np.random.SeedSequence().generate_state(1)[0])
    end, failed = move(config, operators, space.draw(key, config.edit.count))
    print("\n".join(space.texts(end[~failed], study.data["train"])))
    _report_failures(config, failed)


def edit(config: Config, workdir: pathlib.Path) -> None:
    """Prints each sentence of `--text`, or of stdin, as the operators of `config.edit` change it."""
    lines = [config.edit.text] if config.edit.text else read_stdin()
    lines = [" ".join(line.split()) for line in lines]
    if not lines or not all(lines):
        raise ConfigError("edit.text", "", "at least one word in each line")
    study, space, operators = prepare(config, workdir, config.spaces[0], may_train=False)
    train = study.data["train"]
    end, failed = move(config, operators, encode(space, train.vocabulary.encode(lines)))
    texts = iter(space.texts(end[~failed], train))
    for lost in failed:
        print("(not solved)" if lost else next(texts))
    _report_failures(config, failed)


def _report_failures(config: Config, failed: np.ndarray) -> None:
    if failed.any():
        raise UsageError(
            f"{int(failed.sum())} of {len(failed)} sentences were not solved within "
            f"ode.max_steps = {config.ode.max_steps}; lower edit.strength or raise ode.max_steps"
        )


MODES: dict[str, Mode] = {
    "train": train,
    "train_vae": train_vae,
    "train_operators": train_operators,
    "eval": evaluate_again,
    "generate": generate,
    "edit": edit,
}
