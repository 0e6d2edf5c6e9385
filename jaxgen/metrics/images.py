"""Likeness of images and of maps of parts, of arrays on the host."""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from jaxgen.errors import require


def ssim(
    a: Float[ndarray, "N H W"],
    b: Float[ndarray, "..."],
    *,
    window: int = 7,
    data_range: float = 1.0,
    k1: float = 0.01,
    k2: float = 0.03,
) -> Float[ndarray, " N"]:
    """Structural similarity of pairs of images: 1 where they are equal, below it elsewhere.

    ((2 m_a m_b + C1) (2 s_ab + C2)) / ((m_a^2 + m_b^2 + C1) (s_a^2 + s_b^2 + C2)), C_i = (k_i range)^2,

    the mean over all windows that lie inside. Variances are of samples (n - 1), as scikit-image has them.
    Source: Wang, Bovik, Sheikh and Simoncelli (2004), with a uniform window.

    Args:
      window: side of the square window, in pixels.
      data_range: between the darkest and the brightest value.

    Raises:
      ValueError: pairs of two shapes, a window that is larger than the images.
    """
    require("shape", a.shape == b.shape, b.shape, f"{a.shape}, as the other images")
    side = min(a.shape[1:])
    require("window", 2 <= window <= side, window, f"2 to the images' side, {side}")
    x, y = a.astype(np.float64), b.astype(np.float64)
    n = window**2
    m_x, m_y = _means(x, window), _means(y, window)
    sample = n / (n - 1)
    s_x = sample * (_means(x * x, window) - m_x**2)
    s_y = sample * (_means(y * y, window) - m_y**2)
    s_xy = sample * (_means(x * y, window) - m_x * m_y)
    c1, c2 = (k1 * data_range) ** 2, (k2 * data_range) ** 2
    above = (2 * m_x * m_y + c1) * (2 * s_xy + c2)
    return (above / ((m_x**2 + m_y**2 + c1) * (s_x + s_y + c2))).mean((1, 2))


def _means(x: Float[ndarray, "N H W"], window: int) -> Float[ndarray, "N R C"]:
    """Of every window, by sums of rows and columns that went before."""
    for axis in (1, 2):
        total = np.cumsum(x, axis)
        first = np.take(total, [window - 1], axis)
        size = x.shape[axis]
        later = np.take(total, range(window, size), axis)
        rest = later - np.take(total, range(size - window), axis)
        x = np.concatenate([first, rest], axis) / window
    return x


def part_iou(
    found: Int[ndarray, "N H W"], truth: Int[ndarray, "N H W"], parts: int
) -> Float[ndarray, " P"]:
    """Intersection over union of each part 1..P over all images; NaN of one that neither has."""
    out = np.full(parts, np.nan)
    for part in range(1, parts + 1):
        a, b = found == part, truth == part
        union = (a | b).sum()
        if union:
            out[part - 1] = (a & b).sum() / union
    return out


def point_error(
    found: Float[ndarray, "N P 2"], truth: Float[ndarray, "N P 2"]
) -> Float[ndarray, " N"]:
    """Mean distance of each image's points to the true ones, in their unit."""
    return np.linalg.norm(found.astype(np.float64) - truth, axis=-1).mean(-1)
