"""What an action that may be done changes: edges dropped first, then edges added.

Of each relation at most a few rows and columns change, so that an action is one bitwise expression over all
relations, with a mask for each verb; `lax.switch` would run every branch under `jax.vmap`.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32

from jaxgen.world import nodesets, situation
from jaxgen.world.graph import World
from jaxgen.world.rewriting import Change, rewrite
from jaxgen.world.rules import VERB, Rules
from jaxgen.world.vocabulary import (
    CLOSE,
    FACING,
    HOLDS_LH,
    HOLDS_RH,
    INSIDE,
    ON,
    STATES,
)

Set = UInt32[Array, " W"]


def apply(
    world: World,
    verb: Int[Array, ""],
    x: Int[Array, ""],
    y: Int[Array, ""],
    far: Bool[Array, ""],
    walks: Bool[Array, ""],
    rules: Rules,
) -> World:
    """The world after an action that passed its checks; a verb of -1 changes nothing.

    Args:
      verb: index into `jaxgen.world.rules.VERBS`.
      x: the first object, a node. Without one, any.
      y: the second; of PUTOBJBACK, where the object was grabbed.
      far: whether FIND has to walk to x.
      walks: whether it can.
    """
    words = world.edges.shape[-1]
    me = world.house.character
    none = jnp.zeros(words, jnp.uint32)

    def when(condition: Bool[Array, ""], nodes: Set) -> Set:
        return jnp.where(condition, nodes, none)

    def verbs(*names: str) -> Bool[Array, ""]:
        return jnp.stack([verb == VERB[n] for n in names]).any()

    mine, it, there = (nodesets.single(node, words) for node in (me, x, y))
    right, left = world.edges[HOLDS_RH, me], world.edges[HOLDS_LH, me]
    carried = nodesets.settle(right | left)
    room_of = situation.rooms_of(world, rules)
    goal_room, my_room = room_of[x], room_of[me]

    walk = verbs("WALK", "RUN") | (verbs("FIND") & far & walks)
    find = verbs("FIND") & ~(far & walks)
    grab = verbs("GRAB")
    put = verbs("PUTBACK", "PUTIN", "PUTBESIDE")
    drop = verbs("DROP", "RELEASE")
    pour = verbs("POUR")
    rests = verbs("SIT", "LIE")
    turn = verbs("TURNTO")

    # Nodes whose edges are dropped, in both directions.
    moved = when(walk, mine | carried)
    lifted = when(grab, it)
    let_go = when(
        put | drop | verbs("PUTON") | (pour & nodesets.has(situation.able(world, "water"), x)), it
    )
    lifted_from, lifted_how = nodesets.settle(jnp.stack(_where_it_was(world, x)))
    beside = when(grab, nodesets.single(lifted_from, words))

    inside = Change(
        gone=moved | lifted,
        mine_new=when(walk, goal_room),
        its_new=when(grab | drop, my_room) | when(verbs("PUTIN", "POUR"), there),
        # What is carried stays behind by one walk, as in the reference.
        carried_new=when(walk, my_room),
    )
    on = Change(
        gone=lifted,
        mine_gone=when(verbs("STANDUP"), ~none) if rules.standing_leaves else none,
        mine_new=when(rests, it),
        its_gone=when(verbs("PUTOFF"), mine),
        its_new=when(verbs("PUTBACK"), there) | when(verbs("PUTON"), mine),
    )
    facing = Change(
        gone=moved,
        mine_gone=when(find | turn, ~none),
        mine_new=when(turn, it) | when(verbs("SIT"), world.edges[FACING, x]),
    )
    contents = nodesets.sources(world.edges[INSIDE] & ~moved, it)
    near = when(walk, _near_goal(world, x, contents & ~moved, goal_room, rules) | carried)
    near |= when(find | grab, it) | beside | when(put, there)
    close = Change(
        gone=moved | lifted,
        mine_new=near,
        to_mine=near,
        its_new=when(put, there),
        of_y=when(put, it),
    )
    taken_from = none if rules.grab_again else lifted
    left_takes = nodesets.some(right)
    by_right = Change(gone=taken_from, mine_gone=let_go, mine_new=when(grab & ~left_takes, it))
    by_left = Change(gone=taken_from, mine_gone=let_go, mine_new=when(grab & left_takes, it))

    edges = rewrite(
        world.edges,
        {
            ON: on,
            INSIDE: inside,
            CLOSE: close,
            FACING: facing,
            HOLDS_RH: by_right,
            HOLDS_LH: by_left,
        },
        me,
        x,
        y,
        carried,
    )
    at_x = jnp.arange(world.origin.shape[0]) == x
    noted, gone = nodesets.settle(
        jnp.stack([grab & (lifted_from >= 0), put | drop]).astype(jnp.int32)
    )
    noted, gone = at_x & (noted > 0), at_x & (gone > 0)
    origin = jnp.where(gone, -1, jnp.where(noted, lifted_from, world.origin))
    how = jnp.where(noted, lifted_how, world.origin_relation)
    states = _states(world, verb, x, rests, rules)
    return dataclasses.replace(
        world, edges=edges, states=states, origin=origin, origin_relation=how
    )


def _near_goal(world: World, x: Int[Array, ""], contents: Set, goal_room: Set, rules: Rules) -> Set:
    """What a walk to x brings near, x among it.

    Args:
      contents: what is inside x, but for the character and what it carries.
      goal_room: the room that the character walks into.
    """
    words = contents.shape[-1]
    it, mine = nodesets.single(x, words), nodesets.single(world.house.character, words)
    rooms = situation.able(world, "room")
    was_on, was_inside, was_close = (world.edges[r, x] for r in (ON, INSIDE, CLOSE))
    boxes = jnp.where(x == world.house.character, jnp.uint32(0), was_inside & ~rooms & ~mine)
    near = it | boxes | situation.able(world, "body_part")
    if rules.near_on_walk:
        bears = nodesets.has(situation.able(world, "surface"), x)
        near |= jnp.where(bears, nodesets.sources(world.edges[ON], it), jnp.uint32(0))
        near |= was_on | was_inside | was_close
        plain = nodesets.has(situation.able(world, "plain_room"), x)
        within = nodesets.sources(world.edges[INSIDE], it)
        return near | jnp.where(plain, jnp.uint32(0), within)
    near = jnp.where(nodesets.has(rooms, x), jnp.uint32(0), near)
    lid = nodesets.has(situation.able(world, "lid"), x)
    contents |= jnp.where(nodesets.overlap(goal_room, it), mine, jnp.uint32(0))
    return near | was_on | jnp.where(lid, contents, jnp.uint32(0))


def _where_it_was(world: World, x: Int[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """What x was ON, else INSIDE, else CLOSE to, and the relation; rooms do not count. -1: none."""
    kinds = jnp.array([ON, INSIDE, CLOSE])
    rows = nodesets.first(world.edges[kinds, x] & ~situation.able(world, "room"))
    which = jnp.argmax(rows >= 0)
    return rows[which], kinds[which]


def _states(
    world: World, verb: Int[Array, ""], x: Int[Array, ""], rests: Bool[Array, ""], rules: Rules
) -> UInt32[Array, "S W"]:
    words = world.states.shape[-1]
    it, mine = nodesets.single(x, words), nodesets.single(world.house.character, words)
    swaps = {
        "OPEN": ("CLOSED", "OPEN"),
        "CLOSE": ("OPEN", "CLOSED"),
        "SWITCHON": ("OFF", "ON"),
        "SWITCHOFF": ("ON", "OFF"),
        "PLUGIN": ("PLUGGED_OUT", "PLUGGED_IN"),
        "PLUGOUT": ("PLUGGED_IN", "PLUGGED_OUT"),
        **dict.fromkeys(("WIPE", "WASH", "RINSE", "SCRUB"), ("DIRTY", "CLEAN")),
    }
    gone = [jnp.zeros(words, jnp.uint32)] * len(STATES)
    new = list(gone)
    for name, (before, after) in swaps.items():
        done = jnp.where(verb == VERB[name], it, jnp.uint32(0))
        gone[STATES.index(before)] = gone[STATES.index(before)] | done
        new[STATES.index(after)] = new[STATES.index(after)] | done
    stands = verb == VERB["STANDUP"]
    states = world.states
    if not rules.live_posture:
        as_first = (states & ~mine) | (world.house.first_states & mine)
        states = jnp.where(rests | stands, as_first, states)
    for name, other in (("SIT", "SITTING"), ("LIE", "LYING")):
        new[STATES.index(other)] = jnp.where(verb == VERB[name], mine, jnp.uint32(0))
        gone[STATES.index(other)] = jnp.where(rests | stands, mine, jnp.uint32(0))
    return (states & ~jnp.stack(gone)) | jnp.stack(new)
