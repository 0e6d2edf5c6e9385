"""Rotary position embedding: pairs of channels turn by an angle that grows with the position.

Channels (a, b) of pair i at position p become (a cos - b sin, b cos + a sin) of the angle p f_i, with
f_i = base ** (-2 i / K) over the K channels that turn, so that q . k depends on the distance alone.
Source: Su et al. (2021), eq. 34; pairs of neighbours: GPT-J (Wang and Komatsuzaki, 2021); stretched
positions: Chen et al. (2023); llama3: Grattafiori et al. (2024), section 3.1.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy import ndarray

from jaxgen.errors import require
from jaxgen.numerics import wide

SCALINGS = ("none", "linear", "llama3")


@dataclasses.dataclass(frozen=True)
class Rotary:
    """How queries and keys turn. Defaults are those of Su et al.

    Attributes:
      base: of the angles; the slowest pair has a wavelength of nearly 2 pi base positions.
      dim: how many of a head's first channels turn; 0 for all.
      interleaved: pairs are (2 i, 2 i + 1), as in GPT-J; else (i, i + dim / 2).
      scaling: "none"; "linear", which divides every frequency by `factor`; or "llama3", which does so where
        the wavelength is above original_positions / low_freq_factor, leaves what is below
        original_positions / high_freq_factor, and passes smoothly from one to the other.
      original_positions: that the model was first trained on.

    Raises:
      ValueError: names the field that cannot be so.
    """

    base: float = 10_000.0
    dim: int = 0
    interleaved: bool = False
    scaling: str = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int = 8192

    def __post_init__(self) -> None:
        require("rotary.base", self.base > 0, self.base, "above 0")
        require("rotary.dim", self.dim >= 0 and self.dim % 2 == 0, self.dim, "even, 0 or more")
        if self.scaling not in SCALINGS:
            raise ValueError(f"rotary.scaling is {self.scaling!r}, allowed: {', '.join(SCALINGS)}")
        require("rotary.factor", self.factor > 0, self.factor, "above 0")
        low, high = self.low_freq_factor, self.high_freq_factor
        require("rotary.high_freq_factor", high > low > 0, high, f"above low_freq_factor, {low}")
        count = self.original_positions
        require("rotary.original_positions", count >= 1, count, "at least 1")


def frequencies(rotary: Rotary, head_dim: int) -> Float[ndarray, " pairs"]:
    """f_i of each pair, in radians a position."""
    dim = rotary.dim or head_dim
    freqs = rotary.base ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    if rotary.scaling == "linear":
        return freqs / rotary.factor
    if rotary.scaling == "llama3":
        turns = rotary.original_positions * freqs / (2 * np.pi)  # in the first context
        low, high = rotary.low_freq_factor, rotary.high_freq_factor
        kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
        return freqs * (kept + (1.0 - kept) / rotary.factor)
    return freqs


def rotate(
    x: Float[Array, "B T H K"], positions: Int[Array, "#B T"], rotary: Rotary
) -> Float[Array, "B T H K"]:
    """Queries or keys, turned. The angles are float32 or wider, the result has the dtype of x."""
    freqs = jnp.asarray(frequencies(rotary, x.shape[-1]), wide(x))
    angles = positions[..., None, None].astype(freqs.dtype) * freqs
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    half = len(freqs)
    turning, rest = x[..., : 2 * half], x[..., 2 * half :]
    if rotary.interleaved:
        a, b = turning[..., ::2], turning[..., 1::2]
        turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(turning.shape)
    else:
        a, b = turning[..., :half], turning[..., half:]
        turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
    return jnp.concatenate([turned, rest], -1) if rest.shape[-1] else turned
