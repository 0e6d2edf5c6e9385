"""Train, valid and test by a hash of the content: the same on every machine, in any order."""

import hashlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from jaxgen.errors import ConfigError


def split_by_hash(
    items: Iterable[bytes], *, valid_fraction: float, test_fraction: float
) -> dict[str, Int[ndarray, " M"]]:
    """{"train", "valid", "test"} -> indices of the items; equal items fall into the same part."""
    digests = [hashlib.sha256(item).digest()[:8] for item in items]
    u = np.array([int.from_bytes(d, "big") for d in digests], np.float64) / 2.0**64
    test = u < test_fraction
    valid = ~test & (u < test_fraction + valid_fraction)
    masks = {"train": ~test & ~valid, "valid": valid, "test": test}
    return {name: np.flatnonzero(mask) for name, mask in masks.items()}


def check_limit(limit: int) -> None:
    """Of how many rows to keep; 0 keeps all.

    Raises:
      ConfigError: a limit below 0.
    """
    if limit < 0:
        raise ConfigError("data.limit", limit, "0 (all) or more")


def spread(count: int, limit: int, label: Int[ndarray, " N"] | None = None) -> Int[ndarray, " M"]:
    """At most `limit` of `count` rows, evenly spread, of each label its share; 0 keeps all."""
    if not limit or limit >= count:
        return np.arange(count)
    order = np.arange(count) if label is None else np.argsort(label, kind="stable")
    return np.sort(order[np.linspace(0, count - 1, limit).round().astype(int)])


def balanced(count: int, limit: int, label: Int[ndarray, " N"] | None) -> Int[ndarray, " M"]:
    """At most `limit` of `count` rows, the first of each label in turn; 0 keeps all.

    Of a label with fewer rows than its turn all are kept, and the others fill up. The rows stay in their order.
    """
    if not limit or limit >= count:
        return np.arange(count)
    turn = np.arange(count)
    for value in [] if label is None else np.unique(label):
        turn[label == value] = np.arange((label == value).sum())
    return np.sort(np.argsort(turn, kind="stable")[:limit])
