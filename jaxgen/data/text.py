"""Sentences with optional labels, from files, tables, the hub, tfds or the offline corpora.

`load` returns train, valid and test `Lines`. Where a source has no test part of its own, a hash of
each sentence decides its split, so a sentence is in the same split on every machine and exact
duplicates never straddle two.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from jaxgen.data import corpora, kept, splits, tables
from jaxgen.errors import ConfigError

SOURCES = ("files", "table", "hf", "tfds", "grammar", "english")


@dataclasses.dataclass(frozen=True)
class Lines:
    """Sentences; `label` is None where the source has none."""

    text: list[str]
    label: Int[ndarray, " N"] | None = None

    def __len__(self) -> int:
        return len(self.text)

    def take(self, index: Any) -> "Lines":
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


def data_root() -> pathlib.Path:
    """Where data sets lie: $JAXGEN_DATA, or ../shared/data beside the checkout."""
    return pathlib.Path(os.environ.get("JAXGEN_DATA", "../shared/data"))


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
      label_field: column of integer or string labels; "" for none.
      limit: keep at most this many train sentences (evenly over the labels' files); 0 keeps all.
      max_words: longer sentences are left out of all parts; 0 keeps all.
      seed: of the generated corpus.

    Raises:
      ConfigError: a missing or unreadable file, an unknown field or source: what and where.
    """
    if source not in SOURCES:
        raise ConfigError("data.source", source, "one of " + ", ".join(SOURCES))
    root = pathlib.Path(path)
    if source == "grammar":
        rows = corpora.grammar(limit or 20_000, seed=seed)
        lines = Lines([r.text for r in rows], np.array([r.sentiment for r in rows], np.int32))
        lines = lines.up_to(max_words)
        return split(lines, valid_fraction=valid_fraction, test_fraction=test_fraction)
    if source == "english":
        lines = Lines(corpora.english())
    elif source == "files":
        if not train:
            raise ConfigError("data.train", tuple(train), "at least one file name")
        lines = read_files(root, train)
    elif source == "table":
        lines = read_tables(root, train, text_field, label_field)
    elif source == "hf":
        lines = _from_rows(tables.hub_rows(name, path), text_field, label_field)
    else:
        lines = _from_rows(tables.tfds_rows(name, path), text_field, label_field)
    lines = lines.up_to(max_words)
    if limit and limit < len(lines):
        kept.left_out(len(lines) - limit, "texts beyond data.limit")
        lines = lines.take(np.linspace(0, len(lines) - 1, limit).round().astype(int))
    if not test:
        return split(lines, valid_fraction=valid_fraction, test_fraction=test_fraction)
    held = (
        read_files(root, test)
        if source == "files"
        else read_tables(root, test, text_field, label_field)
    )
    held = held.up_to(max_words)
    known = set(lines.text)
    new = [i for i, t in enumerate(held.text) if t not in known]
    kept.left_out(len(held) - len(new), "test texts that are in train too")
    held = held.take(new)
    parts = split(lines, valid_fraction=valid_fraction, test_fraction=0.0)
    return {"train": parts["train"], "valid": parts["valid"], "test": held}


def read_files(root: pathlib.Path, names: Sequence[str]) -> Lines:
    """One sentence a line (plain or .gz); with several files, a file's place is its label.

    Raises:
      ConfigError: names the file that is missing, empty or not UTF-8.
    """
    text: list[str] = []
    label: list[int] = []
    for i, name in enumerate(names):
        lines = [" ".join(line.split()) for line in read_text(root / name).splitlines()]
        blank = sum(not line for line in lines)
        kept.left_out(blank, "blank texts")
        lines = [line for line in lines if line]
        if not lines:
            raise ConfigError("data", str(root / name), "a file with at least one sentence")
        text += lines
        label += [i] * len(lines)
    return Lines(text, np.array(label, np.int32) if len(names) > 1 else None)


def read_text(path: pathlib.Path) -> str:
    """A whole UTF-8 file, plain or gzipped.

    Raises:
      ConfigError: names the file.
    """
    import gzip

    if not path.is_file():
        raise ConfigError("data", str(path), "an existing text file")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return raw.decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as e:
        raise ConfigError("data", str(path), f"a readable UTF-8 file ({e})") from e


def read_tables(
    root: pathlib.Path, names: Sequence[str], text_field: str, label_field: str
) -> Lines:
    """CSV, JSON lines or Parquet files, by their endings, through `datasets`.

    Raises:
      ConfigError: names the file, and what is wrong with it.
    """
    import datasets

    kinds = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
    if not names:
        raise ConfigError("data.train", tuple(names), "at least one file name")
    parts = []
    for name in names:
        path = root / name
        if not path.is_file() or path.suffix not in kinds:
            raise ConfigError("data", str(path), "an existing file ending in " + ", ".join(kinds))
        options = {"delimiter": "\t"} if path.suffix == ".tsv" else {}
        try:
            parts.append(
                datasets.load_dataset(
                    kinds[path.suffix], data_files=str(path), split="train", **options
                )
            )
        except Exception as e:  # `datasets` wraps parser errors in several classes
            cause = e.__cause__ or e
            raise ConfigError("data", str(path), f"a readable table ({cause})") from e
    return _from_rows(datasets.concatenate_datasets(parts), text_field, label_field)


def _from_rows(rows: Any, text_field: str, label_field: str) -> Lines:
    """From random-access rows that are dicts."""
    if not len(rows):
        raise ConfigError("data", 0, "at least one row")
    for field in filter(None, (text_field, label_field)):
        if field not in rows[0]:
            known = "one of " + ", ".join(sorted(rows[0]))
            raise ConfigError("data.text_field, data.label_field", field, known)
    text, labels = [], []
    for i in range(len(rows)):
        row = rows[i]
        value = row[text_field]
        line = value.decode() if isinstance(value, bytes) else str(value or "")
        line = " ".join(line.split())
        if line:
            text.append(line)
            labels.append(row[label_field] if label_field else 0)
    kept.left_out(len(rows) - len(text), "blank texts")
    if not label_field:
        return Lines(text)
    names = {v: i for i, v in enumerate(sorted(set(labels)))}
    return Lines(text, np.array([names[v] for v in labels], np.int32))


def split(lines: Lines, *, valid_fraction: float, test_fraction: float) -> dict[str, Lines]:
    """Assigns each sentence by its SHA-256; equal sentences fall into the same part.

    Raises:
      ConfigError: fractions that are negative or leave nothing to train on.
    """
    if min(valid_fraction, test_fraction) < 0 or valid_fraction + test_fraction >= 1:
        raise ConfigError(
            "data.valid_fraction, data.test_fraction",
            (valid_fraction, test_fraction),
            "0 or more, with a sum below 1",
        )
    index = splits.by_hash(
        map(str.encode, lines.text), valid_fraction=valid_fraction, test_fraction=test_fraction
    )
    return {name: lines.take(rows) for name, rows in index.items()}
