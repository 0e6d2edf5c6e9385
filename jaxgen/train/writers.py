"""Where a run's numbers and pictures go: metrics.jsonl, tensorboard events, PNG files."""

import json
import logging
import os
import pathlib
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from jaxgen.errors import RunError

Json: TypeAlias = Any  # what JSON can hold
Row: TypeAlias = dict[str, Json]  # of numbers, by name
log = logging.getLogger(__name__)


def write_atomic(path: pathlib.Path, text: str) -> None:
    """Writes a whole file or nothing: a killed process never leaves half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    except OSError as e:  # a full disk
        temporary.unlink(missing_ok=True)
        raise OSError(e.errno, e.strerror, str(path)) from e


def read_json(path: pathlib.Path) -> Json:
    """What `write_atomic` wrote as JSON; None where there is no file, or, with a warning, a damaged one."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as e:
        log.warning("%s is passed over: %s", path, e)
        return None


def read_jsonl(path: pathlib.Path) -> list[Row]:
    """Rows of a JSON-lines file; what is no row (a last line cut off by a kill, foreign bytes) is left out."""
    return _read_jsonl(path)[0]


def _read_jsonl(path: pathlib.Path) -> tuple[list[Row], list[int]]:
    """Rows, and the numbers (from 1) of lines that are none, but for a last line that was cut off."""
    rows, bad = [], []
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # of bytes and of syntax
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif number < len(lines):
            bad.append(number)
    return rows, bad


def _is_scalars(row: Mapping[str, Json]) -> bool:
    """Whether `MetricWriter.scalars` may have written it: run, step, and numbers."""
    numbers = all(type(v) in (int, float) for k, v in row.items() if k != "run")
    return isinstance(row.get("run"), str) and type(row.get("step")) is int and numbers


def read_metrics(workdir: pathlib.Path, runs: Iterable[str] = ()) -> list[Row]:
    """Rows of `metrics.jsonl`, each with its `run` and `step`; damaged and foreign lines are named in a warning.

    Args:
      runs: that must have rows.

    Raises:
      RunError: one of them has none.
    """
    path = workdir / "metrics.jsonl"
    rows, bad = _read_jsonl(path)
    known = [r for r in rows if _is_scalars(r)]
    if bad:
        log.warning(
            "%s: passed over lines %s, which are no rows", path, ", ".join(map(str, bad[:10]))
        )
    if len(known) < len(rows):
        log.warning(
            "%s: passed over %d rows without run and step, or with what is no number",
            path,
            len(rows) - len(known),
        )
    missing = sorted(set(runs) - {r["run"] for r in known if "loss" in r})
    if missing:
        raise RunError(f"{path} has no rows of {', '.join(missing)}; train again in a new workdir")
    return known


class MetricWriter:
    """Rows of scalars of one run, to `metrics.jsonl` (shared by all runs) and to tensorboard.

    On resume, rows of this run from after the restored step are dropped, so that the file reads as
    if nothing had been interrupted. A file with lines that are no rows is kept as `metrics.damaged.jsonl`.
    """

    def __init__(self, workdir: pathlib.Path, run: str, *, resume_step: int):
        self.run = run
        path = workdir / "metrics.jsonl"
        rows = read_metrics(workdir)
        if path.exists() and path.read_bytes().count(b"\n") > len(rows):
            shutil.copyfile(path, workdir / "metrics.damaged.jsonl")
        kept = [r for r in rows if r["run"] != run or r["step"] <= resume_step]
        write_atomic(path, "".join(json.dumps(r) + "\n" for r in kept))
        self._file = path.open("a")
        from tensorboardX import SummaryWriter

        self._board = SummaryWriter(
            str(workdir / "tensorboard" / run), purge_step=resume_step + 1, write_to_disk=True
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        row = {"run": self.run, "step": step, **values}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: Float[ndarray, "H W C"]) -> None:
        self._board.add_image(name, np.clip(image, 0, 1), step, dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        self._board.close()


class Progress:
    """A bar on a terminal; elsewhere a plain line every `every_s` seconds."""

    def __init__(self, name: str, start: int, total: int, *, every_s: float = 10.0):
        from tqdm import tqdm

        self._tty = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=start,
            desc=name,
            disable=not self._tty,
            leave=True,
            dynamic_ncols=True,
        )
        self._name, self._total, self._every = name, total, every_s
        self._last = 0.0

    def update(self, step: int, seconds: float, note: str) -> None:
        """Args:
        seconds: since the run's start, from a monotonic clock.
        """
        if self._tty:
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix_str(note)
        elif seconds - self._last >= self._every or step == self._total:
            self._last = seconds
            print(f"{self._name}: step {step}/{self._total}, {note}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self._bar.close()


def image_grid(
    images: Float[ndarray, "N H W C"], columns: int, *, pad: int = 1
) -> Float[ndarray, "GH GW C"]:
    """Tiles images into rows of `columns`, with a mid-grey border of `pad` pixels."""
    n, h, w, c = images.shape
    rows = -(-n // columns)
    grid = np.full((rows * (h + pad) + pad, columns * (w + pad) + pad, c), 0.5, np.float32)
    for i, image in enumerate(np.clip(images, 0.0, 1.0)):
        y, x = pad + (i // columns) * (h + pad), pad + (i % columns) * (w + pad)
        grid[y : y + h, x : x + w] = image
    return grid


def save_png(path: pathlib.Path, image: Float[ndarray, "H W C"], *, min_side: int = 640) -> None:
    """Writes values in [0, 1] as PNG, enlarged by a whole factor to about `min_side` pixels."""
    from PIL import Image

    factor = max(1, min_side // max(image.shape[:2]))
    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)
