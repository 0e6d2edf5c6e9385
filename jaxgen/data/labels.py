"""Class labels of tables: of one type, none missing, and numbered once for all parts of the data."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from jaxgen.errors import ConfigError

Label: TypeAlias = str | int | float


@dataclasses.dataclass(frozen=True)
class Rows:
    """Sentences of one table and their labels as they were found.

    Row i stands at `place(i)`. `label` is empty where none is asked for. `classes` is the number of
    classes where the data set declares them; its labels are then 0 to `classes` - 1.
    """

    text: list[str]
    label: Sequence[object]
    where: str
    row: Sequence[int]
    classes: int | None = None

    def place(self, i: int) -> str:
        """File and line of row i, for errors."""
        return f"{self.where} {self.row[i]}"


def number(tables: Sequence[Rows]) -> dict[Label, int]:
    """{label: its number} over tables that belong together, in sorted order.

    Raises:
      ConfigError: a missing label, or labels of different type, in one table or in two.
    """
    kinds = [_check(table) for table in tables]
    for table, kind in zip(tables, kinds, strict=True):
        if kind != kinds[0]:
            wanted = f"labels of type {kinds[0]}, as those of {tables[0].place(0)}"
            raise ConfigError(table.place(0), f"a label of type {kind}", wanted)
    return {v: i for i, v in enumerate(sorted({plain(v) for t in tables for v in t.label}))}


def numbered(tables: Sequence[Rows], numbers: Mapping[Label, int]) -> Int[ndarray, " N"]:
    """The labels of all rows by a numbering that `number` made, perhaps of other tables.

    Raises:
      ConfigError: a label that the numbering lacks, named with its row.
    """
    known = {(_sort(v), v): i for v, i in numbers.items()}
    out = []
    for table in tables:
        _check(table)
        for i, label in enumerate(table.label):
            value = plain(label)
            key = (_sort(value), value)
            if key not in known:
                some = ", ".join(str(v) for v in list(numbers)[:20])
                raise ConfigError(table.place(i), value, f"a label of the train part: {some}")
            out.append(known[key])
    return np.array(out, np.int32)


def typed(cells: Sequence[str]) -> list[Label]:
    """Labels of a text table: whole numbers if all cells are, or numbers if all are, else words."""
    stripped = [c.strip() for c in cells]
    filled = [c for c in stripped if c]
    for kind in (int, float):
        try:
            values = [kind(c) for c in filled]
        except ValueError:
            continue
        if any("_" in c for c in filled) or not any(map(math.isfinite, values)):
            break  # Python's own notation, or a column of the words nan and inf
        return [kind(c) if c else "" for c in stripped]
    return list(stripped)


def plain(label: object) -> Any:
    """A label of numpy or of bytes as a Python value."""
    if isinstance(label, np.generic | ndarray) and label.ndim == 0:
        label = label.item()
    if isinstance(label, bytes):
        label = label.decode("utf-8", "replace")
    return label.strip() if isinstance(label, str) else label


def _kind(label: object) -> str:
    return type(label).__name__


def _sort(label: object) -> str:
    """`_kind`, where a column with fractions and one without are both of numbers."""
    return "number" if _kind(label) in ("int", "float") else _kind(label)


def _check(table: Rows) -> str:
    """The type of a table's labels: str, bool, int, or float where there are fractions among them.

    Raises:
      ConfigError: names the row of a label that is missing, of no such type or of another type.
    """
    kinds: set[str] = set()
    for i, label in enumerate(map(plain, table.label)):
        missing = label is None or label == "" or (_kind(label) == "float" and label != label)
        if missing:
            raise ConfigError(table.place(i), "a missing label", "a label in every row")
        if not isinstance(label, str | int | float) or label in (math.inf, -math.inf):
            raise ConfigError(table.place(i), label, "a label that is a word or a finite number")
        if table.classes is not None and label not in range(table.classes):
            wanted = f"a class from 0 to {table.classes - 1}"
            raise ConfigError(table.place(i), label, wanted)
        kinds.add(_kind(label))
        if kinds not in ({"int"}, {"float"}, {"int", "float"}, {"str"}, {"bool"}):
            other = next(k for k in sorted(kinds) if k != _kind(label))
            raise ConfigError(table.place(i), label, f"a label of type {other}, as rows before it")
    return "float" if "float" in kinds else kinds.pop() if kinds else "str"
