"""A new placement takes effect: weights and optimiser state of experts move between slots.

Everything that has a parameter's name in its own (moments, EMA) moves with it, in one jitted call whose
buffers are donated. Where slots come from is an argument, so that no placement costs a compilation.
"""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from jaxgen.mesh import path_name

# Of a block, or of all blocks stacked: `jaxgen.nn.stacked`.
_PARAMETER = re.compile(r"(^|/)blocks/(turn/)?(\d+)/moe/experts/(up|down|gate)$")


def sources(
    old: Int[np.ndarray, "L G S"], new: Int[np.ndarray, "L G S"]
) -> Int[np.ndarray, "L slots"]:
    """For each slot, a slot that holds its new expert: itself, one of its device, or any.

    Raises:
      ValueError: a placement that lost an expert, names the layer.
    """
    layers, devices, slots = old.shape
    out = np.empty((layers, devices * slots), np.int32)
    for layer in range(layers):
        before = old[layer].ravel()
        for s, e in enumerate(new[layer].ravel()):
            have = np.flatnonzero(before == e)
            if not len(have):
                raise ValueError(
                    f"old placement of layer {layer} has no replica of expert {e}, allowed: at least one"
                )
            near = have[have // slots == s // slots]
            out[layer, s] = s if before[s] == e else (near if len(near) else have)[0]
    return out


def move(tree: PyTree, source: Int[Array | np.ndarray, "L slots"]) -> PyTree:
    """Every array [slots, ...] of experts' weights, or what is kept for them, takes its new rows.

    Where blocks are stacked, these are arrays [L, slots, ...].

    Args:
      tree: a state of training, or any part of one.
      source: one row a block with experts, in the order of the blocks; see `sources`.
    """
    flat, treedef = jax.tree_util.tree_flatten_with_path(tree)
    found = [_PARAMETER.search(path_name(path)) for path, _ in flat]
    blocks = sorted({int(m.group(3)) for m in found if m and not m.group(2)})
    turns = {len(leaf) for m, (_, leaf) in zip(found, flat, strict=True) if m and m.group(2)}
    count = turns.pop() if turns else len(blocks)
    if count != len(source):
        raise ValueError(f"source has {len(source)} rows, allowed: {count}, blocks with experts")
    leaves: list[Array] = []
    for match, (_, leaf) in zip(found, flat, strict=True):
        if match and match.group(2):
            leaves.append(jax.vmap(lambda rows, at: rows[at])(leaf, jnp.asarray(source)))
        else:
            leaves.append(leaf[source[blocks.index(int(match.group(3)))]] if match else leaf)
    return jax.tree_util.tree_unflatten(treedef, leaves)


def make_move(
    shardings: PyTree,
) -> Callable[[PyTree, Int[Array | np.ndarray, "L slots"]], PyTree]:
    """`move` under jit, its first argument donated; `shardings` are those of the tree."""
    return jax.jit(move, donate_argnums=0, out_shardings=shardings)
