"""Where a run's numbers and pictures go: metrics.jsonl, tensorboard events, PNG files."""

import json
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray


def write_atomic(path: pathlib.Path, text: str) -> None:
    """Writes a whole file or nothing: a killed process never leaves half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def read_jsonl(path: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; a last line cut off by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


class MetricWriter:
    """Rows of scalars of one run, to `metrics.jsonl` (shared by all runs) and to tensorboard.

    On resume, rows of this run from after the restored step are dropped, so that the file reads as
    if nothing had been interrupted.
    """

    def __init__(self, workdir: pathlib.Path, run: str, *, resume_step: int):
        self.run = run
        path = workdir / "metrics.jsonl"
        rows = read_jsonl(path)
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
