"""Tables of a page, made from the records of `benchmarks/all.py`.

    python benchmarks/page.py docs/benchmarks.json docs/benchmarks.md

What stands between `<!-- table: NAME, N cores -->` and `<!-- end -->` is written anew from the run of that benchmark on that
many cores; NAME/PART picks one part of its records. All else on the page stays, and so does a table without such a run.
"""

import argparse
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import records
from records import Record

BEGIN, END = re.compile(r"<!-- table: (.*) -->"), "<!-- end -->"
NAME = re.compile(r"[\w-]+(/[\w-]+)?, (1 core|\d+ cores)")


class PageError(Exception):
    """A page whose markers cannot be read."""


def tables(runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Markdown by the name in the marker."""
    found = {}
    for run in runs:
        here = [records.load(r) for r in run["records"]]
        cores = records.cores_of(run["machine"]["cores"])
        for part in dict.fromkeys(r.part for r in here) or [""]:
            name = run["benchmark"] + (f"/{part}" if part else "")
            rows = table([r for r in here if r.part == part])
            found[f"{name}, {cores}"] = "\n\n".join(filter(None, [caption(run), rows]))
    return found


def caption(run: Mapping[str, Any]) -> str:
    """How the table was made."""
    facts = run["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    told = [
        f"{records.cores_of(facts['cores'])} of {facts['cpu']}",
        "load average {} before, {} after".format(*run["load"]),
        versions,
        facts["date"],
        facts["commit"] and f"commit {facts['commit']}",
    ]
    failed = f" It failed: {run['failed']}" if run["failed"] else ""
    return f"`{run['command']}`; {'; '.join(filter(None, told))}.{failed}"


def table(rows: Sequence[Record]) -> str:
    """Markdown: a row a record, and only columns in which there is something.

    Raises:
      ValueError: for rows that do not compare the same two sides.
    """
    if len({(r.sides, r.ratio_name) for r in rows if r.ratio is not None}) > 1:
        raise ValueError(
            f"rows {', '.join(r.title for r in rows)} have other sides; allowed: a part each"
        )
    if not rows:
        return ""
    first = next((r for r in rows if r.ratio is not None), rows[0])
    columns = [
        ("", [r.title for r in rows]),
        (first.sides[0], [_value(r, r.ours) for r in rows]),
        (first.sides[1], [_value(r, r.peer) for r in rows]),
        (f"{first.ratio_name} (min to max)", [_ratio(r) for r in rows]),
    ]
    for key in dict.fromkeys(key for r in rows for key in r.extra):
        columns.append((key, [records.number(r.extra.get(key, "")) for r in rows]))
    columns += [("target", [r.verdict for r in rows]), ("missing", [r.missing for r in rows])]
    kept = [(name, cells) for name, cells in columns if any(cells)]
    lines = [[name for name, _ in kept], ["---"] * len(kept)]
    lines += zip(*(cells for _, cells in kept), strict=True)
    return "\n".join(f"| {' | '.join(c.replace('|', '/') for c in cells)} |" for cells in lines)


def _value(record: Record, value: records.Spread | None) -> str:
    if value is None:
        return ""
    # Beside a ratio the spread of each side says little: other work slows both.
    alone = record.ratio is None and record.rounds > 1
    shown = str(value) if alone else records.number(value.median)
    return f"{shown} {record.unit}".rstrip()


def _ratio(record: Record) -> str:
    if record.ratio is None:
        return ""
    middle, least, most = map(records.number, record.ratio)
    return f"{middle}x ({least} to {most})" if record.rounds > 1 else f"{middle}x"


def fill(text: str, made: Mapping[str, str]) -> str:
    """The page with its tables; the same page again if they are there already.

    Raises:
      PageError: for markers that are not pairs, or not names; with the line.
    """
    out: list[str] = []
    name, seen = "", set()
    for i, line in enumerate(text.split("\n"), 1):
        begin = BEGIN.fullmatch(line)
        if begin is None and line != END:
            if "<!-- table" in line or "<!-- end" in line:
                raise PageError(f"line {i}: {line!r} is no marker, allowed: it alone on a line")
            if name not in made:
                out.append(line)
            continue
        if begin is None:
            if not name:
                raise PageError(f"line {i}: {END} without a table before it")
            name = ""
        else:
            if name:
                raise PageError(f"line {i}: a table begins before the end of {name!r}")
            name = begin[1]
            if not NAME.fullmatch(name) or name in seen:
                why = (
                    "is there twice"
                    if name in seen
                    else "is no table, allowed: NAME[/PART], N cores"
                )
                raise PageError(f"line {i}: {name!r} {why}")
            seen.add(name)
        out.append(line)
        if begin is not None and name in made:
            out += ["", made[name], ""]
    if name:
        raise PageError(f"{name!r} has no {END}")
    return "\n".join(out)


def missing(text: str, made: Mapping[str, str]) -> list[str]:
    """Tables that the page has no place for."""
    places = set(BEGIN.findall(text))
    return [name for name in made if name not in places]


def update(page: pathlib.Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Writes the page's tables, and says which of them it has no place for.

    Raises:
      PageError: as `fill`, with the file's name.
    """
    text, made = page.read_text(encoding="utf-8"), tables(runs)
    try:
        page.write_text(fill(text, made), encoding="utf-8")
    except PageError as e:
        raise PageError(f"{page}, {e}") from None
    for name in missing(text, made):
        print(f"{page} has no place for it: <!-- table: {name} -->")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=pathlib.Path)
    parser.add_argument("page", type=pathlib.Path)
    args = parser.parse_args()
    try:
        update(args.page, json.loads(args.json.read_text(encoding="utf-8"))["runs"])
    except PageError as e:
        raise SystemExit(f"page.py: {e}") from None


if __name__ == "__main__":
    main()
