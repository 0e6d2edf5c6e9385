"""Checkpoints of a training run: orbax, asynchronous, checked when read.

A checkpoint holds the whole `TrainState` (model, EMA, optimiser, loss state, key, step) and the
state of the data iterator. Arrays are stored under their names, so a checkpoint can be restored
onto any mesh. Orbax commits a step atomically; a CRC of every array is stored beside it, so that
a damaged file is found when it is read, and the step before it is used.
"""

import logging
import pathlib
import shutil
import zlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from jaxgen.mesh import path_name

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """No checkpoint of a run could be read."""


def to_arrays(tree: PyTree) -> dict[str, Any]:
    """A pytree as {name: array}; typed keys become their raw data."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {path_name(path): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise ValueError("two arrays of the state share a name")
    return {name: _raw(named[name]) for name in sorted(named)}


def _raw(a: Any) -> Any:
    """Key data of a typed key, or of its ShapeDtypeStruct; other arrays as they are."""
    if not _is_key(a):
        return a
    if isinstance(a, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.key_data, a)
    return jax.random.key_data(a)


def from_arrays(template: PyTree, arrays: dict[str, Any]) -> PyTree:
    """Inverse of `to_arrays`; `template` gives the structure and which leaves are keys."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(template)
    values = []
    for path, leaf in leaves:
        a = arrays[path_name(path)]
        values.append(jax.random.wrap_key_data(a) if _is_key(leaf) else a)
    return jax.tree.unflatten(treedef, values)


def _is_key(a: Any) -> bool:
    return jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)


def _checksums(arrays: dict[str, Any]) -> dict[str, int]:
    """CRC-32 of each array that this process can see whole; others are left out."""
    return {
        name: zlib.crc32(np.ascontiguousarray(jax.device_get(a)).tobytes())
        for name, a in arrays.items()
        if not isinstance(a, jax.Array) or a.is_fully_addressable
    }


class Checkpointer:
    """Saves and restores the checkpoints of one run under `directory`."""

    def __init__(self, directory: str | pathlib.Path, *, keep: int = 2):
        """Args:
        keep: how many of the newest steps stay on disk.
        """
        self.directory = pathlib.Path(directory).absolute()
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, create=True
        )
        self._manager = ocp.CheckpointManager(self.directory, options=self._options)

    def steps(self) -> list[int]:
        """Committed steps, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: PyTree, data: dict[str, Any]) -> None:
        """Starts writing; returns once the arrays are copied, so the state may be donated.

        Does nothing where `step` is on disk already. Raises what a failed earlier write raised.
        """
        if step in self._manager.all_steps():
            return
        arrays = to_arrays(state)
        sums = _checksums(arrays)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(arrays),  # type: ignore[call-arg]
                meta=ocp.args.JsonSave({"data": data, "crc32": sums}),  # type: ignore[call-arg]
            ),
        )

    def restore(self, template: PyTree, shardings: PyTree) -> tuple[PyTree, dict[str, Any]] | None:
        """The newest readable checkpoint as (state, data-iterator state); None if there is none.

        Args:
          template: state of ShapeDtypeStructs or arrays, for structure, shapes and types.
          shardings: where each array goes; may belong to another mesh than the one that saved.

        A step that cannot be read is reported, moved out of the way (`unreadable-STEP`), and the
        one before it is tried.

        Raises:
          CheckpointError: if there are checkpoints and none can be read.
        """
        where = to_arrays_of_shardings(template, shardings)
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self._read(step, template, where)
            except (OSError, ValueError, KeyError, TypeError) as e:
                reason = str(e).strip().splitlines()[0][:200] if str(e).strip() else repr(e)
                log.warning(
                    "checkpoint of step %d in %s cannot be read (%s); trying the one before it",
                    step,
                    self.directory,
                    reason,
                )
                self._discard(step)
        if steps:
            raise CheckpointError(
                f"none of the checkpoints {steps} in {self.directory} is readable"
            )
        return None

    def _read(self, step: int, template: PyTree, where: dict[str, Any]) -> Any:
        target = {
            name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where[name])
            for name, a in to_arrays(template).items()
        }
        read = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(target),  # type: ignore[call-arg]
                meta=ocp.args.JsonRestore(),  # type: ignore[call-arg]
            ),
        )
        arrays, meta = read["state"], read["meta"]
        for name, crc in _checksums(arrays).items():
            if meta["crc32"].get(name, crc) != crc:
                raise ValueError(f"array {name} does not match its checksum")
        return from_arrays(template, arrays), meta["data"]

    def _discard(self, step: int) -> None:
        if jax.process_index() == 0:
            target = self.directory / f"unreadable-{step}"
            shutil.rmtree(target, ignore_errors=True)
            (self.directory / str(step)).rename(target)
        self._manager.close()
        self._manager = ocp.CheckpointManager(self.directory, options=self._options)

    def wait(self) -> None:
        """Blocks until the last save is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.wait_until_finished()
        self._manager.close()


def to_arrays_of_shardings(template: PyTree, shardings: PyTree) -> dict[str, Any]:
    """{name: sharding} for the arrays of `template`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(template)
    return {
        path_name(path): s for (path, _), s in zip(leaves, jax.tree.leaves(shardings), strict=True)
    }
