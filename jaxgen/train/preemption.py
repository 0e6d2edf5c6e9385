"""SIGTERM during training, with one process or many."""

import collections
import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Whether SIGTERM came: a fact of the process, also where it came before training or between two runs.
_came = threading.Event()


class Preempted(BaseException):
    """SIGTERM came; what was trained is saved.

    No `Exception`, like KeyboardInterrupt: it may come anywhere, also in a reader that takes every error for
    a damaged file.
    """


def _remember(number: int, frame: FrameType | None) -> None:
    _came.set()


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM where nothing is trained, between two runs or while one is judged, raises `Preempted`.

    With several processes it is remembered instead, and the next step of training stops them together.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        _came.set()  # Python drops what is raised within a callback of its collector: training stops then
        raise Preempted("SIGTERM, nothing was being trained; launch again to go on")

    old = signal.signal(signal.SIGTERM, stop if jax.process_count() == 1 else _remember)
    try:
        yield
    except Preempted:
        _came.clear()
        raise
    finally:
        signal.signal(signal.SIGTERM, old)


class Preemption:
    """Turns SIGTERM into a decision of all processes while it is entered (main thread only).

    With several processes each of them sends its flag along after every step, and reads what all sent two
    steps before: that is there already, so nothing waits, and all read the same. The handler stays
    after the exit then, for a signal between two runs stops the next one.
    """

    LAG = 2

    def __enter__(self) -> "Preemption":
        self._old: Any = None
        if threading.current_thread() is threading.main_thread():
            self._old = signal.signal(signal.SIGTERM, _remember)
        self._sent: collections.deque[Any] = collections.deque()
        if jax.process_count() > 1:
            first: dict[int, Any] = {}
            for device in jax.devices():
                first.setdefault(device.process_index, device)
            mesh = Mesh(np.array([first[i] for i in sorted(first)]), ("process",))
            self._split = NamedSharding(mesh, PartitionSpec("process"))
            self._any = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))
        return self

    def __exit__(self, *_: object) -> None:
        if self._old is not None and jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._old)

    def _send(self) -> None:
        flag = np.array([_came.is_set()])
        self._sent.append(self._any(jax.make_array_from_process_local_data(self._split, flag)))

    def reached(self) -> bool:
        """Whether to stop after this step, the same in all processes, which all must ask."""
        if jax.process_count() == 1:
            return _came.is_set()
        self._send()
        return len(self._sent) > self.LAG and bool(np.asarray(self._sent.popleft()))

    def finish(self) -> bool:
        """Whether a signal came until now, be it after the last step; all processes must ask. Forgets it."""
        if jax.process_count() > 1:
            self._send()
            came = any(bool(np.asarray(a)) for a in self._sent)
        else:
            came = _came.is_set()
        if came:
            _came.clear()
        return came
