"""Language models as discriminators: fields, and the loop over seeds and systems."""

import functools
import pathlib

import jax
import numpy as np

from experiments.common import fields
from experiments.common.runs import Study, open_study, seeds_of
from experiments.lm_discriminator import corpus as corpora
from experiments.lm_discriminator import report, tasks
from experiments.lm_discriminator.corpus import Corpus
from experiments.lm_discriminator.systems import SYSTEMS
from experiments.lm_discriminator.writing import Judges, Readers, judge_of_words, write
from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.errors import ConfigError
from jaxgen.launch import Mode
from jaxgen.models.style_transfer import StyleTransfer
from jaxgen.train.runs import Row
from jaxgen.train.state import TrainState

NAMES = {
    **fields.NAMES,
    "": "seed seeds task systems",
    "data": "source path train test limit max_words seed skew words share train_rows valid_rows "
    "test_rows tokenizer vocab_size max_tokens",
    "model": "width embedding dropout hide",
    "lm": "width depth heads dropout steps learning_rate",
    "classifier": "width word_dropout steps learning_rate",
    "autoencoder": "steps learning_rate",
    "transfer": "lm_weight classifier_weight critic_weight cycle_weight content_weight ngrams ramp gamma "
    "start end decay_steps",
    "evaluate": "every",
}
RUNTIME = (*fields.RUNTIME, "systems", "evaluate.")
SOURCES = {
    "decipher": ("grammar", "english", "files"),
    "sentiment": ("grammar", "files"),
    "related": ("files",),
}


def validate(config: Config) -> None:
    """Raises ConfigError for any value that cannot run; touches no device and no data."""
    c = config_lib
    c.check(config, {"task": c.one_of(*SOURCES)})
    some = c.integer(1, 2**31 - 1)
    rules = {
        "task": c.one_of(*SOURCES),
        "systems": c.some_of(*SYSTEMS),
        "data.source": c.one_of(*SOURCES[config.task]),
        "data.tokenizer": c.one_of("word"),
        "data.words": c.integer(2, 2**20),
        "data.share": c.number(0.0, 1.0),
        "data.skew": c.number(0.0, 10.0),
        **dict.fromkeys(("data.train_rows", "data.valid_rows", "data.test_rows"), some),
        "model.width": (lambda v: c.WIDTH[0](v) and v % 2 == 0, "an even number, at least 2"),
        "model.embedding": (lambda v: v == 0 or c.WIDTH[0](v), "0 (the width), or at least 1"),
        "model.hide": c.FRACTION,
        **dict.fromkeys(
            (f"transfer.{w}_weight" for w in ("lm", "classifier", "critic", "cycle", "content")),
            c.NON_NEGATIVE,
        ),
        "transfer.ramp": c.SOME_STEPS,
        "transfer.gamma": c.NON_NEGATIVE,
        "evaluate.every": c.STEPS,
    }
    c.check_fields(config, NAMES, rules)
    d = config.data
    if d.source == "grammar" and not 0 < d.limit <= 10**7:
        raise ConfigError("data.limit", d.limit, "1 to 10000000 sentences of the grammar")
    if d.source == "files" and not d.train:
        raise ConfigError("data.train", d.train, "at least one file name, for source files")
    if config.task == "related":
        for field in ("train", "test"):
            if len(d[field]) != 2:
                allowed = "two file names, one a language"
                raise ConfigError(f"data.{field}", tuple(d[field]), allowed)
    if config.task in ("decipher", "related") and d.max_words >= d.max_tokens:
        raise ConfigError("data.max_words", d.max_words, f"below data.max_tokens, {d.max_tokens}")
    fields.check_divides(config, "lm.heads", "lm.width")
    fields.check_ngrams(config, "transfer.ngrams", d.max_tokens)
    fields.check_run(config)


def train_readers(study: Study[Corpus], seed: int, *, judges: bool = False) -> Readers:
    """Language models of both styles and a classifier; of the judges' half, with another seed."""
    config, corpus, runs = study.config, study.data, study.runs
    parts, name = corpus.train, ""
    if judges:
        parts, name, seed = corpus.judged or corpus.train, "judge_", 1000
    lm, c = config.lm, config.classifier
    lms = []
    for style, part in enumerate(parts):
        task = tasks.style_lm_task(config, corpus.shape, style, f"{name}lm")
        arrays = {"target": part.ids}
        rate = {"steps": lm.steps, "learning_rate": lm.learning_rate}
        lms.append(runs.fit(task, seed, arrays, judging=judges, **rate))
    rows = max(len(part.ids) for part in parts)
    arrays = {str(i): np.resize(p.ids, (rows, p.ids.shape[1])) for i, p in enumerate(parts)}
    task = tasks.classifier_task(config, corpus.shape, f"{name}style_classifier")
    rate = {"steps": c.steps, "learning_rate": c.learning_rate}
    return Readers((lms[0], lms[1]), runs.fit(task, seed, arrays, judging=judges, **rate))


def train_system(study: Study[Corpus], name: str, seed: int, readers: Readers) -> StyleTransfer:
    """The generator of a system, from the autoencoder that all begin from."""
    config, corpus, system = study.config, study.data, SYSTEMS[name]
    start = study.runs.fit(
        tasks.start_task(config, corpus.shape, system.noise),
        seed,
        corpus.arrays(),
        steps=config.autoencoder.steps,
        learning_rate=config.autoencoder.learning_rate,
    )

    def evaluate(state: TrainState) -> dict[str, float]:
        players = state.model if state.ema is None else state.ema
        return report.progress(config, corpus, players.generator, readers)

    players = study.runs.fit(
        tasks.task(config, corpus.shape, name, system, start, *readers),
        seed,
        corpus.arrays(),
        eval_every=config.evaluate.every,
        evaluate=evaluate,
    )
    return players.generator


def run(config: Config, workdir: pathlib.Path, *, may_train: bool) -> None:
    """Trains what is not trained (if it may), tests everything, writes the report."""
    study = open_study(config, workdir, corpora.load, may_train=may_train)
    corpus = study.data
    judges = None
    if corpus.judged:
        judges = Judges(train_readers(study, 0, judges=True), judge_of_words(corpus.judged))
    readers = functools.lru_cache(maxsize=1)(functools.partial(train_readers, study))

    def evaluate(name: str, seed: int) -> list[Row]:
        g = train_system(study, name, seed, readers(seed))
        written = [write(config, corpus, g, part, i) for i, part in enumerate(corpus.test)]
        row = report.numbers(corpus, written, judges)
        shown = [texts[: report.SHOWN] for texts in written]
        return [{"system": SYSTEMS[name].title, **row, "samples": shown}]

    rows = study.runs.rows(
        seeds_of(config), tuple(config.systems), evaluate, form={"system": str, "samples": list}
    )
    if jax.process_index() == 0:
        print(f"report: {report.write(study, rows, judges)}")


train = functools.partial(run, may_train=True)
evaluate_again = functools.partial(run, may_train=False)

MODES: dict[str, Mode] = {"train": train, "eval": evaluate_again}
