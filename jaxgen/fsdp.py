"""Parameters split over `fsdp` come together where they are used, and nowhere else.

ZeRO-3 (Rajbhandari et al., 2020) by constraints on shardings: `gather` asks for a parameter whole just
before it is used, in the dtype that it is used in; the gradient of that request splits the gradient again,
which XLA does by a reduce-scatter. Blocks of transformers do so for themselves, one at a time; `gather_rest`
does so for all else. Under `rematerialise` what came together is not kept for the backward pass: it comes
together once more.

All of it does nothing outside `over(mesh)`, which `jaxgen.train.step.make_step` enters.
"""

import contextlib
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P
from jax.tree_util import KeyPath
from jaxtyping import Array, PyTree

from jaxgen.mesh import partition_spec, path_name

T = TypeVar("T")

AXIS = "fsdp"
# Parameters that are gathered where they are used, by the module that they belong to.
SELF = re.compile(r"(^|/)blocks/")


def over(mesh: Mesh) -> contextlib.AbstractContextManager[Any]:
    """Within it, what is traced gathers its parameters over `mesh`."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


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

    Left to itself, XLA may instead split activations along a parameter's fsdp dimension; with convolutions
    beside a `model` axis that gave wrong gradients (`tests/test_fsdp.py` says where).
    """
    return _gather(tree, lambda name: True)


def gather_rest(tree: T) -> T:
    """`gather` for all but what gathers itself, the blocks of transformers."""
    return _gather(tree, lambda name: not SELF.search(name))


def _gather(tree: T, chosen: Callable[[str], bool]) -> T:
    mesh = active()
    if mesh is None:
        return tree

    def layer(path: KeyPath, node: Any) -> Any:
        """Of an innermost module, or of an array outside such."""
        dtype = getattr(node, "dtype", None) if isinstance(node, nnx.Module) else None

        def one(rest: KeyPath, a: Array) -> Array:
            name = path_name((*path, *rest))
            spec = partition_spec(name, a.shape, mesh)
            if AXIS not in spec or not chosen(name):
                return a
            # Split in that dtype first, so that the narrow numbers travel and not the wide ones; and so
            # that the gradient, summed, is split before it gets wide.
            a = jax.lax.with_sharding_constraint(a.astype(dtype or a.dtype), spec)
            return jax.lax.with_sharding_constraint(a, gathered_spec(spec))

        return jax.tree_util.tree_map_with_path(one, node)

    return jax.tree_util.tree_map_with_path(layer, tree, is_leaf=is_layer)


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


def _all_but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name != "sharding_constraint"
