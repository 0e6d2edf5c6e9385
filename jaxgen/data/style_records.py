"""Records with sentences in whose style they are to be written: Wang et al. (2019), arXiv:1901.09501.

An item is a record x, a sentence y_aux that states it, a reference sentence y_ref whose style is wanted, and the
record x_ref that the reference states. A record is a set of (type, value, owner); a value is one word.

Eight fields hold an item, each a line of its own file or a cell of a table:

    x_type x_value x_associated   x_ref_type x_ref_value x_ref_associated   y_aux y_ref

of which the six of records have as many words as the record has tuples ("associated" is the owner).
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from jaxgen.data import kept, lines, records
from jaxgen.data.root import expand
from jaxgen.errors import ConfigError

SOURCES = ("parallel", "table")
PARTS = ("type", "value", "associated")
FIELDS = (*(f"x_{p}" for p in PARTS), *(f"x_ref_{p}" for p in PARTS), "y_aux", "y_ref")
FOLDERS = {"train": "train", "valid": "val", "test": "test"}


class Fact(NamedTuple):
    """One tuple of a record: the value of a type, and whose it is."""

    type: str
    value: str
    owner: str


Record: TypeAlias = tuple[Fact, ...]


@dataclasses.dataclass(frozen=True)
class StyleRecords:
    """Items of one split; sentences are tokenised, words split by spaces.

    Attributes:
      x: the records to write.
      x_ref: what the references state.
      y_aux: sentences that state x, in another style than the reference's.
      y_ref: the references.
    """

    x: list[Record]
    x_ref: list[Record]
    y_aux: list[str]
    y_ref: list[str]

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Sequence[int]) -> "StyleRecords":
        """These items, in this order."""
        x, x_ref = ([side[i] for i in rows] for side in (self.x, self.x_ref))
        y_aux, y_ref = ([side[i] for i in rows] for side in (self.y_aux, self.y_ref))
        return StyleRecords(x, x_ref, y_aux, y_ref)


def load(
    source: str, *, path: str, train: str = "", valid: str = "", test: str = ""
) -> dict[str, StyleRecords]:
    """{"train", "valid", "test"}.

    References that a split lacks are recovered from the train split; see `recover_references`.

    Args:
      source: "parallel" (below `path`, folders train, val and test with files such as x_type.train.txt,
        x_type.valid.txt and x_type.test.txt, as the data sets were published) or "table".
      path: folder; may begin with `$JAXGEN_DATA`.
      train: of a table, the file under `path`: CSV, JSON (lines) or Parquet, with `FIELDS` as columns.
      valid: as `train`.
      test: as `train`.

    Raises:
      ConfigError: an unknown source, and as `read_parallel` and `read_table`.
    """
    if source not in SOURCES:
        raise ConfigError("data.source", source, "one of " + ", ".join(SOURCES))
    folder = pathlib.Path(expand(path))
    out: dict[str, StyleRecords] = {}
    for name, file in (("train", train), ("valid", valid), ("test", test)):
        if source == "table":
            if not file:
                raise ConfigError(f"data.{name}", file, "a file name")
            part = read_table(folder / file)
        else:
            part = read_parallel(folder / FOLDERS[name], name)
        out[name] = part if part.y_ref else with_references(part, out.get("train", part))
    return out


def read_parallel(folder: pathlib.Path, suffix: str) -> StyleRecords:
    """Items of files side by side, FIELD.SUFFIX.txt; `y_ref` is empty where its file is not there.

    Raises:
      ConfigError: a missing file, files of different length, or what `make_record` refuses: names file and line.
    """
    names = {field: folder / f"{field}.{suffix}.txt" for field in FIELDS}
    if not names["y_ref"].is_file():
        del names["y_ref"]
    columns = {field: lines.read_lines(path) for field, path in names.items()}
    count = len(columns["x_type"])
    for field, column in columns.items():
        if len(column) != count:
            wanted = f"{count} lines, as {names['x_type'].name} has"
            raise ConfigError(str(names[field]), f"of {len(column)} lines", wanted)
    return _items(columns, [f"{folder}, line {i}" for i in range(1, count + 1)])


def read_table(path: pathlib.Path) -> StyleRecords:
    """Items of a table with `FIELDS` as columns; a JSON cell of a record may be a list of words too.

    Raises:
      ConfigError: as `jaxgen.data.records.read`, and what `make_record` refuses: names file and line.
    """
    unit, rows = records.cells(path, FIELDS)
    columns: dict[str, list[str]] = {field: [] for field in FIELDS}
    places = []
    for at, row in rows:
        places.append(f"{path}, {unit} {at}")
        for field, cell in zip(FIELDS, row, strict=True):
            words = [cell] if not isinstance(cell, list) or field.startswith("y_") else cell
            if any(len(str(w).split()) != 1 for w in words) and isinstance(cell, list):
                raise ConfigError(f"{field} of {places[-1]}", cell, "words without spaces")
            columns[field].append(" ".join(records.sentence(w, places[-1]) for w in words))
    return _items(columns, places)


def _items(columns: Mapping[str, Sequence[str]], places: Sequence[str]) -> StyleRecords:
    if not places:
        raise ConfigError("data", "no item", "at least one")
    sides = []
    for side in ("x_", "x_ref_"):
        split = [[line.split() for line in columns[side + part]] for part in PARTS]
        sides.append([make_record(*row) for row in zip(*split, places, strict=True)])
    texts = []
    for field in ("y_aux", "y_ref"):
        texts.append([" ".join(line.split()) for line in columns.get(field, ())])
        for line, place in zip(texts[-1], places, strict=False):
            if not line:
                raise ConfigError(f"{field} of {place}", line, "a sentence")
    return StyleRecords(sides[0], sides[1], texts[0], texts[1])


def make_record(
    types: Sequence[str], values: Sequence[str], owners: Sequence[str], place: str = "the record"
) -> Record:
    """A record of three lists.

    Raises:
      ConfigError: lists of different length, or no tuple at all: there is nothing to write then.
    """
    counts = [len(types), len(values), len(owners)]
    if len(set(counts)) != 1:
        raise ConfigError(place, counts, "as many types as values and owners")
    if not types:
        raise ConfigError(place, "empty", "a record of at least one tuple")
    return tuple(map(Fact, types, values, owners))


def parse_record(text: str) -> Record:
    """A record that a person wrote, as JSON: `[{"type": ..., "value": ..., "owner": ...}, ...]`.

    Each tuple may also be a list of the three. Spaces within a value become `_`, since a value is one word.

    Raises:
      ConfigError: anything else.
    """
    wanted = 'a JSON list of {"type": ..., "value": ..., "owner": ...}'
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ConfigError("record", text, wanted) from e
    facts = []
    for row in rows if isinstance(rows, list) else [rows]:
        named = isinstance(row, dict) and set(row) == {"type", "value", "owner"}
        given = [row["type"], row["value"], row["owner"]] if named else row
        plain = isinstance(given, list) and all(isinstance(w, str | int | float) for w in given)
        words = ["_".join(str(w).split()) for w in given] if plain else []
        if len(words) != 3 or not all(words):
            raise ConfigError("a tuple of the record", row, wanted)
        facts.append(words)
    types, values, owners = ([fact[i] for fact in facts] for i in range(3))
    return make_record(types, values, owners)


def recover_references(train_x: Sequence[Record], x_ref: Sequence[Record]) -> Int[ndarray, " N"]:
    """For each reference's record, the first train item with that record, tuple for tuple; -1 without one.

    In the data sets references are train items' own sentences, so this finds those that a split lacks.
    """
    first: dict[Record, int] = {}
    for i, x in enumerate(train_x):
        first.setdefault(x, i)
    return np.array([first.get(x, -1) for x in x_ref], np.int32)


def with_references(part: StyleRecords, train: StyleRecords) -> StyleRecords:
    """The items with the references that are recovered from a train split.

    Raises:
      ConfigError: a reference whose record no train item has.
    """
    index = recover_references(train.x, part.x_ref)
    lost = np.flatnonzero(index < 0)
    if len(lost):
        what = f"missing, and {len(lost)} of {len(part)} records of references are no train item's"
        raise ConfigError("y_ref", what, "a file of references, or x_ref that stand in train")
    return dataclasses.replace(part, y_ref=[train.y_aux[i] for i in index])


def shorter(part: StyleRecords, *, max_tuples: int, max_words: int) -> StyleRecords:
    """Items whose records and sentences have at most so many tuples and words; none is cut.

    Raises:
      ConfigError: no item is left.
    """
    keep = [
        i
        for i in range(len(part))
        if max(len(part.x[i]), len(part.x_ref[i])) <= max_tuples
        and max(len(s[i].split()) for s in (part.y_aux, part.y_ref)) <= max_words
    ]
    if not keep:
        limits = (max_tuples, max_words)
        raise ConfigError(
            "data.max_tuples and data.max_words", limits, "room for one item at least"
        )
    kept.left_out(len(part) - len(keep), "items beyond data.max_tuples or data.max_words")
    return part.take(keep)
