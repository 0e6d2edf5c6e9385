"""Workdirs side by side: where their configs differ, their results, their training curves."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

from jaxgen import config as config_lib
from jaxgen.errors import ConfigError
from jaxgen.train import markup, tables
from jaxgen.train.report import Report
from jaxgen.train.writers import Json

# Numbers that say what was measured, as strings do, and are no result.
SETTINGS = ("level", "weight")
ABSENT = "(absent)"


@dataclasses.dataclass(frozen=True)
class Workdir:
    """What a comparison reads of a workdir.

    Attributes:
      config: fields by dotted path, as they were when the results were made.
      rows: of `results.json`, one a system and seed; none of a run that is not finished.
      columns: metric -> title, whose arrow says which way is better.
      command: that made the results; "" where it is not known.
      versions: see `provenance.versions`.
    """

    path: pathlib.Path
    config: Mapping[str, Json]
    rows: Sequence[Mapping[str, Json]]
    columns: Mapping[str, str]
    command: str
    versions: Mapping[str, str]


def read(path: pathlib.Path) -> Workdir:
    """Reads `config.json` and, where there is one, `results.json`.

    Raises:
      ConfigError: it is no workdir, or a file of it is damaged.
    """
    if not (path / "config.json").is_file():
        raise ConfigError("workdir", str(path), "a workdir, which has a config.json")
    config = _read_json(path / "config.json")
    results = _read_json(path / "results.json") if (path / "results.json").exists() else {}
    rows = results.get("systems", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError("workdir", str(path / "results.json"), "a list of rows as its systems")
    made_by = results.get("config")
    return Workdir(
        path,
        config_lib.flatten(made_by if isinstance(made_by, dict) else config),
        rows,
        _texts(results.get("columns")),
        str(results.get("command") or ""),
        _texts(results.get("versions")),
    )


def _read_json(path: pathlib.Path) -> dict[str, Json]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as e:
        raise ConfigError("workdir", str(path), f"readable JSON ({e})") from e
    if not isinstance(found, dict):
        raise ConfigError("workdir", str(path), "a JSON object with its fields by name")
    return found


def _texts(value: Json) -> dict[str, str]:
    return {k: str(v) for k, v in value.items()} if isinstance(value, dict) else {}


def names(paths: Sequence[pathlib.Path]) -> list[str]:
    """The last parts of paths, as many as tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        found = [os.path.join(*p[-count:]) for p in parts]
        if len(set(found)) == len(found):
            break
    return found


def differing(workdirs: Sequence[Workdir]) -> list[list[str]]:
    """[field, value of each workdir] of config fields that are not the same in all."""
    fields = sorted({field for w in workdirs for field in w.config})
    rows = [[f, *(_value(w.config.get(f, ABSENT)) for w in workdirs)] for f in fields]
    return [row for row in rows if len(set(row[1:])) > 1]


def _value(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def measured(row: Mapping[str, Json]) -> str:
    """What a row is about: its texts and settings, such as `ODE, vae, edit, sentiment`."""
    texts = [v for v in row.values() if isinstance(v, str)]
    return ", ".join([*texts, *(f"{s} {row[s]:g}" for s in SETTINGS if _is_number(row.get(s)))])


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def results(
    workdirs: Sequence[Workdir], labels: Sequence[str]
) -> tuple[list[str], list[list[tables.Number | str]]]:
    """Header and rows of the table of results: for each system one row a workdir.

    Means over seeds, with their spread. A title is that of the first workdir that has one for the metric.
    """
    titles = {m: t for w in reversed(workdirs) for m, t in w.columns.items()}
    metrics = dict.fromkeys(titles)
    systems: dict[str, dict[str, list[Mapping[str, Json]]]] = {}
    for workdir, label in zip(workdirs, labels, strict=True):
        for row in workdir.rows:
            systems.setdefault(measured(row), {}).setdefault(label, []).append(row)
            metrics |= dict.fromkeys(
                m for m, v in row.items() if _is_number(v) and m not in ("seed", *SETTINGS)
            )
    there = [m for m in metrics if any(_is_number(r.get(m)) for w in workdirs for r in w.rows)]
    table = [
        [system, label, *(_cell(m, by_run[label]) for m in there)]
        for system, by_run in systems.items()
        for label in labels
        if label in by_run
    ]
    return ["system", "run", *(titles.get(m, m) for m in there)], table


def _cell(metric: str, rows: Sequence[Mapping[str, Json]]) -> tables.Number | str:
    values = [float(r[metric]) for r in rows if _is_number(r.get(metric))]
    if metric == "parameters" and values:
        return f"{values[0]:,.0f}"
    return tables.number(values)


def best_by_system(header: Sequence[str], rows: Sequence[Sequence[object]]) -> set[tuple[int, int]]:
    """(row, column) of the best of each column among the rows of one system."""
    found = set()
    for system in dict.fromkeys(row[0] for row in rows):
        places = [i for i, row in enumerate(rows) if row[0] == system]
        best = tables.best_cells(header, [rows[i] for i in places])
        found |= {(places[i], j) for i, j in best}
    return found


def write(workdirs: Sequence[Workdir], path: pathlib.Path) -> pathlib.Path:
    """Writes the page, the same as .md beside it, and the pictures of the latter; returns its path."""
    labels = names([w.path for w in workdirs])
    page = Report(" and ".join(labels), path.parent, name=path.stem)
    page.section("Configs")
    fields = differing(workdirs)
    if fields:
        page.texts(dict(zip(["field", *labels], zip(*fields, strict=True), strict=True)))
    else:
        page.text("All fields are the same.\n")
    page.section("Results")
    waiting = [markup.literal(n) for n, w in zip(labels, workdirs, strict=True) if not w.rows]
    if waiting:
        page.text(f"No results yet: {', '.join(waiting)}.\n")
    header, rows = results(workdirs, labels)
    if rows:
        page.text(
            "Means over seeds ± their standard deviation; of each system the best run is bold.\n"
        )
        page.numbers(tables.markdown_table(header, rows, best_by_system(header, rows)))
    page.curves(
        {n: w.path for n, w in zip(labels, workdirs, strict=True)}, folder=f"{path.stem}_pictures"
    )
    page.section("How they were made")
    keys = list(dict.fromkeys(k for w in workdirs for k in w.versions))
    if keys:
        lines = [
            [n, *(w.versions.get(k, tables.NONE) for k in keys)]
            for n, w in zip(labels, workdirs, strict=True)
        ]
        page.numbers(tables.markdown_table(["run", *keys], lines))
    page.listing(
        [w.command or f"{n}: command not known" for n, w in zip(labels, workdirs, strict=True)]
    )
    return page.write()
