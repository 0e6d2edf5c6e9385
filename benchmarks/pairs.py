"""Timing two sides in turns, in one process: A B A B ..."""

import time
from collections.abc import Callable


def paired(
    ours: Callable[[], object], theirs: Callable[[], object], rounds: int, inner: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of one call on each side, in turns, after a warm-up."""
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds + 2):
        for side, f in enumerate((ours, theirs)):
            begin = time.perf_counter()
            for _ in range(inner):
                f()
            if i >= 2:
                times[side].append((time.perf_counter() - begin) / inner * 1e3)
    return times
