"""Parameters split over `fsdp` come together where they are used, and nowhere else.

ZeRO-3 (Rajbhandari et al., 2020) by constraints on shardings: `gather` asks for a parameter whole just
before it is used, in the dtype that it is used in; the gradient of that request splits the gradient again,
which XLA does by a reduce-scatter. Blocks of transformers do so for themselves, one at a time; `gather_rest`
does so for all else. Under `rematerialise` what came together is not kept for the backward pass: it comes
together once more.

All of it does nothing outside `over(mesh)`, which `gathering` enters for a train step and for evaluation.
"""

import contextlib
import math
import re
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.custom_derivatives import linear_call
from jax.extend.core import Primitive
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P
from jax.tree_util import KeyPath
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from jaxgen.mesh import BATCH, BATCH_AXES, partition_spec, path_name

T = TypeVar("T")

AXIS = "fsdp"
# Parameters that are gathered where they are used, by the module that they belong to: those of blocks,
# and tables of tokens, of which a lookup needs no more than each device's columns.
SELF = re.compile(r"(^|/)(blocks/|tokens/embedding$)")
# One block of a list, or the blocks of a turn, which are stacked.
BLOCK = re.compile(r"(^|/)blocks/((?P<turn>turn)|\d+)/")


def over(mesh: Mesh) -> contextlib.AbstractContextManager[object]:
    """Within it, what is traced gathers its parameters over `mesh`."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def gathering(function: Callable[..., T], mesh: Mesh) -> Callable[..., T]:
    """function(model, ...) of a model whose parameters are split over a mesh, for tracing."""

    def within(model: PyTree, *args: PyTree) -> T:
        with over(mesh):
            return function(gather_rest(model), *args)

    return within


def active() -> AbstractMesh | None:
    """The mesh of `over`, where it splits parameters; None elsewhere."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.shape.get(AXIS, 1) == 1 else mesh


def gathered_spec(spec: P) -> P:
    """A parameter's PartitionSpec where it is used: not split over `fsdp`."""
    return P(*[None if axis == AXIS else axis for axis in spec])


def gather(tree: T) -> T:
    """The parameters of a module (or any pytree with their names), whole along `fsdp`.

    Those of a layer with a dtype of its own (`nnx.Linear`, `nnx.Conv`, experts) come in that dtype, the one
    that it computes in.

    Left to itself, XLA may instead split activations along a parameter's fsdp dimension. With convolutions
    beside a `model` axis that gives wrong gradients on CPU devices: on fsdp 4, model 2, one of
    `ImageAutoencoder` is off by its own size (jax 0.10.2 and 0.12.0); gathered, all are right.
    """
    return _gather(tree, lambda name: True)


def gather_rest(tree: T) -> T:
    """`gather` for all but what gathers itself: blocks of transformers, tables of tokens."""
    return _gather(tree, lambda name: not SELF.search(name))


def gather_table(table: Float[Array, "V D"], dtype: DTypeLike | None = None) -> Float[Array, "V D"]:
    """A table of tokens for logits, whole along `fsdp`; `dtype` is that of the product."""
    return gather({"embedding": table.astype(dtype or table.dtype)})["embedding"]


def looked_up(rows: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Rows of a table whose columns are split over `fsdp`, with their batch split over it instead.

    Each device looks up its columns of all rows, and they change places: the table itself, which may be
    the largest parameter of a model, stays where it is, and so does its gradient.
    """
    mesh = active()
    if mesh is None:
        return rows
    sizes = [mesh.shape[axis] for axis in BATCH_AXES]
    if rows.shape[0] % math.prod(sizes) or rows.shape[2] % mesh.shape[AXIS]:
        return rows
    others = tuple(axis for axis in BATCH_AXES if axis != AXIS)
    rows = jax.lax.with_sharding_constraint(rows, P(others, None, AXIS))
    return jax.lax.with_sharding_constraint(rows, BATCH)


def _gather(tree: T, chosen: Callable[[str], bool]) -> T:
    mesh = active()
    if mesh is None:
        return tree

    def one(name: str, a: Array, spec: P, dtype: np.dtype) -> Array:
        if not chosen(name):
            return a
        # Cast first, so that the narrow numbers travel, there and back.
        return _collect(a.astype(dtype), spec)

    return _map(one, tree, mesh)


def _collect(a: Array, spec: P) -> Array:
    """The whole of `a`; its gradient, partial sums on each device, is asked for in parts at once.

    The transpose of a plain constraint would ask for the whole gradient, summed, on every device.
    """

    def whole(_: None, a: Array) -> Array:
        a = jax.lax.with_sharding_constraint(a, spec)
        return jax.lax.with_sharding_constraint(a, gathered_spec(spec))

    def parts(_: None, gradient: Array) -> Array:
        return jax.lax.with_sharding_constraint(gradient, spec)

    return linear_call(whole, parts, None, a)


def _map(
    function: Callable[[str, PyTree, P, np.dtype], PyTree], tree: T, mesh: Mesh | AbstractMesh
) -> T:
    """function(name, array, its PartitionSpec, the dtype it is used in) in place of what is split."""

    def layer(path: KeyPath, node: PyTree) -> PyTree:
        """Of an innermost module, or of an array outside such."""
        own = getattr(node, "dtype", None) if isinstance(node, nnx.Module) else None

        def one(rest: KeyPath, a: PyTree) -> PyTree:
            name = path_name((*path, *rest))
            spec = partition_spec(name, a.shape, mesh)
            return function(name, a, spec, jnp.dtype(own or a.dtype)) if AXIS in spec else a

        return jax.tree_util.tree_map_with_path(one, node)

    return jax.tree_util.tree_map_with_path(layer, tree, is_leaf=is_layer)


def gathered_bytes(model: PyTree, mesh: Mesh) -> tuple[int, int, int]:
    """What `gather` brings together on one device: (the largest turn of blocks, tables, all else).

    Of tables of tokens the bytes are those that they are stored in, and only such as make logits are
    gathered at all.

    Args:
      model: parameters, or their ShapeDtypeStructs.
    """
    found: dict[str, int] = {}

    def one(name: str, a: PyTree, spec: P, dtype: np.dtype) -> PyTree:
        parts = math.prod(mesh.shape[axis] for axis in gathered_spec(spec) if axis)
        block = BLOCK.search(name)
        turns = a.shape[0] if block and block["turn"] else 1
        key = name[: block.end()] if block else "tables" if SELF.search(name) else "rest"
        found[key] = found.get(key, 0) + a.size * dtype.itemsize // parts // turns
        return a

    _map(one, model, mesh)
    tables, rest = found.pop("tables", 0), found.pop("rest", 0)
    return max(found.values(), default=0), tables, rest


def is_layer(node: PyTree) -> bool:
    """Whether a module has no modules inside."""
    return isinstance(node, nnx.Module) and not any(
        isinstance(child, nnx.Module | nnx.List) for child in vars(node).values()
    )


def rematerialise(
    function: Callable[..., T], everything: bool = True, *, prevent_cse: bool = True
) -> Callable[..., T]:
    """`jax.checkpoint`: of everything, or of gathered parameters alone, where there are such.

    The latter is for functions without a `jax.checkpoint` inside, whose policy it would overrule.
    """
    if everything:
        return jax.checkpoint(function, prevent_cse=prevent_cse)
    if active() is None:
        return function
    return jax.checkpoint(function, prevent_cse=prevent_cse, policy=_all_but_gathered)


def _all_but_gathered(primitive: Primitive, *_: object, **__: object) -> bool:
    return primitive.name not in ("linear_call", "sharding_constraint")
