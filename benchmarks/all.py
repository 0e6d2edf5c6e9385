"""Every CPU benchmark, one after the other in processes of their own, into one JSON file and the tables of a page.

    python benchmarks/all.py --json docs/benchmarks.json --cores 1 --page docs/benchmarks.md
    python benchmarks/all.py --json small.json --only unroll --rounds 1 -- --batch 2 --vocab 50

A run of a benchmark takes the place of its run on as many cores in the file; other runs there stay. The file is written
after each, so that a launch with --resume goes on where one was stopped. A benchmark that fails, as without its peer
(`pip install -e '.[parity]'`), is kept with what it had measured and the reason on one line, and the others go on; --resume tries it again. On a GPU: `benchmarks/gpu/bench.py`.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import page
import records
from records import ROOT

HERE = pathlib.Path(__file__).parent


class Benchmark(NamedTuple):
    """A script, its options, and which of them its rounds are."""

    script: str
    options: tuple[str, ...] = ()
    rounds: str = "--rounds"


BENCHMARKS = {
    "eddpm_step": Benchmark("eddpm_step.py"),
    "eddpm_step_trace": Benchmark("eddpm_step.py", ("--trace", "step")),
    "ddim_trace": Benchmark("eddpm_step.py", ("--trace", "ddim")),
    "latent_ode": Benchmark("latent_ode.py"),
    "latent_ode_trace": Benchmark("latent_ode.py", ("--trace",)),
    "eisl": Benchmark("eisl.py"),
    "moe_layer": Benchmark("moe_layer.py"),
    "copy_softmax": Benchmark("copy_softmax.py"),
    "unroll": Benchmark("unroll.py"),
    "decoding": Benchmark("decoding.py"),
    "decoding_smollm2": Benchmark("decoding.py", ("--model", "smollm2")),
    "decoding_trace": Benchmark("decoding.py", ("--trace", "--batches", "1")),
    "decoding_16_trace": Benchmark("decoding.py", ("--trace", "--batches", "16")),
    "world": Benchmark("world.py"),
    "startup": Benchmark("startup.py"),
    "placement": Benchmark("placement.py", rounds="--cases"),
    "record_writer": Benchmark("record_writer.py"),
    "rows": Benchmark("rows.py"),
}


def run(name: str, *, rounds: int | None = None, options: Sequence[str] = ()) -> dict[str, Any]:
    """Runs a benchmark on the cores of this process; what it printed is shown as it comes.

    Returns:
      Its records, the command, seconds, load averages over a minute before and after, and what the numbers depend on;
      `failed` is the reason on one line, "" without one.
    """
    script, own, rounds_option = BENCHMARKS[name]
    given = [*own, *([] if rounds is None else [rounds_option, str(rounds)]), *options]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    before, begin = os.getloadavg()[0], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "records.json"
        command = [sys.executable, str(HERE / script), *given, "--json", str(file)]
        said: list[str] = []
        with subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                for line in process.stdout or ():
                    said.append(line)
                    print(f"  {line}", end="", flush=True)
            except BaseException:
                process.kill()
                raise
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    last = next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")
    failed = " ".join(f"exit code {process.returncode}: {last}".split())[:200]
    return {
        "benchmark": name,
        "command": " ".join(["python", f"benchmarks/{script}", *map(_without_folder, given)]),
        "machine": records.machine(),
        "load": [round(before, 2), round(os.getloadavg()[0], 2)],
        "seconds": round(time.perf_counter() - begin, 1),
        "failed": failed if process.returncode else "",
        "records": found,
    }


def key(found: dict[str, Any]) -> tuple[str, int]:
    """What a file has one run of."""
    return found["benchmark"], found["machine"]["cores"]


def pin(count: int) -> None:
    """This process, and what it starts, to the last `count` of its cores; the first has the system's interrupts."""
    cores = records.usable_cores()
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("all.py: --cores needs Linux; without it all cores are used")
    if not 1 <= count <= len(cores):
        raise SystemExit(f"all.py: --cores is {count}, allowed: 1 to {len(cores)}")
    os.sched_setaffinity(0, cores[-count:])


def _without_folder(option: str) -> str:
    """Where a peer's checkout lies is no part of what was measured."""
    return "--peer=DIR" if option.startswith("--peer=") else option


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=pathlib.Path, required=True, help="the file of all runs")
    parser.add_argument("--page", type=pathlib.Path, help="a page whose tables to write")
    parser.add_argument("--only", nargs="+", default=list(BENCHMARKS), choices=BENCHMARKS)
    parser.add_argument("--rounds", type=int, help="of each benchmark, in place of its own number")
    parser.add_argument("--cores", type=int, default=0, help="how many to use; all without it")
    parser.add_argument("--resume", action="store_true", help="leave out what is in the file")
    parser.add_argument("--peer", default="", help="of world.py")
    parser.add_argument("options", nargs="*", help="after --: further ones, for each benchmark")
    args = parser.parse_args(arguments)
    if args.cores:
        pin(args.cores)
    runs: list[dict[str, Any]] = []
    if args.json.is_file():
        runs = json.loads(args.json.read_text(encoding="utf-8"))["runs"]
    done = {key(r) for r in runs if not r["failed"]} if args.resume else set()
    for name in args.only:
        if (name, len(records.usable_cores())) in done:
            print(f"{name}: there already", flush=True)
            continue
        print(f"{name}:", flush=True)
        peer = [f"--peer={args.peer}"] if args.peer and name == "world" else []
        new = run(name, rounds=args.rounds, options=[*peer, *args.options])
        print(f"  {new['failed'] or 'done'}, {new['seconds']:.0f} s", flush=True)
        runs = [r for r in runs if key(r) != key(new)] + [new]
        runs.sort(key=lambda r: (list(BENCHMARKS).index(r["benchmark"]), r["machine"]["cores"]))
        records.write(args.json, {"runs": runs})
    if args.page:
        page.update(args.page, runs)


if __name__ == "__main__":
    # Stopped as by Ctrl-C, so that no benchmark is left running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        main()
    except page.PageError as e:
        raise SystemExit(f"all.py: {e}") from None
