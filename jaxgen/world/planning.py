"""Goals, the actions that a search may take, and what a step earns (Xiang et al., 2023, section 3.1).

The goal of an activity is what doing it changed: states that a node gained, and edges gained between classes.
A step earns 2 for each goal that is met for the first time, -1.5 for each that is undone, -0.1, and 5 when all
goals hold; then the episode ends.
"""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, UInt32

from jaxgen.errors import ConfigError
from jaxgen.world import actions, nodesets
from jaxgen.world.graph import World
from jaxgen.world.rules import E2WM, VERB, Rules
from jaxgen.world.vocabulary import CAPABILITY_NAMES, CLOSE, RELATIONS, STATES

MET, UNDONE, STEP, ALL = 2.0, -1.5, -0.1, 5.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Goal:
    """What should hold: for each goal a state or a relation (the other is -1), and sets of nodes.

    A state goal is met when one of `source` is in the state; an edge goal, when one of `source` has an edge to
    one of `target`. Goals with neither fill up, and are met.
    """

    state: Int32[Array, "*B G"]
    relation: Int32[Array, "*B G"]
    source: UInt32[Array, "*B G W"]
    target: UInt32[Array, "*B G W"]


def goal(
    before: World, after: World, *, among: Bool[np.ndarray, " N"] | None = None, size: int = 32
) -> Goal:
    """What changed between two moments of one world, by classes; not for `jax.jit`.

    A state counts where a node gained it, and any node of its class without it before can meet the goal. An edge
    counts where no two nodes of those classes had it before; CLOSE counts once for both directions.

    Args:
      among: nodes to look at; all, without it.
      size: number of goals to leave room for.

    Raises:
      ConfigError: there are more goals than that.
    """
    kinds = np.asarray(before.house.kinds)
    seen = (kinds >= 0) if among is None else (kinds >= 0) & among
    old, new = (np.asarray(nodesets.unpack(w.states)) for w in (before, after))
    found: list[tuple[int, int, np.ndarray, np.ndarray]] = []
    none = np.zeros_like(seen)
    for s in range(len(STATES)):
        for k in sorted(set(kinds[new[s] & ~old[s] & seen].tolist())):
            found.append((s, -1, (kinds == k) & ~old[s] & seen, none))
    old, new = (np.asarray(nodesets.unpack(w.edges)) for w in (before, after))
    for r in range(len(RELATIONS)):
        pairs = [
            {
                (min(a, b), max(a, b)) if r == CLOSE else (a, b)
                for a, b in kinds[np.argwhere(edges[r] & seen[:, None] & seen)].tolist()
            }
            for edges in (old, new)
        ]
        for a, b in sorted(pairs[1] - pairs[0]):
            found.append((-1, r, (kinds == a) & seen, (kinds == b) & seen))
    if len(found) > size:
        raise ConfigError("size", size, f"at least {len(found)}, the number of goals")
    fill = [(-1, -1, none, none)] * (size - len(found))
    state, relation, source, target = zip(*found, *fill, strict=True)
    return Goal(
        jnp.array(state, jnp.int32),
        jnp.array(relation, jnp.int32),
        nodesets.pack(jnp.array(source)),
        nodesets.pack(jnp.array(target)),
    )


def met(world: World, goal: Goal) -> Bool[Array, " G"]:
    """Which goals hold now."""
    in_state = nodesets.overlap(world.states[goal.state], goal.source)
    rows = world.edges[goal.relation]  # [G, N, W]

    def linked(source: UInt32[Array, "G W"], target: UInt32[Array, "G W"]) -> Bool[Array, " G"]:
        return (nodesets.unpack(source) & nodesets.overlap(rows, target[:, None])).any(-1)

    joined = linked(goal.source, goal.target)
    joined |= (goal.relation == CLOSE) & linked(goal.target, goal.source)
    unused = (goal.state < 0) & (goal.relation < 0)
    return unused | jnp.where(goal.state >= 0, in_state, joined)


class Episode(NamedTuple):
    """A search's state: a world, and how far its goals are."""

    world: World
    now: Bool[Array, " G"]  # goals that hold
    ever: Bool[Array, " G"]  # goals that held at some time
    over: Bool[Array, ""]


def start(world: World, goal: Goal) -> Episode:
    """An episode at its beginning; over at once if all goals hold."""
    now = met(world, goal)
    return Episode(world, now, now, now.all())


def advance(
    episode: Episode, action: Int[Array, "3"], goal: Goal, rules: Rules = E2WM
) -> tuple[Episode, Float[Array, ""]]:
    """One action, and what it earns. One that fails changes nothing and costs a step; after the end all is 0."""
    new, reward, _ = attempt(episode, action, goal, rules)
    return new, reward


def attempt(
    episode: Episode, action: Int[Array, "3"], goal: Goal, rules: Rules
) -> tuple[Episode, Float[Array, ""], Int[Array, ""]]:
    """`advance`, and why the action failed: see `actions.step`."""
    world, reason = actions.step(
        episode.world, action.at[0].set(jnp.where(episode.over, actions.NOTHING, action[0])), rules
    )
    now = met(world, goal)
    reward = earned(episode.now, episode.ever, now)
    new = Episode(world, now, episode.ever | now, episode.over | now.all())
    return new, jnp.where(episode.over, 0.0, reward), reason


def earned(
    before: Bool[Array, " G"], ever: Bool[Array, " G"], now: Bool[Array, " G"]
) -> Float[Array, ""]:
    """The reward of one step, by the goals that held before it, at any time before it, and that hold now."""
    gained, lost = (now & ~ever).sum(), (before & ~now).sum()
    bonus = jnp.where(now.all(), ALL, 0.0)
    return (MET * gained + UNDONE * lost + STEP + bonus).astype(jnp.float32)


# Verb -> the capability that it takes at least; verbs that change nothing are left out of a search.
_ONE = {
    "GRAB": "grabbable",
    "OPEN": "openable",
    "CLOSE": "openable",
    "SWITCHON": "switch",
    "SWITCHOFF": "switch",
    "PLUGIN": "plug",
    "PLUGOUT": "plug",
    "SIT": "sittable",
    "LIE": "lieable",
    "PUTON": "clothes",
    "PUTOFF": "clothes",
    "WALK": "node",
    "TURNTO": "node",
    "RINSE": "node",
    "WIPE": "node",
    "DROP": "grabbable",
    "PUTOBJBACK": "grabbable",
}
_TWO = {
    "PUTBACK": ("grabbable", ("surface", "sittable", "lieable", "recipient", "plain_room")),
    "PUTIN": ("grabbable", ("lid", "container", "recipient")),
    "POUR": ("pourable", ("recipient",)),
}


def table(
    world: World, *, among: Bool[np.ndarray, " N"] | None = None, size: int = 0
) -> Int32[Array, "A 3"]:
    """The actions that a search may take, for one world; not for `jax.jit`.

    Verbs that change nothing are left out, and so are objects that a verb can never take.

    Args:
      among: nodes to act on, beside the rooms; all, without it.
      size: number of actions to leave room for; what is left is filled with verb -1.

    Raises:
      ConfigError: there are more actions than that.
    """
    can = np.asarray(nodesets.unpack(world.house.can))

    def able(name: str) -> np.ndarray:
        return can[CAPABILITY_NAMES.index(name)]

    me = np.arange(len(can[0])) == int(world.house.character)
    seen = able("node") & ~me
    if among is not None:
        seen &= among | able("room")
    out = [(VERB["STANDUP"], -1, -1)]
    for verb, capability in _ONE.items():
        nodes = seen & able(capability)
        if verb not in ("WALK", "TURNTO"):
            nodes &= ~able("room")
        out += [(VERB[verb], int(x), -1) for x in np.flatnonzero(nodes)]
    for verb, (first, second) in _TWO.items():
        places = seen & ~able("room") & np.any([able(c) for c in second], axis=0)
        for x, y in itertools.product(np.flatnonzero(seen & able(first)), np.flatnonzero(places)):
            if x != y:
                out.append((VERB[verb], int(x), int(y)))
    if size and len(out) > size:
        raise ConfigError("size", size, f"at least {len(out)}, the number of actions")
    out += [(actions.NOTHING, -1, -1)] * (size - len(out))
    return jnp.array(out, jnp.int32)


def room_walks(world: World, table: Int[Array, "A 3"]) -> Bool[Array, " A"]:
    """Which actions are walks to a room, as the first of a plan has to be."""
    can = world.house.can[CAPABILITY_NAMES.index("room")]
    to_room = jax.vmap(lambda x: nodesets.has(can, x))(table[:, 1])
    return (table[:, 0] == VERB["WALK"]) & to_room
