"""Device meshes and sharding rules.

Axes: `data`, `fsdp` and `expert` split the batch; `fsdp`, `model` and `expert` split parameters. One table
maps parameter names to PartitionSpecs; everything else (optimiser moments, EMA) has the parameter's
name inside its own and so follows it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import KeyPath
from jaxtyping import PyTree

from jaxgen.errors import ConfigError

AXES = ("data", "fsdp", "expert", "model")
BATCH_AXES = ("data", "fsdp", "expert")
BATCH = P(BATCH_AXES)

# Matched against `name:rank`; the first match wins. A spec names the trailing axes of the array;
# leading axes, such as that of stacked blocks, are not split. An axis that does not divide its dimension is left out, so small arrays
# are simply replicated. Convolutions stay off `model`: XLA's partitioner returned wrong gradients for
# kernels split over both channel axes beside a split batch (jax 0.10.2 and 0.12.0, CPU).
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(^|/)experts/(up|gate):[34]$", ("expert", "fsdp", "model")),
    (r"(^|/)experts/down:[34]$", ("expert", "model", "fsdp")),
    (r"(^|/)masters/(up|gate):[34]$", (None, "expert", "model")),
    (r"(^|/)masters/down:[34]$", (None, "model", "expert")),
    (r"(^|/)kernel:[45]$", ("fsdp",)),
    (r"(^|/)kernel:[23]$", ("fsdp", "model")),
    (r"(^|/)embedding:2$", ("model", "fsdp")),
    (r".*", ()),
)


@runtime_checkable
class Device(Protocol):
    """What meshes see of a device, be it here or in a slice that is only described."""

    @property
    def id(self) -> int: ...
    @property
    def platform(self) -> str: ...
    @property
    def device_kind(self) -> str: ...


def axis_sizes(shape: Mapping[str, int], devices: int) -> dict[str, int]:
    """Sizes of all `AXES`; -1 for one of them means all devices that the others leave.

    Raises:
      ConfigError: if the product is not the number of devices.
    """
    sizes = {axis: int(shape.get(axis, 1)) for axis in AXES}
    free = [a for a, n in sizes.items() if n == -1]
    fixed = int(np.prod([n for n in sizes.values() if n != -1]))
    if len(free) == 1 and fixed > 0 and devices % fixed == 0:
        sizes[free[0]] = devices // fixed
    if any(n < 1 for n in sizes.values()) or np.prod(list(sizes.values())) != devices:
        raise ConfigError(
            "mesh", dict(shape), f"axis sizes with product {devices}, the number of devices"
        )
    return sizes


def make_mesh(
    shape: Mapping[str, int], devices: Sequence[Device] | None = None, *, slices: int = 0
) -> Mesh:
    """A mesh over all devices (or those given) with the four `AXES`.

    Where devices belong to several slices, the first axes in the order of `AXES` run across slices as far
    as they divide: the slow network between slices then carries sums of gradients, and the links inside a
    slice carry the rest.

    Args:
      slices: see `slices_of`.

    Raises:
      ConfigError: axis sizes that do not fit the devices, or slices of different sizes.
    """
    devices = jax.devices() if devices is None else devices
    sizes = tuple(axis_sizes(shape, len(devices)).values())
    grid = device_grid(sizes, devices, slices=slices)
    return Mesh(grid, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))


def slices_of(devices: Sequence[Device], slices: int = 0) -> list[list[Device]]:
    """Devices by what they are joined by: fast links inside a slice (TPU's ICI), a network between (DCN).

    Args:
      slices: how many there are; 0 for as many as the devices say, one where they say nothing. Devices that
        say nothing (GPUs of several machines) are cut into that many parts in the order of processes.

    Raises:
      ConfigError: slices of different sizes, or another number than the devices say.
    """
    groups: dict[int, list[Device]] = {}
    for d in devices:
        groups.setdefault(getattr(d, "slice_index", 0), []).append(d)
    if slices and len(groups) == 1 and len(devices) % slices == 0:
        size = len(devices) // slices
        order = sorted(devices, key=lambda d: (getattr(d, "process_index", 0), d.id))
        groups = {i: order[i * size : (i + 1) * size] for i in range(slices)}
    if slices and slices != len(groups):
        said = f"{len(groups)}, as the devices say" if len(groups) > 1 else "a divisor of "
        said += "" if len(groups) > 1 else f"{len(devices)}, the number of devices"
        raise ConfigError("mesh.slices", slices, said)
    if len({len(group) for group in groups.values()}) > 1:
        count = {index: len(group) for index, group in groups.items()}
        raise ConfigError("mesh", count, "slices with the same number of devices each")
    return [groups[index] for index in sorted(groups)]


def device_grid(sizes: Sequence[int], devices: Sequence[Device], *, slices: int = 0) -> np.ndarray:
    """Devices in the shape of a mesh, near ones along the last axes.

    Raises:
      ConfigError: see `slices_of`.
    """
    groups = slices_of(devices, slices)
    left, across = len(groups), []
    for size in sizes:
        across.append(math.gcd(size, left))
        left //= across[-1]
    inside = [size // n for size, n in zip(sizes, across, strict=True)]
    grid = np.empty(tuple(sizes), object)
    for at, group in zip(np.ndindex(*across), groups, strict=True):
        place = tuple(slice(i * n, (i + 1) * n) for i, n in zip(at, inside, strict=True))
        # A TPU slice is a torus; an axis of 8 on 4x4x4 needs half of a second physical axis.
        grid[place] = mesh_utils.create_device_mesh(inside, group, allow_split_physical_axes=True)
    return grid


def batch_divisor(mesh: Mesh) -> int:
    """The number that a global batch must be divisible by."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def path_name(path: KeyPath) -> str:
    """Slash-joined name of a pytree path, without the `.value` of nnx variables."""
    parts = []
    for entry in path:
        part = getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", None)))
        parts.append(str(part))
    if parts and parts[-1] == "value":
        parts.pop()
    return "/".join(parts)


def partition_spec(
    name: str,
    shape: tuple[int, ...],
    mesh: Mesh | AbstractMesh,
    rules: Sequence[tuple[str, tuple[str | None, ...]]] = RULES,
) -> P:
    """The PartitionSpec of one array by its name; see `RULES`."""
    subject = f"{name}:{len(shape)}"
    spec = next((s for pattern, s in rules if re.search(pattern, subject)), ())
    sizes = shape[len(shape) - len(spec) :]
    kept = [
        axis if axis and mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(spec, sizes, strict=True)
    ]
    return P(*[None] * (len(shape) - len(spec)), *kept)


def shardings(tree: PyTree, mesh: Mesh) -> PyTree:
    """NamedShardings of a pytree of arrays or ShapeDtypeStructs, by name."""
    return jax.tree_util.tree_map_with_path(
        lambda path, a: NamedSharding(mesh, partition_spec(path_name(path), a.shape, mesh)), tree
    )


def put_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Host arrays of this process's rows -> global arrays split over the batch axes."""
    sharding = NamedSharding(mesh, BATCH)
    return jax.tree.map(
        lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a)), batch
    )


def to_host(tree: PyTree) -> PyTree:
    """Whole arrays on this process's first device, whatever mesh they lived on.

    With several processes this is a collective: every process must call it.
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        tree = multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(jnp.asarray, jax.device_get(tree))
