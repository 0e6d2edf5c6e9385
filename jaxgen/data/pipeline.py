"""Deterministic, resumable batches from arrays in memory, with grain."""

from collections.abc import Mapping, Sequence
from typing import SupportsIndex

import grain
import jax
import numpy as np
from numpy import ndarray

from jaxgen.data.pixels import Pixels


def batches(
    arrays: Mapping[str, ndarray | Pixels], batch_size: int, *, seed: int, threads: int = 2
) -> grain.DatasetIterator:
    """Endless shuffled batches {name: [rows of this process, ...]}.

    The order depends on `seed` alone: a new permutation each epoch, the same global batch whatever
    the number of processes (each takes its own contiguous share of the rows). `get_state()` of the
    iterator is a small dict that JSON can hold, and `set_state` continues from it exactly.

    Args:
      batch_size: of the global batch; divisible by the number of processes.

    Raises:
      ValueError: for arrays of unequal or zero length, or a batch that does not divide.
    """
    lengths = {len(a) for a in arrays.values()}
    if len(lengths) != 1 or not min(lengths):
        raise ValueError(f"arrays have lengths {sorted(lengths)}, allowed: one length above 0")
    count, index = jax.process_count(), jax.process_index()
    if batch_size < 1 or batch_size % count:
        raise ValueError(f"batch size is {batch_size}, allowed: a multiple of {count} processes")
    share = batch_size // count
    rows = slice(index * share, (index + 1) * share)

    def gather(ids: Sequence[SupportsIndex] | ndarray) -> dict[str, ndarray]:
        mine = np.asarray(ids)[rows]
        return {name: a[mine] for name, a in arrays.items()}

    dataset = (
        grain.MapDataset.range(lengths.pop())
        .seed(seed)
        .shuffle()
        .repeat(2**31)  # endless in practice; grain's own endless repeat overflows at batch 1
        .batch(batch_size)
        .map(gather)
    )
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=8 * max(threads, 1))
    return iter(dataset.to_iter_dataset(options))
