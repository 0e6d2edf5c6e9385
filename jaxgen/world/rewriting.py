"""Changes of a few rows and columns of all relations, as one bitwise expression."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int, UInt32

from jaxgen.world import nodesets

Set = UInt32[Array, " W"]


class Change(NamedTuple):
    """What happens to one relation; None: nothing."""

    gone: Set | None = None  # nodes that lose all edges, in both directions
    mine_gone: Set | None = None  # targets that the character loses
    mine_new: Set | None = None  # targets that it gains
    its_gone: Set | None = None  # likewise of x
    its_new: Set | None = None
    of_y: Set | None = None  # targets that y gains
    carried_new: Set | None = None  # targets that what is carried gains
    to_mine: Set | None = None  # nodes that gain the character as target


def rewrite(
    edges: UInt32[Array, "R N W"],
    changes: Mapping[int, Change],
    me: Int[Array, ""],
    x: Int[Array, ""],
    y: Int[Array, ""],
    carried: Set,
) -> UInt32[Array, "R N W"]:
    """All relations at once: what is gone first, then what is new."""
    count, total, words = edges.shape
    none = jnp.zeros(words, jnp.uint32)

    empty = Change()
    sets = jnp.stack(
        [
            jnp.stack(
                [
                    none if (s := getattr(changes.get(r, empty), f)) is None else s
                    for r in range(count)
                ]
            )
            for f in Change._fields
        ]
    )
    new = dict(zip(Change._fields, nodesets.settle(sets), strict=True))  # [R, W] each

    at = jnp.arange(total)
    masks = jnp.stack([at == me, at == x, at == y, nodesets.unpack(carried)])
    masks = jnp.concatenate([masks, nodesets.unpack(new["gone"]), nodesets.unpack(new["to_mine"])])
    masks = nodesets.settle(jnp.where(masks, jnp.uint32(0xFFFFFFFF), jnp.uint32(0)))[..., None]
    mine, its, of_y, of_carried = masks[:4]
    lose, to_mine = masks[4 : 4 + count], masks[4 + count :]
    me_alone = nodesets.settle(nodesets.single(me, words))
    change = {f: s[:, None] for f, s in new.items()}
    kept = edges & ~(
        lose | change["gone"] | (mine & change["mine_gone"]) | (its & change["its_gone"])
    )
    return (
        kept
        | (mine & change["mine_new"])
        | (its & change["its_new"])
        | (of_y & change["of_y"])
        | (of_carried & change["carried_new"])
        | (to_mine & me_alone)
    )
