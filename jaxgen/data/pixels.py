"""Images that stay in memory as bytes: a quarter of what float32 takes (200,000 of 64 x 64 x 3: 2.5 GB, not 10)."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Pixels:
    """Reads as a float32 array [N, H, W, C] with values in [0, 1], and makes only the rows that are asked for.

    `pixels[rows]` is a numpy array, for whatever index of the first axis numpy knows, and `np.asarray(pixels)` the
    whole one.
    """

    levels: UInt8[ndarray, "N H W C"]  # 0 to 255

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        return self.levels.shape

    @property
    def dtype(self) -> np.dtype:
        """Of the rows that come out."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, rows: Any) -> Float32[ndarray, "..."]:
        return unit(self.levels[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> ndarray:
        if copy is False:
            raise ValueError(
                "copy is False, allowed: True or None, since values are made from bytes"
            )
        return unit(self.levels).astype(dtype or np.float32, copy=False)

    def take(self, rows: Any) -> "Pixels":
        """Some rows, still as bytes."""
        return Pixels(self.levels[rows])


def unit(levels: UInt8[ndarray, "..."]) -> Float32[ndarray, "..."]:
    """Bytes as values in [0, 1]."""
    return levels.astype(np.float32) / np.float32(255)
