"""What a trained writer writes, which of its checkpoints is taken, and the judges of what is written."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from experiments.common.runs import Study
from experiments.content_manipulation.corpus import Corpus
from experiments.content_manipulation.systems import System
from jaxgen.config import Config
from jaxgen.data.style_records import Fact, StyleRecords
from jaxgen.errors import ConfigError
from jaxgen.evaluators.common import batched_apply
from jaxgen.evaluators.language_model import LanguageModel, LanguageModelOptions
from jaxgen.evaluators.record_extractor import RecordExtractor
from jaxgen.metrics.records import masked_bleu
from jaxgen.models.data_to_text import DataToText, RecordIds

BATCH = 100  # sentences that are written at once

Reader = Callable[[Sequence[str]], Sequence[frozenset[Fact]]]  # what sentences state


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


class ValidScore:
    """What a writer's sentences of the valid split are worth, for `jaxgen.train.selection.BestModel`.

    Attributes:
      numbers: of the last writer that was scored, to be logged.
    """

    def __init__(self, config: Config, corpus: Corpus, system: System, read: Reader):
        self.config, self.corpus, self.system, self.read = config, corpus, system, read
        self.numbers: dict[str, float] = {}

    def __call__(self, writer: DataToText) -> float:
        part = self.corpus.parts["valid"]
        written = write(self.config, self.corpus, writer, self.system, part, beams=1)
        found = self.corpus.score(self.read(written), part)
        kept = masked_bleu(written, part.y_ref, self.corpus.masked)
        # Sentences without content have no precision: nothing to select.
        empty = np.isnan(found.precision)
        self.numbers = {
            "valid_precision": 0.0 if empty else found.precision,
            "valid_recall": found.recall,
            "valid_f1": 0.0 if empty else found.f1,
            "valid_m_bleu": kept,
        }
        return content_above_style(
            self.numbers["valid_f1"], kept, floor=self.config.evaluate.m_bleu
        )


def content_above_style(f1: float, m_bleu: float, *, floor: float) -> float:
    """Content F1 where m-BLEU is at least the floor, above all that is below it; there m-BLEU counts."""
    return 100.0 + f1 if m_bleu >= floor else m_bleu


class Judges(NamedTuple):
    """Trained on sentences and records of train alone."""

    extractor: RecordExtractor
    lm: LanguageModel


def train_judges(study: Study[Corpus]) -> Judges:
    """A learned extractor and a language model of every second sentence of train."""
    corpus, j = study.data, study.config.judge
    options = LanguageModelOptions(j.width, j.depth, j.heads, j.steps, j.steps, j.learning_rate)
    real = corpus.tokens(corpus.parts["train"].y_aux[::2])
    lm = LanguageModel.train(study.runs, options, corpus.shape, real)
    return Judges(train_extractor(study), lm)


def reader(study: Study[Corpus]) -> Reader:
    """What checkpoints are selected by: the rules of a box score, or the learned extractor where content is values."""
    return train_extractor(study) if study.data.values else study.data.read


def train_extractor(study: Study[Corpus]) -> RecordExtractor:
    """Of values where content is values, else of numbers and names; kept in the workdir."""
    path, corpus = study.workdir / "extractor.npz", study.data
    if path.is_file():
        try:
            return RecordExtractor.load(path)
        except ConfigError:
            path.unlink()  # cut short while it was written
    made = RecordExtractor.train(corpus.parts["train"], corpus.masked if corpus.values else ())
    if jax.process_index() == 0:
        made.save(path)
    return made


def perplexity(judges: Judges, corpus: Corpus, sentences: Sequence[str]) -> float:
    """Of a word of these sentences under the language model, the end included."""
    return judges.lm.perplexity(corpus.tokens(sentences))
