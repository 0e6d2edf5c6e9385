"""Timing two sides in turns, in one process: A B A B ..."""

import time
from collections.abc import Callable
from typing import Any

import jax


class Program:
    """A function compiled for its arguments: a call runs it on them, and waits for what it returns."""

    def __init__(self, f: Callable[..., Any], *arguments: Any):
        self.built = jax.jit(f).lower(*arguments).compile()
        self.arguments = arguments

    def __call__(self) -> Any:
        return jax.block_until_ready(self.built(*self.arguments))

    @property
    def temporary(self) -> int:
        """Bytes beside arguments and results."""
        return self.built.memory_analysis().temp_size_in_bytes


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
