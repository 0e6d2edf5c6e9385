"""Protein sequences with a measured value: CSV files, and the peptide sets that modlamp ships."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from jaxgen.data import kept, records, splits
from jaxgen.data.root import expand
from jaxgen.errors import ConfigError

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
# IUPAC's ambiguity codes, rare residues, stop, and gaps. `J` is a gap in some published sets.
LETTERS = AMINO_ACIDS + "BJOUXZ*-."
GAP = "-"
PAD = 0  # id of padding; letters follow
SETS = ("AMPvsUniProt", "AMPvsTM", "ACPvsTM", "ACPvsRandom")  # that modlamp ships


@dataclasses.dataclass(frozen=True)
class Proteins:
    """Sequences as text and their values."""

    text: list[str]
    value: Float[ndarray, " N"]

    def __len__(self) -> int:
        return len(self.text)

    def take(self, index: Iterable[int] | ndarray) -> "Proteins":
        """These rows."""
        index = np.asarray(list(index), np.int64)
        return Proteins([self.text[i] for i in index], self.value[index])


@dataclasses.dataclass(frozen=True)
class Alphabet:
    """Letters of a data set; id 0 is padding (shown as nothing), letter i has id i + 1."""

    letters: str

    @classmethod
    def of(cls, sequences: Iterable[str]) -> "Alphabet":
        """The letters that occur, sorted."""
        return cls("".join(sorted(set().union(*map(set, sequences)))))

    def __len__(self) -> int:
        return len(self.letters) + 1

    def encode(self, sequences: Sequence[str], length: int) -> Int[ndarray, "N T"]:
        """Ids, padded on the right.

        Raises:
          ConfigError: a sequence longer than `length`, or a letter that is not in the alphabet.
        """
        ids = {c: i + 1 for i, c in enumerate(self.letters)}
        out = np.full((len(sequences), length), PAD, np.int32)
        for row, sequence in enumerate(sequences):
            if len(sequence) > length:
                raise ConfigError(
                    "data.max_tokens", len(sequence), f"sequences of at most {length} letters"
                )
            try:
                out[row, : len(sequence)] = [ids[c] for c in sequence]
            except KeyError as e:
                raise ConfigError("sequence", sequence, f"letters of {self.letters}") from e
        return out

    def decode(self, ids: Int[ndarray, "N T"]) -> list[str]:
        """Letters of each row, without padding."""
        table = np.array(["", *self.letters])
        return ["".join(row) for row in table[np.asarray(ids)]]


def load(
    source: str,
    *,
    path: str = "",
    train: str = "",
    test: str = "",
    sequence_field: str = "",
    value_field: str = "",
    alphabet: str = "",
    valid_fraction: float = 0.05,
    test_fraction: float = 0.2,
    limit: int = 0,
) -> dict[str, Proteins]:
    """Reads a source whole: {"train", "valid", "test"}.

    Args:
      source: "csv", or one of modlamp's sets: "AMPvsUniProt", "AMPvsTM", "ACPvsTM", "ACPvsRandom"
        (value 1 for active peptides, 0 for the others).
      path: folder of the CSV files (plain or .gz).
      train: file name under `path`, of rows `sequence,value` below a header.
      test: another one; "" takes a share of the sequences by hash.
      sequence_field: column; "" is the first.
      value_field: column; "" is the second.
      alphabet: letters that may occur; "" allows IUPAC's codes, `*` and the gaps `-`, `.` and `J`.
      limit: keep at most this many train sequences, evenly spread; 0 keeps all.

    Raises:
      ConfigError: an unknown source, or a bad row, named with its file and line.
    """
    splits.check_limit(limit)
    columns = {"sequence_field": sequence_field, "value_field": value_field, "alphabet": alphabet}
    held = None
    if source == "csv":
        folder = pathlib.Path(expand(path))
        rows = read_csv(folder / train, **columns)
        held = read_csv(folder / test, **columns) if test else None
    else:
        rows = _from_modlamp(source)
    found = len(rows)
    rows = rows.take(splits.spread(found, limit))
    kept.left_out(found - len(rows), "sequences beyond data.limit")
    index = splits.split_by_hash(
        map(str.encode, rows.text),
        valid_fraction=valid_fraction,
        test_fraction=0.0 if held else test_fraction,
    )
    parts = {name: rows.take(chosen) for name, chosen in index.items()}
    if not len(parts["train"]):
        raise ConfigError(
            "data", f"{len(rows)} rows", "at least one that falls into the train part"
        )
    return parts if held is None else parts | {"test": held}


def read_csv(
    path: pathlib.Path, *, sequence_field: str = "", value_field: str = "", alphabet: str = ""
) -> Proteins:
    """Rows of a CSV file with a header (plain or .gz); see `load`.

    Raises:
      ConfigError: names the file, the line and the value that is wrong. A first row that is a sequence
        and a number is no header, and refused as such.
    """
    if not os.path.isfile(path):
        raise ConfigError("data", str(path), "an existing CSV file")
    allowed = set(alphabet or LETTERS)
    rows = records.csv_rows(path)
    header = rows[0][1] if rows else []
    if len(header) < 2:
        raise ConfigError("data", str(path), "a header with at least two columns")
    where = []
    for field, default in ((sequence_field, 0), (value_field, 1)):
        where.append(records.column(header, field, str(path)) if field else default)
    first, second = (header[i] for i in where)
    if not first or not second or (set(first) <= allowed and _number(second) is not None):
        wanted = "a header such as sequence,value above the rows"
        raise ConfigError(f"{path}, line {rows[0][0]}", ",".join(header), wanted)
    text, values = [], []
    for line, row in rows[1:]:
        place = f"{path}, line {line}"
        sequence, value = (row[i].strip() for i in where)
        unknown = sorted(set(sequence) - allowed)
        if unknown or not sequence:
            want = "letters of " + "".join(sorted(allowed))
            raise ConfigError(place, "".join(unknown) or "an empty sequence", want)
        number = _number(value)
        if number is None or not abs(number) <= float(np.finfo(np.float32).max):
            wanted = "a finite number that float32 can hold"
            raise ConfigError(place, value or "a missing value", wanted)
        text.append(sequence)
        values.append(number)
    if not text:
        raise ConfigError("data", str(path), "at least one row below the header")
    return Proteins(text, np.array(values, np.float32))


def _number(cell: str) -> float | None:
    """A cell's number; None if it is none (`1_000` is Python's notation, not that of tables)."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _from_modlamp(name: str) -> Proteins:
    """A set that modlamp ships."""
    if name not in SETS:
        raise ConfigError("data.source", name, "one of csv, " + ", ".join(SETS))
    try:
        from modlamp import datasets
    except ImportError as e:
        raise ConfigError("data.source", name, "needs modlamp: install the extra `data`") from e
    bunch = getattr(datasets, f"load_{name}")()
    text = ["".join(str(s).split()) for s in bunch.sequences]
    target = np.asarray(bunch.target, np.float32)
    # One sequence of UniProt may be listed twice.
    first = {t: i for i, t in reversed(list(enumerate(text)))}
    keep = [i for t, i in first.items() if t and set(t) <= set(LETTERS)]
    kept.left_out(len(text) - len(keep), "sequences listed twice or of other letters")
    return Proteins(text, target).take(sorted(keep))
