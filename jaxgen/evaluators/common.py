"""How evaluators call models: with all rows, in equal batches, the model an argument."""

import functools
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, PyTree

from jaxgen import fsdp
from jaxgen import mesh as mesh_lib
from jaxgen.data.pixels import Pixels


@runtime_checkable
class Encodes(Protocol):
    """A `LatentModel`, or any other pytree that encodes."""

    def encode(self, x: PyTree) -> Array:
        """A representation of each row."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """A `LatentModel`, or any other pytree that decodes."""

    def decode(self, z: Array) -> PyTree:
        """What each representation stands for."""
        ...


@jax.jit
def encode(model: Encodes, x: PyTree) -> Array:
    """`model.encode(x)`."""
    return model.encode(x)


@jax.jit
def decode(model: Decodes, z: Array) -> PyTree:
    """`model.decode(z)`."""
    return model.decode(z)


def batched_apply(
    function: Callable[[PyTree, PyTree], Array], model: PyTree, rows: PyTree, *, batch: int = 512
) -> np.ndarray:
    """function(model, rows) in equal batches (the last one padded), on the host.

    A model whose parameters are split over a mesh stays there, and the batches are split over it too; over
    `fsdp` parameters come together as in training, one block at a time (`jaxgen.fsdp`).

    Args:
      function: jitted; (model, a batch of rows) -> an array with a row for each.
      rows: an array [N, ...], or `Pixels`, or a pytree of such.
    """
    rows = jax.tree.map(lambda a: a if isinstance(a, Pixels) else np.asarray(a), rows)
    count, mesh = len(jax.tree.leaves(rows)[0]), mesh_of(model)

    def part(a: np.ndarray | Pixels, start: int) -> np.ndarray:
        piece = a[start : start + batch]
        return np.concatenate([piece, np.repeat(piece[-1:], batch - len(piece), 0)])

    out = []
    for i in range(0, count, batch):
        some = jax.tree.map(lambda a, i=i: part(a, i), rows)
        if mesh is not None and batch % mesh_lib.batch_divisor(mesh) == 0:
            some = jax.device_put(some, NamedSharding(mesh, mesh_lib.BATCH))
        split = mesh is not None and mesh.shape.get(fsdp.AXIS, 1) > 1
        made = _on_mesh(function, mesh, model, some) if split else function(model, some)
        out.append(np.asarray(made)[: count - i])
    return np.concatenate(out)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _on_mesh(
    function: Callable[[PyTree, PyTree], Array], mesh: Mesh, model: PyTree, rows: PyTree
) -> Array:
    return fsdp.gathering(function, mesh)(model, rows)


def mesh_of(model: PyTree) -> Mesh | None:
    """The mesh that a model's parameters are split over; None where they are on one device."""
    for leaf in jax.tree.leaves(model):
        where = getattr(leaf, "sharding", None)
        mesh = where.mesh if isinstance(where, NamedSharding) else None
        if isinstance(mesh, Mesh) and mesh.size > 1:
            return mesh
    return None


def geometric_mean(*shares: float) -> float:
    """Of numbers in [0, 1]; what is below 0 counts as 0."""
    return float(np.prod([max(s, 0.0) for s in shares]) ** (1.0 / len(shares)))
