"""Tables in files: CSV, tab-separated values, JSON lines and Parquet, every cell as it stands.

A cell is missing only where nothing is written: the sentences `null`, `NA`, `None` and `nan` are
sentences.
"""

import csv
import io
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from jaxgen.data import kept, labels, lines
from jaxgen.errors import ConfigError

KINDS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


def read(path: pathlib.Path, text_field: str, label_field: str = "") -> labels.Rows:
    """Sentences of a table, with their labels where `label_field` is given.

    Spaces and line breaks within a sentence become one space. Rows without a sentence are left out.

    Args:
      path: a file ending in one of `KINDS`, all but Parquet perhaps with `.gz` behind.

    Raises:
      ConfigError: a missing or damaged file, a field that it lacks, a row that cannot be read: names
        the file, and the line where there is one.
    """
    fields = [text_field, label_field] if label_field else [text_field]
    unit, rows = cells(path, fields)
    text, label, where = [], [], []
    for place, row in rows:
        line = sentence(row[0], f"{path}, {unit} {place}")
        if line:
            text.append(line)
            label.append(row[-1])
            where.append(place)
        else:
            kept.left_out(1, "blank texts")
    if not text:
        raise ConfigError("data", str(path), f"at least one row with a {text_field}")
    if not label_field:
        label = []
    elif _kind(path) in (".csv", ".tsv"):
        label = list(labels.typed([str(cell) for cell in label]))
    return labels.Rows(text, label, f"{path}, {unit}", where)


def _kind(path: pathlib.Path) -> str:
    name = path.name.lower()
    kind = next((k for k in KINDS if name.removesuffix(".gz").endswith(k)), "")
    if not kind or not os.path.isfile(path) or name.endswith(".parquet.gz"):
        raise ConfigError("data", str(path), "an existing file ending in " + ", ".join(KINDS))
    return kind


def cells(
    path: pathlib.Path, fields: Sequence[str]
) -> tuple[str, Iterable[tuple[int, Sequence[object]]]]:
    """What places are called ("line" or "row"), and (place, these fields' cells) of every row.

    Args:
      path: a file ending in one of `KINDS`, all but Parquet perhaps with `.gz` behind.

    Raises:
      ConfigError: as `read`.
    """
    kind = _kind(path)
    if kind in (".csv", ".tsv"):
        return "line", _csv(path, kind, fields)
    if kind == ".parquet":
        return "row", _parquet(path, fields)
    return _json(path, fields)


def sentence(value: object, place: str) -> str:
    """A cell as a sentence with single spaces; "" for one that is missing.

    Raises:
      ConfigError: a cell that holds no text.
    """
    if value is None:
        return ""
    if isinstance(value, list | dict):
        raise ConfigError(place, type(value).__name__, "a cell that holds text")
    try:
        line = " ".join((value.decode() if isinstance(value, bytes) else str(value)).split())
        line.encode()  # JSON can spell half of a surrogate pair, which is no text
    except UnicodeError as e:
        raise ConfigError(place, repr(value)[:80], "text that UTF-8 can hold") from e
    return line


def column(header: Sequence[str], field: str, place: str) -> int:
    """Where a field stands in a header.

    Raises:
      ConfigError: a field that is not there, or there twice.
    """
    if header.count(field) != 1:
        wanted = "a column of " + ",".join(header)
        twice = ", named once" if field in header else ""
        raise ConfigError(f"a field of {place}", field, wanted + twice)
    return header.index(field)


def csv_rows(path: pathlib.Path, delimiter: str = ",") -> list[tuple[int, list[str]]]:
    """(line where it begins, cells) of every row that is not blank, with the header as the first.

    Raises:
      ConfigError: a damaged file, a quote that is not closed, a row of another length than the header,
        or the header once more: names file and line.
    """
    text = lines.read_text(path)
    out: list[tuple[int, list[str]]] = []
    line = 1
    limit = csv.field_size_limit(len(text) + 1)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for row in reader:
            if len(row) > 1 or "".join(row).strip():
                out.append((line, row))
            line = reader.line_num + 1
    except csv.Error as e:
        raise ConfigError("data", f"{path}, line {line}", f"a row of a table ({e})") from e
    finally:
        csv.field_size_limit(limit)
    header = out[0][1] if out else []
    header[:] = [cell.strip() for cell in header]
    for line, row in out[1:]:
        if len(row) != len(header):
            wanted = f"{len(header)} fields, as the header has"
            raise ConfigError(f"{path}, line {line}", row, wanted)
        if len(row) > 1 and [cell.strip() for cell in row] == header:
            raise ConfigError(f"{path}, line {line}", row, "a row, not the header once more")
    return out


def _csv(
    path: pathlib.Path, kind: str, fields: Sequence[str]
) -> Iterable[tuple[int, Sequence[object]]]:
    rows = csv_rows(path, "\t" if kind == ".tsv" else ",")
    header = rows[0][1] if rows else []
    where = [column(header, field, str(path)) for field in fields]
    return ((line, [row[i] for i in where]) for line, row in rows[1:])


def _json(
    path: pathlib.Path, fields: Sequence[str]
) -> tuple[str, Iterable[tuple[int, Sequence[object]]]]:
    """An object a line, or one list of objects."""
    text = lines.read_text(path)
    if text.lstrip().startswith("["):
        unit, rows = "row", list(enumerate(_parse(text, str(path)), 1))
    else:
        unit, rows = "line", []
        for number, line in enumerate(lines.cut(text), 1):
            if line.strip():
                rows.append((number, _parse(line, f"{path}, line {number}")))
    for number, row in rows:
        place = f"{path}, {unit} {number}"
        if not isinstance(row, dict):
            raise ConfigError(place, type(row).__name__, "an object with fields")
        for field in fields:
            if field not in row:
                raise ConfigError(f"a field of {place}", field, "one of " + ", ".join(sorted(row)))
    return unit, ((number, [row[field] for field in fields]) for number, row in rows)


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ConfigError("data", place, f"JSON ({e})") from e


def _parquet(path: pathlib.Path, fields: Sequence[str]) -> Iterable[tuple[int, Sequence[object]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for field in fields:
                column(file.schema_arrow.names, field, str(path))
            table = file.read(columns=list(dict.fromkeys(fields)))
    except (pyarrow.ArrowException, OSError) as e:
        raise ConfigError("data", str(path), f"a Parquet file ({e})") from e
    return enumerate(zip(*(table[field].to_pylist() for field in fields), strict=True), 1)
