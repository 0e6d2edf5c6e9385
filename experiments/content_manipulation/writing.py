"""What a trained writer writes, which of its checkpoints is taken, and the judges of what is written."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from numpy import ndarray

from experiments.common.runs import Study
from experiments.content_manipulation.corpus import Corpus
from experiments.content_manipulation.systems import System
from experiments.content_manipulation.tasks import Players
from jaxgen.config import Config
from jaxgen.data.style_records import StyleRecords
from jaxgen.errors import ConfigError
from jaxgen.evaluators.common import batched_apply
from jaxgen.evaluators.language_model import LanguageModel, LanguageModelOptions
from jaxgen.evaluators.record_extractor import RecordExtractor
from jaxgen.metrics.records import masked_bleu
from jaxgen.models.data_to_text import DataToText, RecordIds
from jaxgen.train import state as state_lib

BATCH = 100  # sentences that are written at once


def write(
    config: Config,
    corpus: Corpus,
    model: DataToText,
    system: System,
    part: StyleRecords,
    *,
    beams: int,
    once: bool = False,
) -> list[str]:
    """A sentence for each item: its record x in its reference's style; `once`: each value as often as it is there."""
    arrays = corpus.arrays(part)
    style = arrays["y_marked" if system.marked else "y_ref"]
    rows = {f: arrays[f"x_{f}"] for f in ("type", "value", "owner")} | {"style": style}
    run = _writer(config.evaluate.max_words, beams, once)
    tokens = batched_apply(run, model, rows, batch=min(BATCH, len(part)))
    return corpus.vocabulary.sentences(tokens, part)


class _Run(NamedTuple):
    """What `_written` is compiled for."""

    max_tokens: int
    beams: int
    once: bool


def _writer(max_tokens: int, beams: int, once: bool):
    options = _Run(max_tokens, beams, once)
    return lambda model, rows: _written(model, rows, options)


def _jitted(model: DataToText, rows: Mapping[str, Array], options: _Run) -> Array:
    record = RecordIds(rows["type"], rows["value"], rows["owner"])
    found = model.write(record, rows["style"], **options._asdict())
    return found.tokens


_written = jax.jit(_jitted, static_argnums=2)


class Selection:
    """Keeps the averaged weights with the best content among those that keep the style.

    The best weights and their score are part of the train state, so that they are in its checkpoints: a run that
    goes on knows them. It is a `jaxgen.train.loop.Adapt`.
    """

    def __init__(self, config: Config, corpus: Corpus, system: System):
        self.config, self.corpus, self.system = config, corpus, system
        self.best: DataToText | None = None
        self.numbers: dict[str, float] = {}

    def extra(self, model: PyTree) -> dict[str, PyTree]:
        """The part of a fresh train state that it keeps; `model` may be shapes."""
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), model)
        return {"best": zeros, "score": jnp.full((), -1.0)}

    def score(self, f1: float, m_bleu: float) -> float:
        """Content F1 where m-BLEU is at least the floor, above all that is below it; there m-BLEU counts."""
        floor = self.config.evaluate.m_bleu
        return 100.0 + f1 if m_bleu >= floor else m_bleu

    def due(self, step: int) -> bool:
        """Whether this step's weights are looked at."""
        return step % self.config.evaluate.every == 0 or step == self.config.train.steps

    def __call__(self, step: int, state: state_lib.TrainState) -> state_lib.TrainState:
        if not self.due(step):
            return state
        players: Players = state_lib.averaged(state)
        part = self.corpus.parts["valid"]
        written = write(self.config, self.corpus, players.writer, self.system, part, beams=1)
        found = self.corpus.content(written, part)
        kept = masked_bleu(written, part.y_ref, self.corpus.masked)
        # Sentences without content have no precision: nothing to select.
        f1 = 0.0 if np.isnan(found.precision) else found.f1
        self.numbers = {
            "valid_precision": 0.0 if np.isnan(found.precision) else found.precision,
            "valid_recall": found.recall,
            "valid_f1": f1,
            "valid_m_bleu": kept,
        }
        value = self.score(f1, kept)
        if value <= float(state.extra["score"]):
            return state
        copied = jax.tree.map(jnp.copy, players.writer)
        self.best = jax.tree.map(np.asarray, copied)
        score = jnp.full_like(state.extra["score"], value)
        return dataclasses.replace(state, extra={"best": copied, "score": score})

    def history(self) -> dict[str, ndarray]:
        """Nothing: all is in the state."""
        return {}

    def resume(self, state: state_lib.TrainState, history: Mapping[str, ndarray]) -> None:
        """The best weights so far."""
        if float(state.extra["score"]) >= 0:
            self.best = jax.tree.map(np.asarray, state.extra["best"])


class Judges(NamedTuple):
    """Trained on sentences and records of train alone."""

    extractor: RecordExtractor | None
    lm: LanguageModel


def train_judges(study: Study[Corpus]) -> Judges:
    """A learned extractor (kept in the workdir) and a language model of every second sentence of train."""
    corpus, j = study.data, study.config.judge
    train = corpus.parts["train"]
    extractor = None
    if not corpus.values:
        extractor = _extractor(study.workdir / "extractor.npz", train)
    options = LanguageModelOptions(j.width, j.depth, j.heads, j.steps, j.steps, j.learning_rate)
    real = corpus.tokens(train.y_aux[::2])
    return Judges(extractor, LanguageModel.train(study.runs, options, corpus.shape, real))


def _extractor(path: pathlib.Path, train: StyleRecords) -> RecordExtractor:
    if path.is_file():
        try:
            return RecordExtractor.load(path)
        except ConfigError:
            path.unlink()  # cut short while it was written
    made = RecordExtractor.train(train)
    if jax.process_index() == 0:
        made.save(path)
    return made


def perplexity(judges: Judges, corpus: Corpus, sentences: Sequence[str]) -> float:
    """Of a word of these sentences under the language model, the end included."""
    return judges.lm.perplexity(corpus.tokens(sentences))
