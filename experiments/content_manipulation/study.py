"""Content manipulation: fields, and the loop over seeds and systems."""

import functools
import pathlib

import jax
import jax.numpy as jnp

from experiments.common import fields
from experiments.common.runs import Study, compile_task, open_study, seeds_of
from experiments.content_manipulation import corpus as corpora
from experiments.content_manipulation import report, rewriting, tasks, writing
from experiments.content_manipulation.corpus import Corpus
from experiments.content_manipulation.systems import SYSTEMS
from experiments.content_manipulation.writing import Reader, ValidScore
from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.data import style_records
from jaxgen.data.record_arrays import SPECIAL, RecordVocabulary
from jaxgen.errors import ConfigError
from jaxgen.launch import Mode
from jaxgen.models.data_to_text import DataToText
from jaxgen.train.runs import Row
from jaxgen.train.selection import BestModel

NAMES = {
    **fields.NAMES,
    "": "seed seeds systems",
    "data": "source path train valid test content limit valid_rows test_rows seed max_tuples max_words "
    "min_count slots vocab_size generated types",
    "model": "width depth heads coverage tied dropout",
    "loss": "style style_weight pure ramp coverage_weight groups eisl_ngrams back_weight mast_back_weight "
    "advst_back_weight judge_weight",
    "judge": "width depth heads steps learning_rate",
    "evaluate": "every beams max_words m_bleu",
    "rewrite": "system record reference reference_record",
}
RUNTIME = (*fields.RUNTIME, "systems", "rewrite.")
SOURCES = ("grammar", *style_records.SOURCES)


def validate(config: Config) -> None:
    """Raises ConfigError for any value that cannot run; touches no device and no data."""
    c = config_lib
    c.check(config, {"data.source": c.one_of(*SOURCES)})
    some = c.integer(1, 2**31 - 1)
    rules = {
        "systems": c.some_of(*SYSTEMS),
        "data.source": c.one_of(*SOURCES),
        "data.content": c.one_of(*corpora.READERS),
        **dict.fromkeys(("data.train", "data.valid", "data.test"), c.TEXT),
        **dict.fromkeys(("data.valid_rows", "data.test_rows"), some),
        **dict.fromkeys(("data.max_tuples", "data.max_words"), c.integer(1, 4096)),
        "data.min_count": c.integer(1, 10**6),
        "data.slots": c.integer(0, 4096),
        **dict.fromkeys(("data.generated", "data.types"), c.integer(4, 2**24)),
        "model.coverage": c.integer(0, 65_536),
        "model.tied": c.FLAG,
        "loss.style": c.one_of("ce", "eisl"),
        "loss.style_weight": c.number(0.0, 1.0),
        **dict.fromkeys(("loss.pure", "loss.ramp"), c.SOME_STEPS),
        **dict.fromkeys(
            (f"loss.{w}_weight" for w in ("coverage", "back", "mast_back", "advst_back", "judge")),
            c.NON_NEGATIVE,
        ),
        "loss.groups": c.FLAG,
        "loss.eisl_ngrams": c.many(
            c.integer(1, 64), "one or more of 1, 2, ..., each once", once=True
        ),
        "evaluate.beams": c.integer(1, 64),
        "evaluate.max_words": c.integer(2, 4096),
        "evaluate.m_bleu": c.number(0.0, 100.0),
        "rewrite.system": c.one_of(*SYSTEMS),
        **dict.fromkeys(
            (f"rewrite.{f}" for f in ("record", "reference", "reference_record")), c.FREE_TEXT
        ),
    }
    c.check_fields(config, NAMES, rules)
    d = config.data
    if d.source == "grammar" and not 100 <= d.limit <= 10**6:
        raise ConfigError("data.limit", d.limit, "100 to 1000000 items of the grammar")
    if d.source == "table":
        for name in ("train", "valid", "test"):
            if not d[name]:
                raise ConfigError(f"data.{name}", d[name], "a file name, for source table")
    if d.generated > d.vocab_size:
        raise ConfigError("data.generated", d.generated, f"at most data.vocab_size, {d.vocab_size}")
    longest = max(config.loss.eisl_ngrams)
    if longest > d.max_words:
        raise ConfigError(
            "loss.eisl_ngrams",
            tuple(config.loss.eisl_ngrams),
            f"at most data.max_words, {d.max_words}",
        )
    fields.check_divides(config, "model.heads", "model.width")
    fields.check_divides(config, "judge.heads", "judge.width")
    fields.check_run(config)


def train_system(study: Study[Corpus], name: str, seed: int, read: Reader) -> DataToText:
    """The writer of a system, at the step whose sentences of valid are the best; see `ValidScore`."""
    config, corpus, system = study.config, study.data, SYSTEMS[name]
    score = ValidScore(config, corpus, system, read)
    every = config.evaluate.every
    best = BestModel(
        score, every=every, steps=config.train.steps, part=lambda players: players.writer
    )
    final = study.runs.fit(
        tasks.task(config, corpus.vocabulary, name, system),
        seed,
        corpus.arrays(corpus.parts["train"]),
        eval_every=every,
        evaluate=lambda _: score.numbers,
        adapt=best,
    )
    return final.writer if best.model is None else best.model


def run(config: Config, workdir: pathlib.Path, *, may_train: bool) -> None:
    """Trains what is not trained (if it may), tests everything, writes the report."""
    study = open_study(config, workdir, corpora.load, may_train=may_train)
    corpus = study.data
    judges, read = writing.train_judges(study), writing.reader(study)
    test = corpus.parts["test"]

    def evaluate(name: str, seed: int) -> list[Row]:
        system, model = SYSTEMS[name], train_system(study, name, seed, read)
        rows: list[Row] = []
        beams = config.evaluate.beams
        # Where values are copied, once more with none said more often than the record has it.
        for once in (False, True) if system.copies else (False,):
            written = writing.write(config, corpus, model, system, test, beams=beams, once=once)
            edits = []
            if system.objective == "pair" and not system.marked and not once:
                edits = rewriting.edits(config, corpus, model, system)
            row = report.numbers(corpus, written, test, judges)
            shown = {"samples": written[: report.SHOWN], "edits": edits}
            title = system.title + (", values once" if once else "")
            rows.append({"system": title, **row, **shown})
        return rows

    rows = study.runs.rows(
        seeds_of(config), tuple(config.systems), evaluate, form={"system": str, "samples": list}
    )
    if jax.process_index() == 0:
        print(f"report: {report.write(study, rows, judges)}")


train = functools.partial(run, may_train=True)
evaluate_again = functools.partial(run, may_train=False)


def rewrite(config: Config, workdir: pathlib.Path) -> None:
    """Prints the sentence of a record in the style of a reference; see `rewriting`."""
    asked = rewriting.requests(config)
    study = open_study(config, workdir, corpora.load, may_train=False)
    name = config.rewrite.system
    model = train_system(study, name, config.seed, writing.reader(study))
    for line in rewriting.rewrite(config, study.data, model, SYSTEMS[name], asked):
        print(line)


def abstract(config: Config) -> tuple[RecordVocabulary, dict[str, jax.ShapeDtypeStruct]]:
    """A vocabulary of the config's sizes, and the shapes of a batch, for `--mode=compile`."""
    d, rows = config.data, config.train.batch_size
    words = (*SPECIAL, *(f"word{i}" for i in range(len(SPECIAL), d.vocab_size)))
    types = tuple(f"type{i}" for i in range(d.types))
    vocabulary = RecordVocabulary(words, d.generated, types, d.slots)
    record = jax.ShapeDtypeStruct((rows, d.max_tuples), jnp.int32)
    text = jax.ShapeDtypeStruct((rows, d.max_words + 1), jnp.int32)
    shapes = {
        f"{side}_{part}": record for side in ("x", "ref") for part in ("type", "value", "owner")
    }
    return vocabulary, shapes | dict.fromkeys(("y_aux", "y_ref", "y_marked"), text)


def compile_full(config: Config, _: pathlib.Path) -> None:
    """Compiles the full model's train step for `mesh.topology` and prints what one chip has to hold."""
    vocabulary, batch = abstract(config)
    make = lambda _: tasks.task(config, vocabulary, "full", SYSTEMS["full"])  # noqa: E731
    compile_task(config, make, batch)


MODES: dict[str, Mode] = {
    "train": train,
    "eval": evaluate_again,
    "rewrite": rewrite,
    "compile": compile_full,
}
