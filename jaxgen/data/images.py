"""Images from scikit-learn, a folder, tfds or Hugging Face datasets, through one function.

`load(config)` returns train, valid and test `Images`. Which split an image belongs to is decided
by a hash of its own pixels, so the same picture is in the same split on every machine, whatever
the order of files, and exact duplicates never straddle two splits.

A picture is turned as its EXIF orientation says, laid on white where it is transparent, and scaled to
[0, 1]: 8 bits by 255, 16 bits and wider integers by 65,535, floats not at all. Of several frames the first
is read. What does not fit these ranges is refused. Where all are of 8 bits they stay bytes until rows are asked for
(`jaxgen.data.pixels`).
"""

import contextlib
import dataclasses
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray

from jaxgen.data import labels, splits, tables
from jaxgen.data.pixels import Pixels, unit
from jaxgen.data.root import expand
from jaxgen.errors import ConfigError

SOURCES = ("digits", "folder", "tfds", "hf")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
LABELS = ("label", "labels", "coarse_label")
SPLITS = {"train", "valid", "validation", "val", "test"}
MAX_PIXELS = 2**28  # of one picture: 268 megapixels


@dataclasses.dataclass(frozen=True)
class Images:
    """Images with values in [0, 1]; `label` is None where the source has none."""

    image: Float[ndarray, "N H W C"] | Pixels
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
      path: the folder; for tfds, the data_dir. In a folder, names of subfolders are the labels (but for
        those of splits, such as `train`); hidden files and folders are passed over.
      size: side to which images are cropped and resized; 0 keeps digits at 8, else it is needed.
      channels: 1 or 3; 0 means 1 for digits and 3 otherwise.
      limit: keep at most this many images, as many of each label as can be; 0 keeps all.

    Raises:
      ConfigError: a missing folder, an unreadable image or one of more than `MAX_PIXELS`, a missing
        label, an unknown source: what and where.
    """
    readers = {"folder": _folder, "tfds": _tfds, "hf": _hf}
    if source != "digits" and source not in readers:
        raise ConfigError("data.source", source, "one of digits, " + ", ".join(readers))
    if not (test_fraction > 0 and valid_fraction >= 0 and valid_fraction + test_fraction < 1):
        raise ConfigError(
            "data.valid_fraction, data.test_fraction",
            (valid_fraction, test_fraction),
            "test above 0 and a sum below 1",
        )
    if channels not in (0, 1, 3):
        raise ConfigError("data.channels", channels, "1 or 3, or 0 for the source's own")
    splits.check_limit(limit)
    if source == "digits":
        if size not in (0, 8) or channels == 3:
            raise ConfigError("data.size", (size, channels), "8x8 with 1 channel for digits")
        everything = _digits()
        everything = take(everything, splits.balanced(len(everything), limit, everything.label))
    else:
        if size <= 0:
            raise ConfigError("data.size", size, f"at least 1 for source {source!r}")
        everything = readers[source](name, path, size, channels or 3, limit)
    return split(everything, valid_fraction=valid_fraction, test_fraction=test_fraction)


def split(images: Images, *, valid_fraction: float, test_fraction: float) -> dict[str, Images]:
    """Assigns each image by the SHA-256 of its pixels, rounded to 8 bits."""
    image = images.image
    levels = image.levels if isinstance(image, Pixels) else np.round(image * 255).astype(np.uint8)
    index = splits.split_by_hash(
        (p.tobytes() for p in levels), valid_fraction=valid_fraction, test_fraction=test_fraction
    )
    return {name: take(images, rows) for name, rows in index.items()}


def take(images: Images, index: Int[ndarray, " M"]) -> Images:
    """Some rows, in the order of the index."""
    label = None if images.label is None else images.label[index]
    image = images.image
    return Images(image.take(index) if isinstance(image, Pixels) else image[index], label)


def _digits() -> Images:
    from sklearn.datasets import load_digits

    digits = load_digits()
    image = (digits.images / 16.0).astype(np.float32)[..., None]
    return Images(image, digits.target.astype(np.int32))


def _folder(name: str, path: str, size: int, channels: int, limit: int) -> Images:
    from PIL import Image

    root = pathlib.Path(expand(path))
    if not path or not os.path.isdir(root):
        raise ConfigError("data.path", path, "an existing folder of images")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and not p.is_dir())
    # Hidden ones are thumbnails, checkpoints of notebooks, and the `._` files of macOS.
    files = [p for p in files if not any(k.startswith(".") for k in p.relative_to(root).parts)]
    if not files:
        raise ConfigError("data.path", path, f"a folder with files ending in {', '.join(SUFFIXES)}")
    label = _folder_labels(root, files)
    chosen = splits.balanced(len(files), limit, label)

    def read(i: int) -> Float[ndarray, "H W C"] | UInt8[ndarray, "H W C"]:
        with Image.open(files[i]) as picture:
            return _to_array(picture, size, channels)

    places = [str(files[i]) for i in chosen]
    image = _stack(read, chosen, "data.path", places, (size, size, channels))
    return Images(image, None if label is None else label[chosen])


def _folder_labels(root: pathlib.Path, files: Sequence[pathlib.Path]) -> Int[ndarray, " N"] | None:
    names = sorted({p.parent.name for p in files if p.parent != root})
    if set(names) <= SPLITS:
        return None
    for file in files:
        if file.parent == root:
            raise ConfigError("data.path", str(file), "images in folders of classes alone, or none")
    numbers = {name: i for i, name in enumerate(names)}
    return np.array([numbers[p.parent.name] for p in files], np.int32)


def _tfds(name: str, path: str, size: int, channels: int, limit: int) -> Images:
    return _from_rows(tables.tfds_rows(name, path, LABELS), name, size, channels, limit)


def _hf(name: str, path: str, size: int, channels: int, limit: int) -> Images:
    return _from_rows(tables.hub_rows(name, path, LABELS), name, size, channels, limit)


def _from_rows(rows: tables.DataSource, name: str, size: int, channels: int, limit: int) -> Images:
    """From random-access rows that hold an image and perhaps a label, under their usual names."""
    if not len(rows):
        raise ConfigError("data.name", name, "a data set with at least one row")
    image_key = tables.first_of(rows, ("image", "img"))
    if not image_key:
        raise ConfigError(
            "data.name", sorted(tables.fields(rows)), "rows with a field image or img"
        )
    label_key = tables.first_of(rows, LABELS)
    label = None
    if label_key:
        classes = tables.class_count(rows, label_key)
        values = list(tables.column(rows, label_key))
        found = labels.Rows([], values, f"{name}, row", range(1, len(rows) + 1), classes)
        numbers = labels.number([found])
        if classes is not None:  # the numbers that the data set itself gives
            numbers = {i: i for i in range(classes)}
        label = labels.numbered([found], numbers)
    chosen = splits.balanced(len(rows), limit, label)
    places = [f"{name}, row {i + 1}" for i in chosen]
    image = _stack(
        lambda i: _to_array(rows[i][image_key], size, channels),
        chosen,
        "data.name",
        places,
        (size, size, channels),
    )
    return Images(image, None if label is None else label[chosen])


def _stack(
    read: Callable[[int], Float[ndarray, "H W C"] | UInt8[ndarray, "H W C"]],
    index: Int[ndarray, " N"],
    field: str,
    places: Sequence[str],
    shape: tuple[int, int, int],
) -> Float[ndarray, "N H W C"] | Pixels:
    """`read` of every index, in one array: of bytes until the first image that has other values.

    Raises:
      ConfigError: an image that cannot be read, by its place.
    """
    out: ndarray = np.empty((len(index), *shape), np.uint8)
    with _pixels_up_to(MAX_PIXELS):
        for row, i in enumerate(index):
            try:
                value = read(int(i))
                if value.dtype != np.uint8 and out.dtype == np.uint8:
                    out = unit(out)
                out[row] = value if value.dtype == out.dtype else unit(value)
            except Exception as e:  # of many kinds: what stands in a damaged file is anyone's guess
                raise ConfigError(
                    field, places[row], f"a readable image ({tables.first_line(e)})"
                ) from e
    return Pixels(out) if out.dtype == np.uint8 else out


@contextlib.contextmanager
def _pixels_up_to(count: int) -> Iterator[None]:
    """Pillow's bound on pixels, below which it warns of nothing."""
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = count // 2  # Pillow warns from there, and refuses twice as many
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _to_array(
    picture: object, size: int, channels: int
) -> Float[ndarray, "H W C"] | UInt8[ndarray, "H W C"]:
    """Centre crop to a square, resize; of 8 bits as they are, else scaled to [0, 1].

    Raises:
      ValueError: values beyond the range that the module's docstring tells.
    """
    from PIL import Image, ImageOps

    if not isinstance(picture, Image.Image):
        array = np.asarray(picture)
        if array.ndim == 3 and array.shape[-1] == 1:
            array = array[..., 0]
        if array.dtype not in (np.uint8, np.bool_):
            return _deep(array, size, channels)
        picture = Image.fromarray(array)
    ImageOps.exif_transpose(picture, in_place=True)
    picture = picture.crop(_centre(*picture.size))
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _deep(np.asarray(picture), size, channels, picture.info.get("transparency"))
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("LA") if picture.mode == "La" else picture
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    if picture.mode not in ("1", "L"):
        picture = picture.convert("RGB")
    picture = picture.convert("L" if channels == 1 else "RGB")
    if picture.width != size:
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture, np.uint8).reshape(size, size, channels)


def _centre(width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the largest square in the middle."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _deep(
    array: ndarray, size: int, channels: int, transparent: int | None = None
) -> Float[ndarray, "H W C"]:
    """As `_to_array`, scaled, of [H, W] or [H, W, 3] integers by 65,535, or of floats in [0, 1]."""
    from PIL import Image

    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)):
        raise ValueError(f"an array of shape {array.shape}")
    if array.dtype == np.int64:
        raise ValueError("integers of 64 bits, whose range nothing tells")
    left, top, right, bottom = _centre(array.shape[1], array.shape[0])
    array = array[top:bottom, left:right]
    scale = 1.0 if array.dtype.kind == "f" else 65_535.0
    low, high = float(array.min()), float(array.max())
    if not (low >= 0.0 and high <= scale):
        raise ValueError(f"values from {low:g} to {high:g}, where 0 to {scale:g} is expected")
    values = array.astype(np.float32) / scale
    if transparent is not None:
        values[array == transparent] = 1.0
    planes = values[..., None] if values.ndim == 2 else values
    if planes.shape[0] != size:
        resized = [
            Image.fromarray(np.ascontiguousarray(planes[..., c])).resize(
                (size, size), Image.Resampling.LANCZOS
            )
            for c in range(planes.shape[-1])
        ]
        planes = np.stack([np.asarray(p) for p in resized], -1).clip(0.0, 1.0)
    if channels == planes.shape[-1]:
        return planes
    if channels == 3:
        return np.repeat(planes, 3, -1)
    # The weights of Pillow's grey, ITU-R 601.
    return (planes @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
