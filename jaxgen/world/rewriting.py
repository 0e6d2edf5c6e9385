"""Changes of a few rows and columns of all relations, as one bitwise expression."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32

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

    def rows(mask: Bool[Array, "*R N"]) -> UInt32[Array, "*R N 1"]:
        return jnp.where(mask, jnp.uint32(0xFFFFFFFF), jnp.uint32(0))[..., None]

    at = jnp.arange(total)
    masks = {
        "lose": rows(nodesets.unpack(new["gone"])),
        "mine": rows(at == me),
        "its": rows(at == x),
        "y": rows(at == y),
        "carried": rows(nodesets.unpack(carried)),
        "to_mine": rows(nodesets.unpack(new["to_mine"])),
    }
    sets = {f: s[:, None] for f, s in new.items()}
    kept = edges & ~(
        masks["lose"]
        | sets["gone"]
        | (masks["mine"] & sets["mine_gone"])
        | (masks["its"] & sets["its_gone"])
    )
    return (
        kept
        | (masks["mine"] & sets["mine_new"])
        | (masks["its"] & sets["its_new"])
        | (masks["y"] & sets["of_y"])
        | (masks["carried"] & sets["carried_new"])
        | (masks["to_mine"] & nodesets.single(me, words))
    )
