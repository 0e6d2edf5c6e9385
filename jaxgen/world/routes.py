"""Ways between the rooms of a house, through doors and doorjambs.

Which doors there are never changes; whether they are closed does. The shortest way between two rooms, with no
regard to closed doors, is found once, on loading.
"""

import collections
import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32, UInt32
from numpy import ndarray

from jaxgen.world import nodesets
from jaxgen.world.vocabulary import BETWEEN, CAPABILITY_NAMES, DOORS


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Routes:
    """Doors between rooms, and the doors on the shortest ways. -1 fills up."""

    doors: Int32[Array, "*B D"]  # nodes
    sides: UInt32[Array, "*B D W"]  # the two rooms of each, as a set
    rooms: Int32[Array, "*B N"]  # number of a room among the rooms
    ways: Int32[Array, "*B Q Q L"]  # room, room -> doors on the way, the nearest first


def find(
    edges: Bool[ndarray, "R N N"],
    can: Bool[ndarray, "C N"],
    class_names: Sequence[str],
    in_order: Sequence[int],
    rooms: int,
    doors: int,
) -> Routes:
    """Ways through a house.

    Args:
      class_names: of the nodes.
      in_order: the nodes as the graph's file lists them: it settles which of two equally short ways is meant
        (all doors come before all doorjambs).
      rooms: least number of rooms to leave room for.
      doors: likewise.
    """
    total = edges.shape[-1]
    listed = np.flatnonzero(can[CAPABILITY_NAMES.index("room")])
    number = {int(room): i for i, room in enumerate(listed)}
    found: list[tuple[int, int, int]] = []
    for kind in DOORS:
        for node in in_order:
            if class_names[node] == kind:
                sides = np.flatnonzero(edges[BETWEEN, node])
                if len(sides) > 1:
                    found.append((node, int(sides[0]), int(sides[1])))
    leads: dict[int, list[tuple[int, int]]] = collections.defaultdict(list)
    for node, a, b in found:
        leads[a].append((b, node))
        leads[b].append((a, node))
    size = max(rooms, len(listed))
    ways = np.full((size, size, max(size - 1, 1)), -1, np.int32)
    for start, i in number.items():
        way: dict[int, list[int]] = {start: []}
        queue = collections.deque([start])
        while queue:
            here = queue.popleft()
            for there, door in leads[here]:
                if there not in way:
                    way[there] = [*way[here], door]
                    queue.append(there)
        for end, steps in way.items():
            if end in number:
                ways[i, number[end], : len(steps)] = steps[: ways.shape[-1]]
    fill = max(doors, len(found)) - len(found)
    nodes, left, right = (np.array([f[k] for f in found] + [-1] * fill, np.int32) for k in range(3))
    sides = np.zeros((len(nodes), total), bool)
    for i in range(len(found)):
        sides[i, [left[i], right[i]]] = True
    both = np.packbits(sides, axis=-1, bitorder="little").view("<u4").astype(np.uint32)
    of_room = np.array([number.get(i, -1) for i in range(total)], np.int32)
    return Routes(jnp.asarray(nodes), jnp.asarray(both), jnp.asarray(of_room), jnp.asarray(ways))


def connected(
    routes: Routes, start: UInt32[Array, " W"], closed: UInt32[Array, " W"]
) -> UInt32[Array, " W"]:
    """The rooms that can be reached from those of `start` through doors that are not in `closed`."""
    words = start.shape[-1]
    open_doors = ~nodesets.overlap(nodesets.single(routes.doors, words), closed)
    passable = nodesets.settle((routes.doors >= 0) & open_doors)

    reach = start
    for _ in range(routes.ways.shape[-1]):  # a handful: a loop of its own would cost more
        used = passable & nodesets.overlap(routes.sides, reach[None])
        new = jnp.where(used[:, None], routes.sides, jnp.uint32(0))
        reach |= jax.lax.reduce(new, jnp.uint32(0), jax.lax.bitwise_or, (0,))
    return reach


def next_closed(
    routes: Routes,
    start: Int32[Array, ""],
    room_of: UInt32[Array, "N W"],
    closed: UInt32[Array, " W"],
) -> UInt32[Array, " W"]:
    """The doors that are the first closed one on the way from the room `start` to themselves."""
    words = closed.shape[-1]
    target = nodesets.first(room_of[routes.doors])
    ways = routes.ways[routes.rooms[start], routes.rooms[target]]  # [D, L]
    shut = (ways >= 0) & nodesets.overlap(nodesets.single(ways, words), closed)
    nearest = jnp.take_along_axis(ways, jnp.argmax(shut, axis=-1)[:, None], axis=-1)[:, 0]
    known = (routes.doors >= 0) & (target >= 0) & (start >= 0)
    ok = known & shut.any(-1) & (nearest == routes.doors)
    each = jnp.where(ok[:, None], nodesets.single(routes.doors, words), jnp.uint32(0))
    return jax.lax.reduce(each, jnp.uint32(0), jax.lax.bitwise_or, (0,))
