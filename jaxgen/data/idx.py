"""MNIST's own file format: IDX, plain or compressed by gzip (LeCun et al., 1998)."""

import gzip
import math
import pathlib
import zlib

import numpy as np
from numpy import ndarray

from jaxgen.data import splits
from jaxgen.data.images import Images, take
from jaxgen.data.pixels import Pixels
from jaxgen.data.root import expand
from jaxgen.errors import ConfigError

TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
PARTS = {"train": "train", "test": "t10k"}


def read(path: pathlib.Path) -> ndarray:
    """The array of a file, in this machine's byte order.

    Raises:
      ConfigError: no file, or one of another format or length.
    """
    allowed = "a file in IDX format"
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as e:
        raise ConfigError("data.path", str(path), f"{allowed} ({type(e).__name__})") from e
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in TYPES:
        raise ConfigError("data.path", str(path), f"{allowed}, which begins with 0, 0 and a type")
    kind, axes = np.dtype(TYPES[data[2]]), data[3]
    shape = tuple(np.frombuffer(data[4 : 4 + 4 * axes], ">u4").tolist())
    body = data[4 + 4 * axes :]
    if len(shape) != axes or len(body) != math.prod(shape) * kind.itemsize:
        raise ConfigError("data.path", str(path), f"{allowed} that is as long as it says")
    return np.frombuffer(body, kind).reshape(shape).astype(kind.newbyteorder("="))


def load(folder: str) -> dict[str, Images]:
    """{"train", "test"} of a folder with the four files of MNIST, or of a set in their place.

    Args:
      folder: may begin with `$JAXGEN_DATA`.

    Raises:
      ConfigError: a file that is missing or damaged, as many labels as there are no images.
    """
    root, out = pathlib.Path(expand(folder)), {}
    for name, stem in PARTS.items():
        found = {}
        for part, axes in (("images-idx3", 3), ("labels-idx1", 1)):
            plain = root / f"{stem}-{part}-ubyte"
            path = plain if plain.exists() else plain.with_name(plain.name + ".gz")
            found[part] = read(path)
            if found[part].ndim != axes or found[part].dtype != np.uint8:
                raise ConfigError("data.path", str(path), f"bytes in {axes} axes")
        image, label = found["images-idx3"], found["labels-idx1"]
        if len(image) != len(label):
            raise ConfigError("data.path", str(root), f"a label for each of {len(image)} images")
        out[name] = Images(Pixels(image[..., None]), label.astype(np.int32))
    return out


def load_splits(folder: str, *, valid_fraction: float = 0.1, limit: int = 0) -> dict[str, Images]:
    """{"train", "valid", "test"}: the test files as they are, the train files split by `splits.spread`.

    Args:
      folder: see `load`.
      valid_fraction: share of the train files' images, of each label alike, that is held out.
      limit: at most this many of the train files' images, and as many of the test files', balanced; 0 keeps all.

    Raises:
      ConfigError: as `load`; a share that is not at least 0 and below 1; a limit below 0.
    """
    if not 0 <= valid_fraction < 1:
        raise ConfigError("data.valid_fraction", valid_fraction, "at least 0 and below 1")
    splits.check_limit(limit)
    parts = {
        name: take(part, splits.balanced(len(part), limit, part.label))
        for name, part in load(folder).items()
    }
    train = parts["train"]
    held = round(len(train) * valid_fraction)
    valid = splits.spread(len(train), held, train.label) if held else np.arange(0)
    rest = np.setdiff1d(np.arange(len(train)), valid)
    return {"train": take(train, rest), "valid": take(train, valid), "test": parts["test"]}
