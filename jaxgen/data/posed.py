"""Images under affine poses, whose parts, key points and warped pictures are known exactly.

A pose maps the object's frame, whose origin is the object's centre of mass, to the canvas:

    u = o + shift + A p,        o = the canvas' centre, A = scale R(rotation) [[1, shear], [0, 1]]

Coordinates are (x, y) in pixels, x to the right and y down, with pixel centres at whole numbers. The object has
four parts, the quadrants of its frame: 1 up left, 2 up right, 3 down left, 4 down right; 0 is background.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from jaxgen.errors import require

PARTS = 4
CORNERS = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]], np.float32)  # of parts 1 to 4


class Poses(NamedTuple):
    """A and the shift in pixels, of each image."""

    matrix: Float[ndarray, "B 2 2"]
    shift: Float[ndarray, "B 2"]


@dataclasses.dataclass(frozen=True)
class PoseRange:
    """What poses are drawn from, uniformly.

    Attributes:
      rotation: up to so many degrees to either side.
      scale: from, to.
      shear: up to so much to either side; the shift in pixels likewise.
    """

    rotation: float = 60.0
    scale: tuple[float, float] = (0.75, 1.1)
    shear: float = 0.2
    shift: float = 3.0


def draw(rng: np.random.Generator, count: int, poses: PoseRange | None = None) -> Poses:
    """Random poses.

    Raises:
      ValueError: scales that are not above 0, or from a larger to a smaller one.
    """
    r = poses or PoseRange()
    low, high = r.scale
    require("scale", 0 < low <= high, r.scale, "two numbers above 0, the second not smaller")
    angle = np.deg2rad(rng.uniform(-r.rotation, r.rotation, count))
    scale, shear = rng.uniform(low, high, count), rng.uniform(-r.shear, r.shear, count)
    cos, sin, one = np.cos(angle), np.sin(angle), np.ones(count)
    turn = np.stack([cos, -sin, sin, cos], -1).reshape(-1, 2, 2)
    lean = np.stack([one, shear, 0 * one, one], -1).reshape(-1, 2, 2)
    shift = rng.uniform(-r.shift, r.shift, (count, 2))
    matrix = scale[:, None, None] * (turn @ lean)
    return Poses(matrix.astype(np.float32), shift.astype(np.float32))


def upright(centre: Float[ndarray, "B 2"], size: int) -> Poses:
    """The poses of images as they are: no turn, and the frame's origin where their centre is."""
    matrix = np.broadcast_to(np.eye(2, dtype=np.float32), (len(centre), 2, 2))
    return Poses(matrix, (centre - (size - 1) / 2).astype(np.float32))


def place(images: Float[ndarray, "B H W"], size: int) -> Float[ndarray, "B S S"]:
    """Images in the middle of an empty canvas.

    Raises:
      ValueError: a canvas that is smaller than they are.
    """
    height, width = images.shape[1:]
    require("size", size >= max(height, width), size, f"at least {max(height, width)}")
    out = np.zeros((len(images), size, size), images.dtype)
    top, left = (size - height) // 2, (size - width) // 2
    out[:, top : top + height, left : left + width] = images
    return out


def enlarge(images: Float[ndarray, "B H W"], size: int) -> Float[ndarray, "B S S"]:
    """Bilinear, with edges that go on outside."""
    height, width = images.shape[1:]
    line = np.arange(size, dtype=np.float32) + 0.5
    x = np.clip(line * width / size - 0.5, 0, width - 1)
    y = np.clip(line * height / size - 0.5, 0, height - 1)
    grid = np.stack(np.broadcast_arrays(x, y[:, None]), -1)
    return bilinear(images, np.broadcast_to(grid, (len(images), size, size, 2)))


def centre_of_mass(images: Float[ndarray, "B H W"]) -> Float[ndarray, "B 2"]:
    """(x, y) of each image's intensity.

    Raises:
      ValueError: an image without any.
    """
    total = images.sum((1, 2))
    require("image", bool((total > 0).all()), np.flatnonzero(total <= 0)[:4], "one with intensity")
    x = (images.sum(1) * np.arange(images.shape[2])).sum(1) / total
    y = (images.sum(2) * np.arange(images.shape[1])).sum(1) / total
    return np.stack([x, y], -1).astype(np.float32)


def bilinear(
    images: Float[ndarray, "B H W"], places: Float[ndarray, "B M N 2"]
) -> Float[ndarray, "B M N"]:
    """Values at places (x, y), from the four pixels around each; 0 outside."""
    height, width = images.shape[1:]
    corner = np.floor(places)
    share = places - corner
    left, top = np.moveaxis(corner.astype(np.int64), -1, 0)
    row = np.arange(len(images))[:, None, None]
    out = np.zeros(places.shape[:-1], np.float32)
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = left + dx, top + dy
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            value = images[row, np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
            weight = np.abs(1 - dx - share[..., 0]) * np.abs(1 - dy - share[..., 1])
            out += np.where(inside, weight * value, 0).astype(np.float32)
    return out


def frame(poses: Poses, size: int) -> Float[ndarray, "B S S 2"]:
    """The object-frame point p of every pixel u of the canvas."""
    line = np.arange(size, dtype=np.float32) - (size - 1) / 2
    grid = np.stack(np.broadcast_arrays(line, line[:, None]), -1)
    back = np.linalg.inv(poses.matrix)
    p = np.einsum("bij,bmnj->bmni", back, grid - poses.shift[:, None, None])
    return p.astype(np.float32)


def warp(
    images: Float[ndarray, "B H W"], centre: Float[ndarray, "B 2"], poses: Poses, size: int
) -> Float[ndarray, "B S S"]:
    """Images under poses: at u stands what the image has at centre + p."""
    return bilinear(images, centre[:, None, None] + frame(poses, size))


def quadrants(poses: Poses, size: int) -> Int[ndarray, "B S S"]:
    """The part, 1 to 4, that each pixel would belong to if it were no background."""
    p = frame(poses, size)
    return (1 + (p[..., 0] >= 0) + 2 * (p[..., 1] >= 0)).astype(np.int32)


def part_map(
    images: Float[ndarray, "B S S"], quadrants: Int[ndarray, "B S S"], threshold: float = 0.3
) -> Int[ndarray, "B S S"]:
    """Parts of what is brighter than `threshold`, 0 elsewhere."""
    return np.where(images > threshold, quadrants, 0).astype(np.int32)


def key_points(poses: Poses, size: int, reach: float = 7.0) -> Float[ndarray, "B 4 2"]:
    """Where the frame's points (+-reach, +-reach) are on the canvas, one for each part."""
    moved = np.einsum("bij,pj->bpi", poses.matrix, reach * CORNERS)
    return (moved + poses.shift[:, None] + (size - 1) / 2).astype(np.float32)


def heat_maps(
    points: Float[ndarray, "B P 2"], size: int, sigma: float = 1.5
) -> Float[ndarray, "B S S P"]:
    """exp(-|u - point|^2 / (2 sigma^2)) of each point, 1 at the point itself."""
    require("sigma", 0 < sigma < np.inf, sigma, "above 0, finite")
    line = np.arange(size, dtype=np.float32)
    x = np.exp(-0.5 * ((line - points[..., :1]) / sigma) ** 2)
    y = np.exp(-0.5 * ((line - points[..., 1:]) / sigma) ** 2)
    return np.einsum("bpy,bpx->byxp", y, x).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Posed:
    """Images, what is known of their poses, and the same images under them.

    Attributes:
      source: as they came, on the canvas.
      target: under the pose.
      quadrants: of the target's frame; `parts` of what is there, 0 for background.
      points: the frame's four points on the target, in pixels.
      heat: their maps.
    """

    source: Float[ndarray, "B S S 1"]
    target: Float[ndarray, "B S S 1"]
    quadrants: Int[ndarray, "B S S"]
    parts: Int[ndarray, "B S S"]
    points: Float[ndarray, "B 4 2"]
    heat: Float[ndarray, "B S S 4"]

    def __len__(self) -> int:
        return len(self.source)


def make(
    images: Float[ndarray, "B H W"], poses: Poses | None, size: int, *, threshold: float = 0.3
) -> Posed:
    """Images on a canvas, and under poses.

    Args:
      poses: of each image; None leaves them as they are, where the target is the source.
    """
    source = place(images, size)
    centre = centre_of_mass(source)
    own = upright(centre, size) if poses is None else poses
    target = source if poses is None else warp(source, centre, own, size)
    where, points = quadrants(own, size), key_points(own, size)
    return Posed(
        source=source[..., None],
        target=target[..., None],
        quadrants=where,
        parts=part_map(target, where, threshold),
        points=points,
        heat=heat_maps(points, size),
    )
