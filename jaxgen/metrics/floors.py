"""What rules without a model score: a model's number says something only beside them."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from jaxgen.data.pixels import Pixels


def consensus(tokens: Int[ndarray, "N T"], mask: Bool[ndarray, "N T"]) -> Int[ndarray, " T"]:
    """The sequence of the most frequent token of each position, of which the smallest where there are ties.

    Args:
      mask: real tokens, which alone count; where a position has none, all do.

    Raises:
      ValueError: no rows.
    """
    if not len(tokens):
        raise ValueError("tokens have no rows, allowed: at least one")
    counted = mask | ~mask.any(0)
    columns = (np.bincount(t[c]).argmax() for t, c in zip(tokens.T, counted.T, strict=True))
    return np.array(list(columns), tokens.dtype)


def majority_accuracy(train: Int[ndarray, " N"], test: Int[ndarray, " M"]) -> float:
    """Accuracy on `test` of the label that is most frequent in `train` (the smallest of ties).

    Raises:
      ValueError: no label in one of them.
    """
    if not len(train) or not len(test):
        raise ValueError(f"{len(train)} train and {len(test)} test labels, allowed: at least one")
    values, counts = np.unique(train, return_counts=True)
    return float((test == values[counts.argmax()]).mean())


def mean_image_mse(
    train: Float[ndarray, "N H W C"] | Pixels,
    test: Float[ndarray, "M H W C"] | Pixels,
    *,
    rows: int = 5000,
) -> tuple[float, Float[ndarray, "H W C"]]:
    """Mean squared error of the mean train image as the reconstruction of every test image, and that image.

    Args:
      rows: how many images are read at a time.
    """

    def total(images: ndarray | Pixels, of: Callable[[ndarray], ndarray]) -> ndarray:
        starts = range(0, len(images), rows)
        parts = [of(images[i : i + rows]).sum(0, dtype=np.float64) for i in starts]
        return np.sum(parts, axis=0)

    mean = (total(train, lambda x: x) / len(train)).astype(np.float32)
    squared = total(test, lambda x: (x - mean) ** 2)
    return float(squared.mean() / len(test)), mean


def unigram_perplexity(
    train: Int[ndarray, " N"], test: Int[ndarray, " M"], vocabulary: int
) -> float:
    """Perplexity of a token of `test` under the frequencies of `train`, each count raised by one.

    Args:
      train: ids from 0 to vocabulary - 1, real tokens alone; as `test`.

    Raises:
      ValueError: no test token, or an id beyond the vocabulary.
    """
    counts = np.bincount(train, minlength=vocabulary)
    if not len(test) or len(counts) > vocabulary or not 0 <= test.min() <= test.max() < vocabulary:
        raise ValueError(f"{len(test)} test tokens, allowed: some, of ids 0 to {vocabulary - 1}")
    logp = np.log(counts + 1.0) - math.log(len(train) + vocabulary)
    return float(np.exp(-logp[test].mean()))
