"""What holds of each node at one moment: the facts that the action table's checks name."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32

from jaxgen.world import nodesets, routes
from jaxgen.world.graph import World
from jaxgen.world.rules import FACTS, Rules
from jaxgen.world.vocabulary import (
    BETWEEN,
    CAPABILITY_NAMES,
    CLOSE,
    FACING,
    HOLDS_LH,
    HOLDS_RH,
    INSIDE,
    ON,
    STATES,
)


def able(world: World, name: str) -> UInt32[Array, " W"]:
    """The nodes with a capability of `jaxgen.world.vocabulary`."""
    return world.house.can[CAPABILITY_NAMES.index(name)]


def in_state(world: World, name: str) -> UInt32[Array, " W"]:
    """The nodes that are in a state."""
    return world.states[STATES.index(name)]


def held(world: World) -> UInt32[Array, " W"]:
    """What the character holds, in either hand."""
    hands = world.edges[jnp.array([HOLDS_RH, HOLDS_LH]), world.house.character]
    return hands[0] | hands[1]


def posture(world: World, rules: Rules) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether the character counts as sitting, and as lying."""
    states = world.states if rules.live_posture else world.house.first_states
    sitting, lying = (states[STATES.index(s)] for s in ("SITTING", "LYING"))
    me = world.house.character
    return nodesets.has(sitting, me), nodesets.has(lying, me)


def rooms_of(world: World, rules: Rules) -> UInt32[Array, "N W"]:
    """The room of each node, as a set of one; empty where it has none."""
    rooms, inside = able(world, "room"), world.edges[INSIDE]
    total, words = inside.shape
    itself = nodesets.single(jnp.arange(total), words)
    is_room = nodesets.unpack(rooms)
    direct = nodesets.lowest(inside & rooms)
    if rules.nested_rooms:
        # One that is inside a single thing is where that thing is, and so on: pointers are doubled.
        target = nodesets.first(inside)
        many = nodesets.some(inside & ~nodesets.lowest(inside))
        up = jnp.where(is_room | (target < 0), jnp.arange(total), target)
        end = up
        for _ in range(total.bit_length()):
            end = end[end]
        chained = jnp.where(is_room[end][:, None], itself[end], jnp.uint32(0))
        direct = jnp.where(many[:, None], direct, chained)
    return nodesets.settle(jnp.where(is_room[:, None], itself, direct))


def close(world: World) -> UInt32[Array, " W"]:
    """The nodes within reach: CLOSE, or CLOSE to or ON something that is CLOSE."""
    near = world.edges[CLOSE, world.house.character]
    beside = nodesets.reached(world.edges[CLOSE], near)
    return near | beside | nodesets.sources(world.edges[ON], near)


def facts(world: World, rules: Rules) -> UInt32[Array, "F W"]:
    """The nodes of which each fact of `jaxgen.world.rules.FACTS` holds.

    A fact of the character alone, such as a free hand, holds of all nodes or of none.
    """
    me = world.house.character
    edges, words = world.edges, world.edges.shape[-1]
    everyone = jnp.full(words, 0xFFFFFFFF, jnp.uint32)

    def where(condition: Bool[Array, ""]) -> UInt32[Array, " W"]:
        return jnp.where(condition, everyone, jnp.uint32(0))

    myself = nodesets.single(me, words)
    right, left = edges[HOLDS_RH, me], edges[HOLDS_LH, me]
    mine = right | left
    sitting, lying = posture(world, rules)
    near = close(world)
    ahead = edges[FACING, me]
    closed = in_state(world, "CLOSED")
    shut = nodesets.sources(edges[INSIDE], closed & ~able(world, "room"))
    room_of = rooms_of(world, rules)
    my_room = room_of[me]
    crowd = nodesets.at_least(edges[ON], 4)
    two, four = able(world, "seat_2"), able(world, "seat_4")
    full_seats = (crowd[0] & ~two & ~four) | (crowd[1] & two) | (crowd[3] & four)
    two, three = able(world, "berth_2"), able(world, "berth_3")
    full_berths = (crowd[0] & ~two & ~three) | (crowd[1] & two) | (crowd[2] & three)
    has_room = nodesets.pack(nodesets.some(room_of))
    path = open_way = has_room
    if rules.doors:
        path, open_way = _ways(world, room_of, my_room, closed)
        path, open_way = path & has_room, open_way & has_room

    found = {
        "upright": where(~sitting & ~lying),
        "path": path,
        "open_way": open_way,
        "hand": where(~nodesets.some(right) | ~nodesets.some(left)),
        "ungrabbed": everyone if rules.grab_again else ~nodesets.pack(world.origin >= 0),
        "close": near,
        "unshut": ~shut,
        "held": mine,
        "unlidded": ~able(world, "lid") | in_state(world, "OPEN"),
        "has_origin": nodesets.pack(world.origin >= 0),
        "not_on": ~in_state(world, "ON"),
        "not_unplugged": ~in_state(world, "PLUGGED_OUT"),
        "not_sitting": where(~sitting),
        "not_lying": where(~lying),
        "resting": where(sitting | lying),
        "seat_free": ~full_seats,
        "berth_free": ~full_berths,
        "faces": ahead | nodesets.reached(edges[FACING], ahead),
        "same_room": nodesets.sources(room_of, my_room),
        "faces_resting": where(~sitting & ~lying) | able(world, "computer") | ahead,
        "holding": where(nodesets.some(mine)),
        "worn": nodesets.sources(edges[ON], myself),
        "edible": able(world, "eatable") | nodesets.reached(edges[ON], able(world, "eatable")),
        "knife_held": where(nodesets.overlap(mine, able(world, "knife"))),
    }
    found["far"] = ~(near | found["worn"] | able(world, "body_part") | where(sitting | lying))
    walkable = found["upright"] & path & open_way
    found["findable"] = everyone if rules.find_anywhere else near | (found["far"] & walkable)
    for name in ("CLOSED", "OPEN", "ON", "OFF", "PLUGGED_IN", "PLUGGED_OUT"):
        found[name] = in_state(world, name)
    return jnp.stack([found[f] if f in found else able(world, f) for f in (*FACTS, "far")])


def _ways(
    world: World,
    room_of: UInt32[Array, "N W"],
    my_room: UInt32[Array, " W"],
    closed: UInt32[Array, " W"],
) -> tuple[UInt32[Array, " W"], UInt32[Array, " W"]]:
    """The nodes to which there is a way at all, and those to which an open one leads."""
    ways, between = world.house.routes, world.edges[BETWEEN]
    here: Int[Array, ""] = nodesets.first(my_room)
    own = nodesets.sources(between, my_room) | jnp.where(here < 0, jnp.uint32(0), between[here])
    own &= able(world, "door")
    any_way = routes.connected(ways, my_room, jnp.zeros_like(closed))
    open_way = routes.connected(ways, my_room, closed)
    nearest = routes.next_closed(ways, here, room_of, closed)
    return (
        own | nodesets.sources(room_of, any_way),
        own | nodesets.sources(room_of, open_way) | nearest,
    )
