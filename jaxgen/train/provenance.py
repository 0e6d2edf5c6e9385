"""What made a report: the command, versions, machine, commit, and the wall time of its runs."""

import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jaxgen


def command(argv: Sequence[str] | None = None) -> str:
    """The launch as a shell would take it; "" for a process that was not launched with a workdir.

    Args:
      argv: `sys.argv` by default.
    """
    first, *rest = sys.argv if argv is None else argv
    if not any(a.lstrip("-").partition("=")[0] == "workdir" for a in rest):
        return ""  # a notebook or a test
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    begin = ["-m", spec.name.removesuffix(".__main__")] if spec is not None else [first]
    return shlex.join(["python", *begin, *rest])


def versions() -> dict[str, str]:
    """Versions of jaxgen, jax, flax and Python, the devices, and the commit where there is one."""
    import flax
    import jax

    devices = jax.devices()
    kinds = ", ".join(dict.fromkeys(d.device_kind for d in devices))
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    found = {
        "jaxgen": jaxgen.__version__,
        "jax": jax.__version__,
        "flax": flax.__version__,
        "python": platform.python_version(),
        "devices": f"{len(devices)} x {kinds}{processes}",
    }
    at = commit(pathlib.Path(jaxgen.__file__).parents[1])
    return found | ({"commit": at} if at else {})


def commit(checkout: pathlib.Path) -> str:
    """The checkout's commit, with `-dirty` where tracked files differ from it; "" where git knows none."""
    if not (checkout / ".git").exists():  # installed, maybe inside of somebody else's repository
        return ""
    git = [
        "git",
        "-C",
        str(checkout),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def run_times(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, float]]:
    """{run: (steps, seconds)} from rows of `metrics.jsonl`: the last row's steps at its mean rate.

    Compilation is in it, evaluation is not. What a run took before it was interrupted is counted at the
    rate it has had since.
    """
    last = {r["run"]: r for r in rows if r.get("steps_per_second", 0) > 0}
    return {run: (r["step"], r["step"] / r["steps_per_second"]) for run, r in last.items()}


def duration(seconds: float) -> str:
    """`12.3 s`, `4:05 min` or `2:03:04 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} h"
