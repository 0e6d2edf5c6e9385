"""What a benchmark measured: one record a comparison, printed and kept by the same code.

A script makes its arguments with `parser`, opens `Recorder(args.json)` and adds records; each is printed as it comes and,
with `--json FILE`, written with those before it. `page` makes tables of them, `all` runs all scripts.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("jax", "jaxlib", "torch", "transformers")


class Spread(NamedTuple):
    """Of rounds."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """To five digits, so that a file of records holds no noise."""
        return cls(*(float(f"{f(values):.5g}") for f in (statistics.median, min, max)))

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.min)} to {number(self.max)})"


@dataclasses.dataclass(frozen=True)
class Record:
    """One thing measured, beside a peer or alone.

    Attributes:
      name: what was measured.
      sizes: of it, by their names: {"B": 8, "V": 32_000}.
      part: the table of the benchmark that it is a row of.
      unit: of `ours` and `peer`; with "/s" at its end more is better.
      sides: what the two are called.
      ratio: of the rounds. The peer's time over ours, or our rate over the peer's: above 1 we are ahead. With `cost`
        what we take in multiples of the peer's.
      target: that the median of `ratio` has to reach, with `cost` to stay below.
      extra: further numbers, or words, by their columns.
      missing: why there are no numbers, on one line.
    """

    name: str
    sizes: Mapping[str, int | str] = dataclasses.field(default_factory=dict)
    part: str = ""
    unit: str = "ms"
    sides: tuple[str, str] = ("ours", "PyTorch")
    ours: Spread | None = None
    peer: Spread | None = None
    ratio: Spread | None = None
    rounds: int = 0
    cost: bool = False
    target: float | None = None
    extra: Mapping[str, float | int | str] = dataclasses.field(default_factory=dict)
    missing: str = ""

    @property
    def title(self) -> str:
        """Name and sizes."""
        return ", ".join([self.name, *(f"{k} {number(v)}" for k, v in self.sizes.items())])

    @property
    def ratio_name(self) -> str:
        """Which is over which."""
        ours, peer = self.sides
        return f"{ours} / {peer}" if self.cost or self.unit.endswith("/s") else f"{peer} / {ours}"

    @property
    def verdict(self) -> str:
        """The target, and whether it is met."""
        if self.target is None or self.ratio is None:
            return ""
        met = self.ratio.median <= self.target if self.cost else self.ratio.median >= self.target
        bound = "at most" if self.cost else "at least"
        return f"{bound} {number(self.target)}: {'met' if met else 'missed'}"

    def __str__(self) -> str:
        if self.missing:
            return f"{self.title}: {self.missing}"
        told = [
            f"{side} {number(value.median)} {self.unit}"
            for side, value in zip(self.sides, (self.ours, self.peer), strict=True)
            if value is not None
        ]
        parts = [", ".join(told)] if told else []
        if self.ratio is not None:
            parts.append(
                f"{self.ratio_name} {number(self.ratio.median)}x (min {number(self.ratio.min)}, "
                f"max {number(self.ratio.max)}, {self.rounds} pairs)"
            )
        parts += [f"{key} {number(value)}" for key, value in self.extra.items()]
        parts += [f"target {self.verdict}"] if self.verdict else []
        return f"{self.title}: {'; '.join(parts)}"


def pairs(
    name: str,
    ours: Sequence[float],
    peer: Sequence[float],
    *,
    cost: bool = False,
    unit: str = "ms",
    **more: Any,
) -> Record:
    """A record of rounds in turns; the ratio is taken in each round.

    Args:
      more: other fields of `Record`.
    """
    inverted = cost or unit.endswith("/s")
    each = [a / b if inverted else b / a for a, b in zip(ours, peer, strict=True)]
    spreads = {"ours": Spread.of(ours), "peer": Spread.of(peer), "ratio": Spread.of(each)}
    return Record(name, **spreads, rounds=len(each), cost=cost, unit=unit, **more)


def alone(name: str, values: Sequence[float], **more: Any) -> Record:
    """A record without a peer."""
    return Record(name, ours=Spread.of(values), rounds=len(values), **more)


def load(fields: Mapping[str, Any]) -> Record:
    """A record from what JSON holds of it."""
    spreads = {k: Spread(*fields[k]) for k in ("ours", "peer", "ratio") if fields.get(k)}
    return Record(**{**fields, **spreads, "sides": tuple(fields["sides"])})


def dump(record: Record) -> dict[str, Any]:
    """What differs from a blank record, for JSON."""
    blank = Record("")
    found = {f.name: getattr(record, f.name) for f in dataclasses.fields(Record)}
    return {k: v for k, v in found.items() if v != getattr(blank, k) or k in ("name", "sides")}


class Recorder:
    """Prints records as they come, and keeps them in a file if there is one."""

    def __init__(self, path: pathlib.Path | None):
        self.path = path
        self.records: list[Record] = []
        facts = machine()
        versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
        print(f"{versions}; {cores_of(facts['cores'])} of {facts['cpu']}", flush=True)

    def add(self, record: Record) -> Record:
        """Prints and keeps it."""
        print(record, flush=True)
        self.records.append(record)
        if self.path is not None:
            write(self.path, [dump(r) for r in self.records])
        return record

    def extend(self, rows: Iterable[Record]) -> None:
        """Each as it comes."""
        for record in rows:
            self.add(record)


def parser(doc: str, *, rounds: int, option: str = "--rounds") -> argparse.ArgumentParser:
    """With the two options that all benchmarks have; `option` is what rounds are called."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument(option, type=int, default=rounds)
    made.add_argument("--json", type=pathlib.Path, help="a file for the records")
    return made


def write(path: pathlib.Path, value: Any) -> None:
    """JSON, whole or not at all."""
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    new.replace(path)


def number(value: float | int | str) -> str:
    """About three digits, with a comma after thousands."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if 0 < size < 0.1:
        return f"{value:.2g}"
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2}f}"


def cores_of(count: int) -> str:
    """In words."""
    return f"{count} core{'s' if count != 1 else ''}"


def machine() -> dict[str, Any]:
    """What a number depends on: processor, cores this process may use, versions, date, commit."""
    versions = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _cpu(),
        "cores": len(usable_cores()),
        "versions": versions,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": _commit(),
    }


def usable_cores() -> list[int]:
    """Of this process, where the system can tell; of the machine elsewhere."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _cpu() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _commit() -> str:
    """Of the checkout, with "+" where files differ from it; "" outside of one."""
    try:
        head, changed = (
            subprocess.run(
                ["git", "-C", str(ROOT), *command], capture_output=True, text=True, check=False
            )
            for command in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "-uno"))
        )
    except OSError:
        return ""
    if head.returncode:
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
