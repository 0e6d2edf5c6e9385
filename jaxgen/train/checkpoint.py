"""Checkpoints of a training run: orbax, asynchronous, checked when read.

A checkpoint holds the whole `TrainState` (model, EMA, optimiser, loss state, key, step), the state of
the data iterator, and what the host remembers of the run (`history`). Arrays are stored under their
names, so a checkpoint can be restored onto any mesh. Orbax commits a step atomically; CRCs of every array
(`jaxgen.train.checksums`) are stored in it, so that a damaged file is found when it is read, and the step
before it used.
"""

import contextlib
import errno
import itertools
import json
import logging
import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from numpy import ndarray

from jaxgen.errors import RunError, told
from jaxgen.mesh import path_name
from jaxgen.train import checksums
from jaxgen.train.quiet import quiet
from jaxgen.train.step_folders import numbers, set_notes_aside

log = logging.getLogger(__name__)

# What a checkpoint may need on disk beside its arrays: names, shardings, the database around them.
ROOM = 256 * 1024
FILES = 64


class CheckpointError(RunError):
    """A checkpoint could not be written, or none of a run could be read."""


class CheckpointMismatch(CheckpointError):
    """A checkpoint is whole, and of another model."""


class Restored(NamedTuple):
    """What `Checkpointer.save` was given."""

    state: PyTree
    data: dict[str, PyTree]
    history: dict[str, ndarray]


def to_arrays(tree: PyTree) -> dict[str, PyTree]:
    """A pytree as {name: array}; typed keys become their raw data."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {path_name(path): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise ValueError("two arrays of the state share a name")
    return {name: _raw(named[name]) for name in sorted(named)}


def _raw(a: PyTree) -> PyTree:
    """Key data of a typed key, or of its ShapeDtypeStruct; other arrays as they are."""
    if not _is_key(a):
        return a
    if isinstance(a, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.key_data, a)
    return jax.random.key_data(a)


def from_arrays(template: PyTree, arrays: dict[str, PyTree]) -> PyTree:
    """Inverse of `to_arrays`; `template` gives the structure and which leaves are keys."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(template)
    values = []
    for path, leaf in leaves:
        a = arrays[path_name(path)]
        values.append(jax.random.wrap_key_data(a) if _is_key(leaf) else a)
    return jax.tree.unflatten(treedef, values)


def _is_key(a: PyTree) -> bool:
    return jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)


def _kind(a: PyTree) -> list[PyTree]:
    """Shape and type, as JSON has them."""
    return [list(a.shape), str(a.dtype)]


def _text_checksum(data: PyTree) -> int:
    return zlib.crc32(json.dumps(data, sort_keys=True).encode())


def _everywhere(ok: bool) -> bool:
    """Whether all processes say so."""
    if jax.process_count() == 1:
        return ok
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(ok)).all())


class Checkpointer:
    """Saves and restores the checkpoints of one run under `directory`."""

    def __init__(self, directory: str | pathlib.Path, *, keep: int = 2, restart: bool = False):
        """Args:
        keep: how many of the newest steps stay on disk.
        restart: where `restore` can read nothing, everything is set aside (`NAME.set-aside`).
        """
        self.directory, self._restart = pathlib.Path(directory).absolute(), restart
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, create=True
        )
        self._open()

    def _open(self, again: bool = False) -> None:
        """Raises CheckpointError where there is no folder, or orbax cannot list the steps in it."""
        try:
            self._manager = ocp.CheckpointManager(self.directory, options=self._options)
            next(self.directory.iterdir(), None)  # orbax takes a file for a folder
        except Exception as e:
            bad = [] if again or isinstance(e, OSError) else set_notes_aside(self.directory)
            if not bad:
                raise CheckpointError(f"{self.directory} cannot be opened ({told(e)})") from e
            log.warning("%s: passed over (%s)", ", ".join(map(str, bad)), told(e))
            self._open(again=True)

    def steps(self) -> list[int]:
        """Committed steps, oldest first."""
        return sorted(self._manager.all_steps())

    def save(
        self,
        step: int,
        state: PyTree,
        data: dict[str, PyTree],
        history: Mapping[str, ndarray] | None = None,
    ) -> None:
        """Starts writing; returns once the arrays are copied, so the state may be donated.

        Does nothing where `step` is on disk already.

        Args:
          data: state of the data iterator, JSON.
          history: arrays of any length that the host keeps beside the state.

        Raises:
          CheckpointError: this or an earlier step could not be written; names the steps on disk.
        """
        if step in self._manager.all_steps():
            return
        arrays = to_arrays(state)
        history = {k: np.asarray(v) for k, v in (history or {}).items()}
        meta = {
            "step": step,
            "data": data,
            "writers": jax.process_count(),
            "crc32": {f"history/{k}": checksums.crc(v) for k, v in history.items()},
            "arrays": {name: _kind(a) for name, a in arrays.items()},
            "history": {name: _kind(a) for name, a in history.items()},
        }
        items: dict[str, PyTree] = {
            "state": ocp.args.StandardSave(arrays),  # type: ignore[call-arg]
            "meta": ocp.args.JsonSave(meta | {"meta_crc32": _text_checksum(meta)}),  # type: ignore[call-arg]
        }
        full = {name: a for name, a in history.items() if a.size}  # orbax writes no empty arrays
        if full:
            items["history"] = ocp.args.StandardSave(full)  # type: ignore[call-arg]
        items[checksums.FOLDER] = checksums.Save(checksums.pieces(arrays))
        with self._writing():
            self._check_room(sum(a.nbytes for a in [*arrays.values(), *history.values()]))
            # Forced, since orbax would else ask whether to stop, which `loop.Preemption` does.
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, template: PyTree, shardings: PyTree) -> Restored | None:
        """The newest readable checkpoint; None if there is none.

        Args:
          template: state of ShapeDtypeStructs or arrays, for structure, shapes and types.
          shardings: where each array goes; may belong to another mesh than the one that saved.

        A step that cannot be read is reported, and the one before it is tried. Once one was read, those
        after it are renamed to `unreadable-STEP`, so that they can be written again; until then no file
        is touched, since what failed may be the file system. Nothing is ever deleted here.

        Raises:
          CheckpointError: there are checkpoints (or some that were set aside) and none can be read, or
            they hold another model than `template`.
        """
        try:
            return self._newest(template, to_arrays_of_shardings(template, shardings))
        except CheckpointError as e:
            if not self._restart:
                raise type(e)(
                    f"{e}; the files are left as they are, and --config.train.restart=True "
                    "sets them aside and begins this run anew"
                ) from e
            log.warning("%s; the run begins anew", e)
        self._move(self.directory, self.directory.parent / f"{self.directory.name}.set-aside")
        return None

    def _newest(self, template: PyTree, where: dict[str, PyTree]) -> Restored | None:
        steps = sorted({*self.steps(), *numbers(self.directory)})
        bad: list[int] = []
        for step in reversed(steps):
            found, failure = None, None
            try:
                with quiet():
                    found = self._read(step, template, where)
            except CheckpointMismatch:
                raise
            except Exception as e:  # whatever orbax, tensorstore and the file system raise
                failure = e
            if _everywhere(found is not None):
                for other in bad:
                    self._move(self.directory / str(other), self.directory / f"unreadable-{other}")
                return found
            bad.append(step)
            log.warning(
                "checkpoint of step %d in %s cannot be read (%s)%s",
                step,
                self.directory,
                told(failure) if failure else "in another process",
                "; trying the one before it" if step != steps[0] else "",
            )
        if steps:
            raise CheckpointError(
                f"none of the checkpoints {steps} in {self.directory} is readable"
            )
        aside = sorted(p.name for p in self.directory.glob("unreadable-*"))
        if aside:
            raise CheckpointError(
                f"{self.directory} holds {', '.join(aside)} and no readable checkpoint"
            )
        return None

    def _read(self, step: int, template: PyTree, where: dict[str, PyTree]) -> Restored:
        target = {
            name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where[name])
            for name, a in to_arrays(template).items()
        }
        meta = self._manager.restore(
            step,
            args=ocp.args.Composite(meta=ocp.args.JsonRestore()),  # type: ignore[call-arg]
        )["meta"]
        crc = meta.pop("meta_crc32", None)
        if crc not in (None, _text_checksum(meta)):
            raise ValueError("its description and data state do not match their checksum")
        if meta.get("step", step) != step:  # older versions did not write it
            raise ValueError(f"it was saved as step {meta['step']}")
        self._check_kinds(step, meta.get("arrays", {}), target)
        items: dict[str, PyTree] = {"state": ocp.args.StandardRestore(target)}  # type: ignore[call-arg]
        kinds = {name: np.zeros(k[0], k[1]) for name, k in meta.get("history", {}).items()}
        full = {name: a for name, a in kinds.items() if a.size}
        if full:
            items["history"] = ocp.args.StandardRestore(full)  # type: ignore[call-arg]
        read = self._manager.restore(step, args=ocp.args.Composite(**items))
        arrays = read["state"]
        history = kinds | {k: np.asarray(v) for k, v in (read["history"] if full else {}).items()}
        sums = checksums.read(self.directory / str(step) / checksums.FOLDER, meta.get("writers", 0))
        checksums.check(arrays, sums)
        # Older versions kept those of whole arrays there too.
        whole = {n: a for n, a in arrays.items() if n in meta["crc32"] and a.is_fully_addressable}
        for name, a in (whole | {f"history/{k}": v for k, v in history.items()}).items():
            if meta["crc32"].get(name) not in (None, checksums.crc(a)):
                raise ValueError(f"array {name} does not match its checksum")
        return Restored(from_arrays(template, arrays), meta["data"], history)

    def _check_kinds(
        self, step: int, saved: Mapping[str, PyTree], target: Mapping[str, PyTree]
    ) -> None:
        if not saved:  # of a version that did not write them
            return
        wanted = {name: _kind(a) for name, a in target.items()}
        for name in sorted(saved.keys() | wanted.keys()):
            there, here = saved.get(name, "absent"), wanted.get(name, "absent")
            if there != here:
                raise CheckpointMismatch(
                    f"checkpoint of step {step} in {self.directory} is of another model or of other "
                    f"data: {name} is {there} there and {here} in this run"
                )

    def _move(self, source: pathlib.Path, target: pathlib.Path) -> None:
        """Renames, to a name that is free; the first process does it for all."""
        self._manager.close()
        if jax.process_index() == 0:
            names = (target.with_name(f"{target.name}-{i}") for i in itertools.count(2))
            free = target if not target.exists() else next(n for n in names if not n.exists())
            source.rename(free)
        _everywhere(True)
        self._open()

    def _check_room(self, size: int) -> None:
        """Asks before orbax writes, whose threads fail loudly, and leave a part that fills the disk up."""
        if jax.process_index() or not hasattr(os, "statvfs"):
            return
        there = os.statvfs(self.directory)
        free = there.f_bavail * there.f_frsize
        if free < size + ROOM:
            raise OSError(errno.ENOSPC, f"{free:,} bytes are free, {size + ROOM:,} may be needed")
        if there.f_files and there.f_favail < FILES:
            raise OSError(
                errno.ENOSPC, f"{there.f_favail} files may be made, {FILES} may be needed"
            )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Any failure as one line; orbax and tensorstore raise many types."""
        try:
            yield
        except Exception as e:
            raise CheckpointError(
                f"a checkpoint in {self.directory} could not be written ({told(e)}); "
                f"on disk: {self.steps() or 'none'}"
            ) from e

    def wait(self) -> None:
        """Blocks until the last save is on disk.

        Raises:
          CheckpointError: it could not be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """`wait`, and ends the threads of orbax."""
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception):  # a failed write again, which `wait` raised
                self._manager.close()


def to_arrays_of_shardings(template: PyTree, shardings: PyTree) -> dict[str, PyTree]:
    """{name: sharding} for the arrays of `template`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(template)
    return {
        path_name(path): s for (path, _), s in zip(leaves, jax.tree.leaves(shardings), strict=True)
    }
