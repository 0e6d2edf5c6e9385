"""Train, valid and test by a hash of the content: the same on every machine, in any order."""

import hashlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int
from numpy import ndarray


def by_hash(
    items: Iterable[bytes], *, valid_fraction: float, test_fraction: float
) -> dict[str, Int[ndarray, " M"]]:
    """{"train", "valid", "test"} -> indices of the items; equal items fall into the same part."""
    digests = [hashlib.sha256(item).digest()[:8] for item in items]
    u = np.array([int.from_bytes(d, "big") for d in digests], np.float64) / 2.0**64
    test = u < test_fraction
    valid = ~test & (u < test_fraction + valid_fraction)
    masks = {"train": ~test & ~valid, "valid": valid, "test": test}
    return {name: np.flatnonzero(mask) for name, mask in masks.items()}
