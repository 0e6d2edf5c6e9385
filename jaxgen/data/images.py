"""Images from scikit-learn, a folder, tfds or Hugging Face datasets, through one function.

`load(config)` returns train, valid and test `Images`. Which split an image belongs to is decided
by a hash of its own pixels, so the same picture is in the same split on every machine, whatever
the order of files, and exact duplicates never straddle two splits.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from jaxgen.data import splits, tables
from jaxgen.errors import ConfigError

SOURCES = ("digits", "folder", "tfds", "hf")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True)
class Images:
    """Images with values in [0, 1]; `label` is None where the source has none."""

    image: Float[ndarray, "N H W C"]
    label: Int[ndarray, " N"] | None

    def __len__(self) -> int:
        return len(self.image)


def load(
    source: str,
    *,
    name: str = "",
    path: str = "",
    size: int = 0,
    channels: int = 0,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.2,
    limit: int = 0,
) -> dict[str, Images]:
    """Reads a source whole and splits it: {"train", "valid", "test"}.

    Args:
      source: "digits" (scikit-learn's 1,797 images of 8x8), "folder", "tfds" or "hf".
      name: data set name of tfds (`cifar10`) or of the hub (`cifar10`; or a local folder or
        builder that `datasets.load_dataset` takes, with `path` as its data_dir).
      path: the folder; for tfds, the data_dir. In a folder, names of subfolders are the labels.
      size: side to which images are cropped and resized; 0 keeps digits at 8, else it is needed.
      channels: 1 or 3; 0 means 1 for digits and 3 otherwise.
      limit: keep at most this many images; 0 keeps all.

    Raises:
      ConfigError: a missing folder, an unreadable image, an unknown source: what and where.
    """
    readers = {"folder": _folder, "tfds": _tfds, "hf": _hf}
    if source != "digits" and source not in readers:
        raise ConfigError("data.source", source, "one of digits, " + ", ".join(readers))
    if test_fraction <= 0 or valid_fraction < 0 or valid_fraction + test_fraction >= 1:
        raise ConfigError(
            "data.valid_fraction, data.test_fraction",
            (valid_fraction, test_fraction),
            "test above 0 and a sum below 1",
        )
    if channels not in (0, 1, 3):
        raise ConfigError("data.channels", channels, "1 or 3, or 0 for the source's own")
    if source == "digits":
        if size not in (0, 8) or channels == 3:
            raise ConfigError("data.size", (size, channels), "8x8 with 1 channel for digits")
        everything = _digits()
    else:
        if size <= 0:
            raise ConfigError("data.size", size, f"at least 1 for source {source!r}")
        everything = readers[source](name, path, size, channels or 3, limit)
    if limit:
        everything = _take(everything, np.arange(min(limit, len(everything))))
    return split(everything, valid_fraction=valid_fraction, test_fraction=test_fraction)


def split(images: Images, *, valid_fraction: float, test_fraction: float) -> dict[str, Images]:
    """Assigns each image by the SHA-256 of its pixels, rounded to 8 bits."""
    pixels = np.round(images.image * 255).astype(np.uint8)
    index = splits.by_hash(
        (p.tobytes() for p in pixels), valid_fraction=valid_fraction, test_fraction=test_fraction
    )
    return {name: _take(images, rows) for name, rows in index.items()}


def _take(images: Images, index: Int[ndarray, " M"]) -> Images:
    label = None if images.label is None else images.label[index]
    return Images(images.image[index], label)


def _digits() -> Images:
    from sklearn.datasets import load_digits

    digits = load_digits()
    image = (digits.images / 16.0).astype(np.float32)[..., None]
    return Images(image, digits.target.astype(np.int32))


def _folder(name: str, path: str, size: int, channels: int, limit: int) -> Images:
    from PIL import Image

    root = pathlib.Path(path)
    if not path or not root.is_dir():
        raise ConfigError("data.path", path, "an existing folder of images")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise ConfigError("data.path", path, f"a folder with files ending in {', '.join(SUFFIXES)}")
    files = files[:limit] if limit else files
    arrays = []
    for file in files:
        try:
            with Image.open(file) as picture:
                arrays.append(_to_array(picture, size, channels))
        except (OSError, ValueError, SyntaxError) as e:
            raise ConfigError("data.path", str(file), f"a readable image ({e})") from e
    names = sorted({p.parent.name for p in files if p.parent != root})
    label = None
    if names and all(p.parent != root for p in files):
        label = np.array([names.index(p.parent.name) for p in files], np.int32)
    return Images(np.stack(arrays), label)


def _tfds(name: str, path: str, size: int, channels: int, limit: int) -> Images:
    return _from_rows(tables.tfds_rows(name, path), size, channels, limit)


def _hf(name: str, path: str, size: int, channels: int, limit: int) -> Images:
    return _from_rows(tables.hub_rows(name, path), size, channels, limit)


def _from_rows(rows: Any, size: int, channels: int, limit: int) -> Images:
    """From random-access rows that hold an image and perhaps a label, under their usual names."""
    count = min(len(rows), limit) if limit else len(rows)
    if not count:
        raise ConfigError("data.name", "", "a data set with at least one row")
    first = rows[0]
    image_key = next((k for k in ("image", "img") if k in first), None)
    if image_key is None:
        raise ConfigError("data.name", sorted(first), "rows with a field image or img")
    label_key = next((k for k in ("label", "labels", "coarse_label") if k in first), None)
    arrays, labels = [], []
    for i in range(count):
        row = rows[i]
        arrays.append(_to_array(row[image_key], size, channels))
        if label_key:
            labels.append(int(row[label_key]))
    return Images(np.stack(arrays), np.array(labels, np.int32) if label_key else None)


def _to_array(picture: Any, size: int, channels: int) -> Float[ndarray, "H W C"]:
    """Centre crop to a square, resize, scale to [0, 1]."""
    from PIL import Image

    if isinstance(picture, ndarray):
        picture = Image.fromarray(picture.squeeze())
    picture = picture.convert("L" if channels == 1 else "RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side))
    if side != size:
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    array = np.asarray(picture, np.float32) / 255.0
    return array.reshape(size, size, channels)
