"""Records with references as ids, from a config, and how the content of what is written is read."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from jaxgen.config import Config
from jaxgen.data import kept, record_grammar, style_records
from jaxgen.data.record_arrays import BEGIN, END, PAD, UNKNOWN, RecordVocabulary
from jaxgen.data.style_records import Fact, StyleRecords
from jaxgen.data.tokens import TokenIds, TokenShape
from jaxgen.metrics import box_score
from jaxgen.metrics.records import Names, PrecisionRecall, score
from jaxgen.text.templates import mark, without_values

READERS = ("box_score", "values")


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Splits of a data set, within the config's sizes.

    Attributes:
      names: of players and teams, from train; without any where values are read.
      values: whether content is all values, of the types that the words around them say; else it is tuples of
        numbers.
      masked: words that m-BLEU masks beside numbers and pronouns.
      tuples: M, of a record at most; `words` T, of a sentence, its end token included.
      left_out: items that were too long, by reason.
    """

    parts: dict[str, StyleRecords]
    vocabulary: RecordVocabulary
    names: Names
    values: bool
    masked: frozenset[str]
    tuples: int
    words: int
    left_out: dict[str, int]

    @property
    def shape(self) -> TokenShape:
        """Sizes for a language model of sentences."""
        size = len(self.vocabulary)
        return TokenShape(size, size, self.words, BEGIN, END, UNKNOWN, PAD)

    def arrays(self, part: StyleRecords) -> dict[str, Int[np.ndarray, "N _"]]:
        """Ids of `RecordVocabulary.arrays`, and y_marked: references with marks in place of values."""
        sizes = {"tuples": max(self.tuples, _most(part)), "words": self.words}
        made = self.vocabulary.arrays(part, **sizes)
        marked = [without_values(x, y) for x, y in zip(part.x_ref, part.y_ref, strict=True)]
        again = self.vocabulary.arrays(dataclasses.replace(part, y_ref=marked), **sizes)
        return made | {"y_marked": again["y_ref"]}

    def tokens(self, sentences: Sequence[str]) -> TokenIds:
        """Ids of sentences for a language model; what has none is the unknown word."""
        ids = {w: i for i, w in enumerate(self.vocabulary.words)}
        out = np.full((len(sentences), self.words), PAD, np.int32)
        for line, text in zip(out, sentences, strict=True):
            row = [*(ids.get(w, UNKNOWN) for w in text.split()), END][: self.words]
            line[: len(row)] = row
        return out

    def read(self, sentences: Sequence[str]) -> list[frozenset[Fact]]:
        """What sentences state of numbers, by the rules of a box score."""
        return [box_score.extract(text.split(), self.names) for text in sentences]

    def score(self, found: Sequence[frozenset[Fact]], part: StyleRecords) -> PrecisionRecall:
        """Of tuples that sentences state, against the records x of a split."""
        numbers = not self.values
        return score(found, part.x, self.names, owners=numbers, numbers_only=numbers)


def _most(part: StyleRecords) -> int:
    return max(len(record) for side in (part.x, part.x_ref) for record in side)


def load(config: Config, workdir: pathlib.Path) -> Corpus:
    """Reads (or makes) the data of a config; items that are too long are left out."""
    d = config.data
    read: dict[str, Callable[[], dict[str, StyleRecords]]] = {
        "grammar": functools.partial(
            record_grammar.load, train=d.limit, valid=d.valid_rows, test=d.test_rows, seed=d.seed
        )
    }
    load_files = functools.partial(
        style_records.load, d.source, path=d.path, train=d.train, valid=d.valid, test=d.test
    )
    with kept.tally() as left_out:
        parts = read.get(d.source, load_files)()
        if d.source != "grammar":
            sizes = {"max_tuples": d.max_tuples, "max_words": d.max_words}
            parts = {name: style_records.shorter(part, **sizes) for name, part in parts.items()}
            for name, rows in (("train", d.limit), ("valid", d.valid_rows), ("test", d.test_rows)):
                parts[name] = _spread(parts[name], rows)
    return corpus_of(config, parts, dict(left_out))


def _spread(part: StyleRecords, rows: int) -> StyleRecords:
    """At most so many items, evenly spread; 0 is all."""
    if not rows or rows >= len(part):
        return part
    return part.take(np.linspace(0, len(part) - 1, rows).round().astype(int).tolist())


def corpus_of(config: Config, parts: dict[str, StyleRecords], left_out: dict[str, int]) -> Corpus:
    """Vocabulary, names and marks of the train split."""
    d, train = config.data, parts["train"]
    kinds = sorted({f.type for x in (*train.x, *train.x_ref) for f in x})
    vocabulary = RecordVocabulary.build(
        train, min_count=d.min_count, slots=d.slots, marks=[mark(kind) for kind in kinds]
    )
    values = d.content == "values"
    names = Names.of(train.x)
    known = {f.value for side in (train.x, train.x_ref) for x in side for f in x}
    masked = frozenset(known if values else names.classes)
    return Corpus(
        parts,
        vocabulary,
        names,
        values,
        masked,
        d.max_tuples,
        d.max_words + 1,
        left_out,
    )
