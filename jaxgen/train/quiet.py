"""What threads and coroutines say of an error that was raised, caught and told already."""

import contextlib
import gc
import logging
import sys
import time
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing of it is printed.

    Orbax reads many arrays at a time. Where one of them fails, it closes its event loop under the others:
    tensorstore's threads, asyncio, and Python when it collects the coroutines, print a traceback for each.
    """
    hooks, log = (sys.excepthook, sys.unraisablehook), logging.getLogger("asyncio")
    level = log.level
    sys.excepthook, sys.unraisablehook = (lambda *_: None), (lambda _: None)
    log.setLevel(logging.CRITICAL + 1)
    failed = True
    try:
        yield
        failed = False
    finally:
        if failed:
            time.sleep(0.2)  # for what is still being read
            gc.collect()
        sys.excepthook, sys.unraisablehook = hooks
        log.setLevel(level)
