"""CRCs of the arrays in a checkpoint, piece by piece as devices hold them, taken on the writer's thread.

Each process writes those of its own pieces, `crc32/PROCESS.json` in the folder of the step: {name: {place:
crc}}, where a place is such as "0:4,8:16". A piece is checked wherever it is read back whole, be it on
another mesh or in another number of processes.
"""

import dataclasses
import json
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from numpy import ndarray

FOLDER = "crc32"
Sums: TypeAlias = dict[str, dict[str, int]]  # {name: {place: crc}}


def crc(a: PyTree) -> int:
    """CRC-32 of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(a).tobytes())


def place_of(index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
    """Where a piece lies in the array of that shape."""
    bounds = (s.indices(n) for s, n in zip(index, shape, strict=True))
    return ",".join(f"{start}:{stop}" for start, stop, _ in bounds)


def bounds_of(place: str) -> list[tuple[int, int]]:
    """(start, stop) along each axis; none for a scalar."""
    return [
        (int(a), int(b)) for a, _, b in (part.partition(":") for part in place.split(",") if part)
    ]


def pieces(arrays: Mapping[str, PyTree]) -> dict[str, dict[str, ndarray]]:
    """{name: {place: copy on the host}} of what this process answers for; one replica of each piece."""
    mine = {
        name: [s for s in a.addressable_shards if s.replica_id == 0]
        for name, a in arrays.items()
        if isinstance(a, jax.Array)
    }
    for shards in mine.values():
        for s in shards:
            s.data.copy_to_host_async()
    # Copies: the buffers themselves will be donated to the next step.
    return {
        name: {place_of(s.index, arrays[name].shape): np.array(s.data) for s in shards}
        for name, shards in mine.items()
    }


class Handler(ocp.AsyncCheckpointHandler):
    """Takes CRCs and writes them while training goes on."""

    async def async_save(self, directory: Any, args: "Save") -> list[ocp.future.Future]:
        """The future in which they are written; orbax waits for it before it commits the step."""
        write = self._write(directory, args.pieces)
        return [ocp.future.CommitFutureAwaitingContractedSignals(write, name="crc32")]

    async def _write(self, directory: Any, held: Mapping[str, Mapping[str, ndarray]]) -> None:
        sums = {name: {place: crc(a) for place, a in of.items()} for name, of in held.items()}
        text = json.dumps(sums, sort_keys=True)
        path = directory / f"{jax.process_index()}.json"
        path.write_text(json.dumps({"sums": sums, "crc32": zlib.crc32(text.encode())}))

    def save(self, directory: object, args: "Save") -> None:
        """Never called: `Checkpointer` saves asynchronously alone."""
        raise NotImplementedError

    def restore(self, directory: os.PathLike[str], *_: object, **__: object) -> Sums:
        """As `read`."""
        return read(pathlib.Path(directory))


@ocp.args.register_with_handler(Handler, for_save=True, for_restore=True)
@dataclasses.dataclass
class Save(ocp.args.CheckpointArgs):
    """What `pieces` returned, for orbax' `Composite`."""

    pieces: dict[str, dict[str, ndarray]]


def read(folder: pathlib.Path, writers: int = 0) -> Sums:
    """The sums of all processes, `writers` of them.

    Raises:
      ValueError: a file that does not match its own checksum, or that is missing.
    """
    out: Sums = {}
    files = sorted(folder.glob("*.json"))
    if len(files) < writers:
        raise ValueError(f"{FOLDER} holds {len(files)} files of {writers}")
    for file in files:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if zlib.crc32(json.dumps(kept["sums"], sort_keys=True).encode()) != kept["crc32"]:
            raise ValueError(f"{FOLDER}/{file.name} does not match its checksum")
        for name, sums in kept["sums"].items():
            out.setdefault(name, {}).update(sums)
    return out


def check(arrays: Mapping[str, PyTree], sums: Sums) -> None:
    """Compares what was read with what was written; of arrays spread over processes, this one's pieces.

    Raises:
      ValueError: names an array that differs.
    """
    for name, a in arrays.items():
        if not isinstance(a, jax.Array):
            continue
        if a.is_fully_addressable:
            held = [([(0, n) for n in a.shape], np.asarray(a))]
        else:
            held = [
                (bounds_of(place_of(s.index, a.shape)), np.asarray(s.data))
                for s in a.addressable_shards
            ]
        for place, want in sums.get(name, {}).items():
            piece = bounds_of(place)
            for outer, data in held:
                if all(o[0] <= p[0] and p[1] <= o[1] for o, p in zip(outer, piece, strict=True)):
                    at = [
                        slice(p[0] - o[0], p[1] - o[0]) for o, p in zip(outer, piece, strict=True)
                    ]
                    if crc(data[tuple(at)]) != want:
                        raise ValueError(f"array {name} does not match its checksum")
                    break
