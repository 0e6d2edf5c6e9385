"""Where the time of a compiled program goes: its operations by kind, from a trace of jax's profiler on a CPU.

Products and convolutions are set beside a large product in the same process, which stands for the peak.
"""

import math
import pathlib
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import records

# Operations that contain others, which the trace has too.
CONTROL = ("while", "call", "conditional")
LINE = re.compile(r"\s*(?:ROOT )?%(?P<name>[\w.-]+) = (?P<type>\([^=]*?\)|\S+) (?P<code>[\w-]+)\(")
PARAMETER = re.compile(r"([\w.-]+): (\w+\[[\d,]*\])")


class Operation(NamedTuple):
    """Of a program, as it was compiled; a fusion counts what it calls.

    Attributes:
      path: where it comes from in Python: "jit(step)/jvp()/dot_general".
      flops: of its products and convolutions.
    """

    code: str
    path: str
    flops: int
    convolves: bool


def operations(hlo: str) -> dict[str, Operation]:
    """Name -> operation, of all computations in a compiled program's text."""
    shapes: dict[str, tuple[int, ...]] = {}
    found: dict[str, Operation] = {}
    inside: dict[str, list[Operation]] = defaultdict(list)  # by computation
    calls: dict[str, str] = {}
    computation = ""
    for line in hlo.splitlines():
        if line.startswith(("%", "ENTRY")) and line.endswith("{"):
            computation = line.removeprefix("ENTRY ").split(" ", 1)[0].lstrip("%")
            shapes |= {name: _shape(kind) for name, kind in PARAMETER.findall(line)}
        elif m := LINE.match(line):
            name, code, rest = m["name"], m["code"], line[m.end() :]
            shapes[name] = _shape(m["type"])
            path = re.search(r'op_name="([^"]*)"', rest)
            flops = _flops(code, rest, shapes[name], shapes)
            made = Operation(code, path[1] if path else "", flops, code == "convolution")
            found[name] = made
            inside[computation].append(made)
            if code == "fusion" and (called := re.search(r"calls=%([\w.-]+)", rest)):
                calls[name] = called[1]
    for name, called in calls.items():
        held = inside[called]
        flops, convolves = sum(o.flops for o in held), any(o.convolves for o in held)
        found[name] = found[name]._replace(flops=flops, convolves=convolves)
    return found


def _shape(text: str) -> tuple[int, ...]:
    sizes = re.match(r"\w+\[([\d,]*)\]", text)
    return tuple(int(n) for n in sizes[1].split(",") if n) if sizes else ()


def _flops(code: str, rest: str, out: tuple[int, ...], shapes: Mapping[str, tuple]) -> int:
    """Of a product or a convolution; zeros that pad an image count as numbers."""
    sides = [shapes.get(name, ()) for name in re.findall(r"%([\w.-]+)", rest)[:2]]
    if code == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", rest)[1].split(",")
        return 2 * math.prod(out) * math.prod(sides[0][int(i)] for i in axes if i)
    if code == "convolution":
        kernel = re.search(r"dim_labels=\w+_(\w+)->", rest)[1]
        return 2 * math.prod(out) * math.prod(sides[1]) // sides[1][kernel.index("o")]
    return 0


def use_cpu() -> None:
    """Before jax finds its devices: with a TPU's library but without a TPU the profiler crashes."""
    jax.config.update("jax_platforms", "cpu")


def traced(run: Callable[[], object], calls: int) -> dict[str, list[float]]:
    """Milliseconds of every event of so many calls, by its name."""
    found: dict[str, list[float]] = defaultdict(list)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(calls):
                jax.block_until_ready(run())
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for line in plane.lines if plane.name == "/host:CPU" else ():
                for event in line.events:
                    found[event.name].append(event.duration_ns / 1e6)
    return found


def kind_of(name: str, operation: Operation, kinds: Mapping[str, tuple[str, ...]]) -> str:
    """Products and convolutions by what they hold, all else by its path; the first that fits."""
    if operation.flops:
        return "convolutions" if operation.convolves else "matrix products"
    if re.match(r"(bitcast_|wrapped_)*(copy|transpose|concatenate|pad)", name):
        return "copies, transposes, concatenations"
    fits = (k for k, words in kinds.items() if any(w in operation.path for w in words))
    return next(fits, "other")


def by_kind(
    run: Callable[[], object], hlo: str, *, calls: int, kinds: Mapping[str, tuple[str, ...]]
) -> Iterator[records.Record]:
    """A record for each kind of operation, one for all, one for the peak.

    An operation's time is that of its fastest event, times how often it runs in a call; so other work on the machine
    counts little. What lies between operations (launching them, Python) is not in it. The peak is the fastest too.

    Args:
      run: the compiled program with its arguments.
      hlo: its text.
      kinds: a kind -> words, one of which the path of its operations has.
    """
    jax.block_until_ready(run())  # or its last operations would stand in the trace
    known = operations(hlo)
    times: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for name, events in traced(run, calls).items():
        if name in known and known[name].code not in CONTROL:
            often = len(events) / calls
            row = (min(events) * often, often, known[name].flops * often)
            times[kind_of(name, known[name], kinds)].append(row)
    sums = {k: [sum(column) for column in zip(*rows, strict=True)] for k, rows in times.items()}
    sums = dict(sorted(sums.items(), key=lambda item: -item[1][0]))
    sums["all"] = [sum(column) for column in zip(*sums.values(), strict=True)]
    top, whole = peak(), sums["all"][0]
    for name, (spent, often, flops) in sums.items():
        extra: dict[str, float | int] = {"of all, %": 100 * spent / whole}
        extra["operations"] = round(often)
        if flops:
            extra["GFLOP/s"] = flops / spent / 1e6
            extra["of the peak, %"] = 100 * extra["GFLOP/s"] / top
        yield records.alone(name, [spent], part="trace", sides=("a call", ""), extra=extra)
    extra = {"GFLOP/s": top}
    yield records.Record("the peak: a product of 512 x 512", part="trace", extra=extra)


def peak(n: int = 512) -> float:
    """GFLOP/s of the product of two square matrices, the fastest of many, by their events as well."""
    a = jnp.ones((n, n))
    built = jax.jit(jnp.matmul).lower(a, a).compile()
    known = operations(built.as_text())
    events = traced(lambda: built(a, a), 100).items()
    return max(known[k].flops / min(times) / 1e6 for k, times in events if k in known)
