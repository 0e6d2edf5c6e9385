"""Training a part of a model: the rest keeps its values, and has no gradient, moments or average.

A part is a module of the same form in which `optax.MaskedNode`, a pytree without leaves, stands in the place
of every frozen array. So gradients, optax's states and shardings have the trained arrays alone.
"""

import re
from collections.abc import Sequence

import jax
import optax
from jaxtyping import PyTree

from jaxgen import mesh as mesh_lib


def trained_part(model: PyTree, frozen: Sequence[str] = ()) -> PyTree:
    """The model without its frozen arrays.

    Args:
      frozen: regular expressions; an array whose path (`decoder/gpt/stack/blocks/0/mlp/up/kernel`) contains a
        match of one of them is frozen.

    Raises:
      ValueError: an expression that cannot be read or matches nothing, or nothing is left to train.
    """
    if not frozen:
        return model
    try:
        patterns = [re.compile(f) for f in frozen]
    except re.error as e:
        raise ValueError(f"frozen is {frozen!r}, allowed: regular expressions ({e})") from e
    paths = [mesh_lib.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(model)]
    for pattern in patterns:
        if not any(pattern.search(path) for path in paths):
            some = ", ".join(paths[:4])
            want = f"expressions that each match a parameter: {some}, .."
            raise ValueError(f"frozen has {pattern.pattern!r}, allowed: {want}")
    if all(any(p.search(path) for p in patterns) for path in paths):
        raise ValueError(f"frozen is {frozen!r}, allowed: such that some parameter is trained")

    def part(path: jax.tree_util.KeyPath, a: PyTree) -> PyTree:
        name = mesh_lib.path_name(path)
        return optax.MaskedNode() if any(p.search(name) for p in patterns) else a

    return jax.tree_util.tree_map_with_path(part, model)


def whole(part: PyTree, model: PyTree) -> PyTree:
    """The model with the arrays of a part of it in the place of its own."""
    return jax.tree.map(lambda a, b: b if masked(a) else a, part, model, is_leaf=masked)


def masked(a: PyTree) -> bool:
    """Whether it stands in the place of a frozen array."""
    return isinstance(a, optax.MaskedNode)
