"""What was read of a data set, and what was not: rows left out, and texts cut at a length."""

import contextlib
import contextvars
import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

_tally: contextvars.ContextVar[Counter[str] | None] = contextvars.ContextVar("tally", default=None)


@dataclasses.dataclass(frozen=True)
class Kept:
    """Of one split.

    Attributes:
      rows: that are read.
      cut: how many of them are longer than there is room.
      tokens: of all rows, uncut.
      lost: how many of those tokens are cut off.
    """

    rows: int
    cut: int = 0
    tokens: int = 0
    lost: int = 0


def of_lengths(sides: Sequence[Sequence[int]], rooms: Sequence[int]) -> Kept:
    """Of rows of one or more texts each, such as pairs; a row is cut if one of its texts is.

    Args:
      sides: for each side, the number of tokens of each row.
      rooms: for each side, the number of tokens that there is room for.
    """
    lengths = np.array([list(side) for side in sides], np.int64)
    over = np.maximum(lengths - np.array(rooms)[:, None], 0)
    return Kept(lengths.shape[1], int(over.any(0).sum()), int(lengths.sum()), int(over.sum()))


@contextlib.contextmanager
def tally() -> Iterator[Counter[str]]:
    """Counts what loaders leave out (`left_out`) inside of the block: {reason: rows}."""
    counts: Counter[str] = Counter()
    token = _tally.set(counts)
    try:
        yield counts
    finally:
        _tally.reset(token)


def left_out(count: int, reason: str) -> None:
    """Called by loaders where rows are dropped; nothing without a `tally`."""
    counts = _tally.get()
    if counts is not None and count:
        counts[reason] += count


def line(parts: Mapping[str, Kept], missing: Mapping[str, int], *, of: str = "texts") -> str:
    """A paragraph of Markdown for a report.

    Args:
      parts: split -> what was kept of it.
      missing: reason -> number of rows that were left out for it; see `tally`.
      of: what rows are.
    """
    cuts = [
        f"{name} {_share(k.cut, k.rows)} {of} and {_share(k.lost, k.tokens)} tokens"
        for name, k in parts.items()
        if k.cut
    ]
    whole = [name for name, k in parts.items() if not k.cut]
    cuts += [f"none of {', '.join(whole)}"] if whole else []
    reasons = [f"{n:,} {reason}" for reason, n in missing.items() if n]
    return f"Cut: {'; '.join(cuts)}. Left out: {', '.join(reasons) or 'nothing'}.\n"


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({100 * part / max(whole, 1):.3g}%)"
