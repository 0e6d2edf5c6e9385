"""Sentences with optional labels, from files, tables, the hub, tfds or the offline corpora.

`load` returns train, valid and test `Lines`. Where a source has no test part of its own, a hash of
each sentence decides its split, so a sentence is in the same split on every machine and exact
duplicates never straddle two.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from jaxgen.data import corpora, kept, labels, lines, records, splits, tables
from jaxgen.data.root import VARIABLE, expand
from jaxgen.errors import ConfigError

SOURCES = ("files", "table", "hf", "tfds", "grammar", "english")


@dataclasses.dataclass(frozen=True)
class Lines:
    """Sentences; `label` is None where the source has none."""

    text: list[str]
    label: Int[ndarray, " N"] | None = None

    def __len__(self) -> int:
        return len(self.text)

    def take(self, index: Iterable[int] | ndarray) -> "Lines":
        """These rows."""
        index = np.asarray(list(index), np.int64)
        label = None if self.label is None else self.label[index]
        return Lines([self.text[i] for i in index], label)

    def up_to(self, max_words: int) -> "Lines":
        """Those of at most that many words; 0 keeps all."""
        if not max_words:
            return self
        short = self.take([i for i, t in enumerate(self.text) if len(t.split()) <= max_words])
        kept.left_out(len(self) - len(short), f"texts of more than {max_words} words")
        return short


def data_root() -> pathlib.PurePath:
    """Where configs say that data lies which is not bundled: `$JAXGEN_DATA`, which `load` expands."""
    return pathlib.PurePath(f"${VARIABLE}")


def load(
    source: str,
    *,
    path: str = "",
    name: str = "",
    train: Sequence[str] = (),
    test: Sequence[str] = (),
    text_field: str = "text",
    label_field: str = "",
    valid_fraction: float = 0.05,
    test_fraction: float = 0.1,
    limit: int = 0,
    max_words: int = 0,
    seed: int = 0,
) -> dict[str, Lines]:
    """Reads a source whole: {"train", "valid", "test"}.

    Args:
      source: "files" (one sentence a line; a file's place in `train` is its label), "table" (CSV,
        JSON lines or Parquet), "hf" (a hub name or local folder for `datasets`), "tfds", "grammar"
        (generated, labelled by sentiment) or "english" (standard library documentation).
      path: folder of the files; for tfds, its data_dir.
      name: of the hub or tfds data set.
      train: file names under `path`.
      test: file names under `path`; empty takes a share of the sentences by hash. Sentences that
        are in train too are left out of the test part.
      text_field: column of a table.
      label_field: column of integer or string labels; "" for none. Labels are numbered in sorted order
        over all tables of `train`; `test` follows that numbering.
      limit: keep at most this many train sentences, of each label its share; 0 keeps all.
      max_words: longer sentences are left out of all parts; 0 keeps all.
      seed: of the generated corpus.

    Raises:
      ConfigError: a missing or unreadable file, an unknown field or source, a label that is missing or
        that `train` lacks, nothing to train on: what and where.
    """
    if source not in SOURCES:
        raise ConfigError("data.source", source, "one of " + ", ".join(SOURCES))
    splits.check_limit(limit)
    root = pathlib.Path(expand(path))
    if source == "grammar":
        rows = corpora.grammar(limit or 20_000, seed=seed)
        found = Lines([r.text for r in rows], np.array([r.sentiment for r in rows], np.int32))
        found = found.up_to(max_words)
        return split(found, valid_fraction=valid_fraction, test_fraction=test_fraction)
    numbers: Mapping[labels.Label, int] = {}
    if source == "english":
        found = Lines(corpora.english())
    elif source == "files":
        found = read_files(root, train)
    else:
        if source == "table":
            parts = read_tables(root, train, text_field, label_field)
        elif source == "hf":
            rows = tables.hub_rows(name, path, (label_field,))
            parts = [_from_rows(rows, name, text_field, label_field)]
        else:
            rows = tables.tfds_rows(name, path, (label_field,))
            parts = [_from_rows(rows, name, text_field, label_field)]
        numbers = labels.number(parts)
        found = _join(parts, numbers)
    found = found.up_to(max_words)
    if not len(found):
        raise ConfigError("data.max_words", max_words, "more words: no text is that short")
    count = len(found)
    found = found.take(splits.spread(count, limit, found.label))
    kept.left_out(count - len(found), "texts beyond data.limit")
    if not test:
        return split(found, valid_fraction=valid_fraction, test_fraction=test_fraction)
    if source == "files":
        held = read_files(root, test)
        if found.label is None:
            held = Lines(held.text)
        elif len(test) != len(train):
            wanted = "as many files as data.train, whose place is their label"
            raise ConfigError("data.test", tuple(test), wanted)
    else:
        held = _join(read_tables(root, test, text_field, label_field), numbers)
    held = held.up_to(max_words)
    known = set(found.text)
    new = [i for i, t in enumerate(held.text) if t not in known]
    kept.left_out(len(held) - len(new), "test texts that are in train too")
    held = held.take(new)
    return split(found, valid_fraction=valid_fraction, test_fraction=0.0) | {"test": held}


def read_files(root: pathlib.Path, names: Sequence[str]) -> Lines:
    """One sentence a line (plain or .gz); with several files, a file's place is its label.

    Lines end as in `jaxgen.data.lines`; spaces within a sentence become one space, blank lines are left out.

    Raises:
      ConfigError: names the file that is missing, empty, damaged or not UTF-8.
    """
    if not names:
        raise ConfigError("data.train", tuple(names), "at least one file name")
    text: list[str] = []
    label: list[int] = []
    for i, name in enumerate(names):
        every = [" ".join(line.split()) for line in lines.read_lines(root / name)]
        found = [line for line in every if line]
        kept.left_out(len(every) - len(found), "blank texts")
        if not found:
            raise ConfigError("data", str(root / name), "a file with at least one sentence")
        text += found
        label += [i] * len(found)
    return Lines(text, np.array(label, np.int32) if len(names) > 1 else None)


def read_tables(
    root: pathlib.Path, names: Sequence[str], text_field: str, label_field: str
) -> list[labels.Rows]:
    """CSV, JSON lines or Parquet files, by their endings; see `records.read`.

    Raises:
      ConfigError: names the file, and what is wrong with it.
    """
    if not names:
        raise ConfigError("data.train", tuple(names), "at least one file name")
    return [records.read(root / name, text_field, label_field) for name in names]


def _from_rows(
    rows: tables.DataSource, name: str, text_field: str, label_field: str
) -> labels.Rows:
    """From random-access rows that are dicts."""
    if not len(rows):
        raise ConfigError("data.name", name, "a data set with at least one row")
    for field in filter(None, (text_field, label_field)):
        if field not in tables.fields(rows):
            known = "one of " + ", ".join(sorted(tables.fields(rows)))
            raise ConfigError("data.text_field, data.label_field", field, known)
    text, label, where = [], [], []
    for i in range(len(rows)):
        row = rows[i]
        line = records.sentence(row[text_field], f"{name}, row {i + 1}")
        if line:
            text.append(line)
            label.append(row[label_field] if label_field else None)
            where.append(i + 1)
    kept.left_out(len(rows) - len(text), "blank texts")
    classes = tables.class_count(rows, label_field)
    return labels.Rows(text, label if label_field else [], f"{name}, row", where, classes)


def _join(parts: Sequence[labels.Rows], numbers: Mapping[labels.Label, int]) -> Lines:
    """The rows of all tables, with their labels by a numbering where there is one."""
    text = [line for part in parts for line in part.text]
    return Lines(text, labels.numbered(parts, numbers) if numbers else None)


def split(lines: Lines, *, valid_fraction: float, test_fraction: float) -> dict[str, Lines]:
    """Assigns each sentence by its SHA-256; equal sentences fall into the same part.

    Raises:
      ConfigError: fractions that are negative or leave nothing to train on.
    """
    if not (valid_fraction >= 0 and test_fraction >= 0 and valid_fraction + test_fraction < 1):
        raise ConfigError(
            "data.valid_fraction, data.test_fraction",
            (valid_fraction, test_fraction),
            "0 or more, with a sum below 1",
        )
    index = splits.split_by_hash(
        map(str.encode, lines.text), valid_fraction=valid_fraction, test_fraction=test_fraction
    )
    return {name: lines.take(rows) for name, rows in index.items()}
