"""One launch at a time on a workdir.

The lock is the operating system's (`flock`), so it ends with the process that holds it, however that
ends: a workdir is never blocked by a launch that was killed. On NFS, Linux turns it into a lock of the
server, which other hosts see. Where a file system has no locks, a line says so and the launch goes on.
"""

import contextlib
import errno
import json
import logging
import os
import pathlib
import socket
import time
import uuid
from collections.abc import Iterator

import jax
import numpy as np

from jaxgen.errors import ConfigError

log = logging.getLogger(__name__)

NAME = ".lock"
_TOKEN = uuid.uuid4().hex  # of this process
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class WorkdirInUse(ConfigError, SystemExit):
    """Another launch works in the workdir.

    Also a SystemExit: a script that trains without `jaxgen.launch` ends with this line, not a traceback.
    """

    def __init__(self, workdir: pathlib.Path, owner: str):
        super().__init__("workdir", str(workdir), f"a workdir that no other launch uses ({owner})")
        self.code = f"error: {self}"


@contextlib.contextmanager
def hold(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the lock of `workdir`, which is made if it is not there; again within one process does nothing.

    With several processes the first one holds it for all.

    Raises:
      WorkdirInUse: in every process of this launch, if another launch holds it.
    """
    made = not workdir.exists()
    held, owner = None, ""
    if jax.process_index() == 0:
        held, owner = _acquire(workdir)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        if multihost_utils.broadcast_one_to_all(np.array(bool(owner))):
            owner = owner or "the first process knows which"
    if owner:
        raise WorkdirInUse(workdir, owner)
    try:
        yield
    finally:
        if held is not None:
            # While it is still locked, so that nobody can have locked the file that goes.
            (workdir / NAME).unlink(missing_ok=True)
            os.close(held)
            if made:
                with contextlib.suppress(OSError):
                    workdir.rmdir()  # nothing was written


def _acquire(workdir: pathlib.Path) -> tuple[int | None, str]:
    """(descriptor of the locked file, who else holds it); neither, where this process holds it already."""
    import fcntl

    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as e:
        raise ConfigError(
            "workdir", str(workdir), f"a folder that can be made ({e.strerror})"
        ) from e
    path = workdir / NAME
    me = {"host": socket.gethostname(), "pid": os.getpid(), "token": _TOKEN}
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            text = os.pread(file, 500, 0).decode(errors="replace")
            os.close(file)
            if e.errno in _UNSUPPORTED:
                log.warning("%s: no locks here (%s); launch only once on it", workdir, e.strerror)
                return None, ""
            if e.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            try:
                other = json.loads(text)
                if other["token"] == _TOKEN:
                    return None, ""
                return None, f"process {other['pid']} on {other['host']} since {other['since']}"
            except (ValueError, KeyError, TypeError):
                return None, "another launch has just begun"
        # The file may have been removed by its holder between opening and locking.
        try:
            current = os.stat(path).st_ino == os.fstat(file).st_ino
        except FileNotFoundError:
            current = False
        if current:
            break
        os.close(file)
    text = json.dumps(me | {"since": time.strftime("%Y-%m-%d %H:%M:%S")})
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, text.encode(), 0)
    except OSError as e:  # a full disk: the lock holds without its text
        log.warning("%s: %s", path, e.strerror)
    return file, ""
