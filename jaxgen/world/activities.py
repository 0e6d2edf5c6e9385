"""Two hundred household activities, each with a short program; thirty are held out by name.

A program says what a person wants done, in verbs and classes. `outcome` does it in a world, with every walk and
every lid that has to be opened; what has changed then is the goal of the activity (`jaxgen.world.planning.goal`).
The plan that data tells is not this script: it is searched for.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int32
from numpy import ndarray

from jaxgen.world import actions, nodesets, situation
from jaxgen.world.catalogue import ROOMS
from jaxgen.world.graph import Graph, World, classes
from jaxgen.world.rules import E2WM, REASONS, VERB
from jaxgen.world.vocabulary import CHARACTER, DOORS

Step = tuple[str, ...]  # verb, classes


class Activity(NamedTuple):
    """What a household does: a name, and a program."""

    name: str
    program: tuple[Step, ...]

    @property
    def items(self) -> tuple[str, ...]:
        """The classes that the program names."""
        return tuple(dict.fromkeys(c for step in self.program for c in step[1:]))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _put(thing: str, place: str) -> tuple[Step, ...]:
    return (("GRAB", thing), ("PUTBACK", thing, place))


def _store(thing: str, box: str) -> tuple[Step, ...]:
    return (("OPEN", box), ("GRAB", thing), ("PUTIN", thing, box), ("CLOSE", box))


def _pairs(text: str) -> list[tuple[str, str]]:
    """`a b: c d` stands for a and b with c, and with d."""
    out = []
    for line in text.strip().splitlines():
        left, right = line.split(":")
        out += [(a, b) for a in left.split() for b in right.split()]
    return out


_LAY = """
plate cup fork spoon bowl bread apple: table
pen phone laptop letter book: desk
newspaper remote_control toy: coffee_table
book phone: nightstand
book hat folder: bookshelf
pillow blanket shirt toy: bed
pillow blanket remote_control: sofa
pot knife coffee soup chicken: kitchen_counter
"""
_STORE = """
milk juice cheese chicken soup apple: fridge
plate cup bowl pot: dishwasher
cup glass plate spoon fork coffee: cupboard
shirt jacket towel: washing_machine
jacket shirt shoes hat blanket: dresser
soap shampoo toothbrush towel: bathroom_cabinet
letter folder pen: filing_cabinet
"""
_HEAT = """
soup milk chicken bread: microwave
chicken bread pot: oven
"""
_BRING = """
book phone pillow: bedroom home_office
towel shampoo basket: bathroom
juice apple: home_office dining_room
jacket: home_office bedroom
"""
_POUR = """
milk juice coffee: cup glass bowl
soup: bowl
"""
_SWITCHES = "television computer radio floor_lamp light microwave oven washing_machine dishwasher faucet phone"
_LIDS = "fridge cupboard dresser window curtain bathroom_cabinet filing_cabinet nightstand book"
_SEATS = (("sofa", "sit on"), ("chair", "sit on"), ("bed", "sit on"), ("toilet", "use"))
_BEDS = (("bed", "sleep in"), ("sofa", "take a nap on"), ("bathtub", "take a bath in"))
_RINSE = "plate cup bowl glass pot fork spoon knife apple toothbrush"
_WIPE = """
rag: table kitchen_counter desk sink mirror window bookshelf bathtub
sponge: oven plate bathtub
towel: mirror faucet
"""
_LOOK = "television computer mirror window"
_PLUGS = "television computer radio coffee_maker floor_lamp laptop"


def _all() -> tuple[Activity, ...]:
    made: dict[str, tuple[Step, ...]] = {}
    for t, p in _pairs(_LAY):
        made[f"put {_words(t)} on {_words(p)}"] = _put(t, p)
    for t, p in _pairs(_STORE):
        made[f"store {_words(t)} in {_words(p)}"] = _store(t, p)
    for t, p in _pairs(_HEAT):
        made[f"heat {_words(t)} in {_words(p)}"] = (*_store(t, p), ("SWITCHON", p))
    for t, p in _pairs(_BRING):
        made[f"bring {_words(t)} to {_words(p)}"] = (("GRAB", t), ("WALK", p))
    for t, p in _pairs(_POUR):
        made[f"pour {_words(t)} into {_words(p)}"] = (("GRAB", t), ("POUR", t, p))
    for t in _SWITCHES.split():
        made[f"turn on {_words(t)}"] = (("SWITCHON", t),)
        made[f"turn off {_words(t)}"] = (("SWITCHOFF", t),)
    for t in _LIDS.split():
        made[f"open {_words(t)}"] = (("OPEN", t),)
        made[f"close {_words(t)}"] = (("CLOSE", t),)
    for t, verb in _SEATS:
        made[f"{verb} {_words(t)}"] = (("SIT", t),)
    for t, verb in _BEDS:
        made[f"{verb} {_words(t)}"] = (("LIE", t),)
    for t in _RINSE.split():
        made[f"rinse {_words(t)}"] = (("GRAB", t), ("RINSE", t))
    for t, p in _pairs(_WIPE):
        made[f"clean {_words(p)} with {_words(t)}"] = (("GRAB", t), ("WIPE", p))
    for t in ("jacket", "shirt", "shoes", "hat"):
        made[f"put on {t}"] = (("GRAB", t), ("PUTON", t))
    for t in _LOOK.split():
        made[f"look at {_words(t)}"] = (("TURNTO", t),)
    for t in _PLUGS.split():
        made[f"plug in {_words(t)}"] = (("PLUGIN", t),)
        made[f"unplug {_words(t)}"] = (("PLUGOUT", t),)
    made |= {
        "watch television": (("SWITCHON", "television"), ("SIT", "sofa"), ("TURNTO", "television")),
        "work at computer": (("SWITCHON", "computer"), ("SIT", "chair"), ("TURNTO", "computer")),
        "read book in bed": (("GRAB", "book"), ("LIE", "bed")),
        "read newspaper on sofa": (("GRAB", "newspaper"), ("SIT", "sofa")),
        "listen to radio on sofa": (("SWITCHON", "radio"), ("SIT", "sofa")),
        "write letter": (("GRAB", "pen"), ("SIT", "chair"), ("TURNTO", "letter")),
        "call a friend": (("GRAB", "phone"), ("SWITCHON", "phone"), ("SIT", "sofa")),
        "make coffee": (
            *(("GRAB", "coffee"), ("POUR", "coffee", "coffee_maker")),
            ("SWITCHON", "coffee_maker"),
        ),
        "set table": (*_put("plate", "table"), *_put("fork", "table")),
        "make bed": (*_put("pillow", "bed"), *_put("blanket", "bed")),
        "pack away toys": (("GRAB", "toy"), ("PUTIN", "toy", "basket")),
        "go to sleep": (("SWITCHOFF", "light"), ("LIE", "bed")),
        "brush teeth": (("GRAB", "toothbrush"), ("SWITCHON", "faucet"), ("RINSE", "toothbrush")),
        "wash hands": (("GRAB", "soap"), ("SWITCHON", "faucet")),
        "air the room": (("OPEN", "curtain"), ("OPEN", "window")),
    }
    return tuple(Activity(n, p) for n, p in made.items())


ACTIVITIES: tuple[Activity, ...] = _all()
HELD_OUT = frozenset(a.name for i, a in enumerate(ACTIVITIES) if i % 20 in (0, 7, 14))


class Outcome(NamedTuple):
    """A program done in a world."""

    world: World
    script: Int32[ndarray, "L 3"]
    items: tuple[str, ...]  # classes that it took: those of the program, and lids that were opened


_step = jax.jit(actions.step, static_argnames="rules")


def outcome(activity: Activity, graph: Graph, world: World) -> Outcome | None:
    """Does an activity's program in a world, with the walks and lids that it takes.

    Returns:
      The world afterwards; None where a step cannot be done, as turning on what is on.
    """
    names = classes(graph)
    script: list[tuple[int, int, int]] = []
    taken = list(activity.items)
    chosen: dict[str, int] = {}

    def do(world: World, verb: str, *nodes: int) -> World | None:
        x, y = (*nodes, -1, -1)[:2]
        action = (VERB[verb], x, y)
        world, reason = _step(world, jnp.array(action, jnp.int32), rules=E2WM)
        if REASONS[int(reason)] != "done":
            return None
        script.append(action)
        return world

    def reach(world: World | None, node: int) -> World | None:
        """Walks to a node, through closed doors and to what is in a closed box."""
        if world is None:
            return None
        box = nodesets.first(
            world.edges[1, node]
            & situation.in_state(world, "CLOSED")
            & ~situation.able(world, "room")
        )
        if int(box) >= 0:
            taken.append(names[int(world.house.kinds[int(box)])])
            world = reach(world, int(box))
            world = world and do(world, "OPEN", int(box))
        if world is None:
            return None
        for door in (-1, *np.asarray(world.house.routes.doors)):
            # The way is blocked by one closed door at most twice in a house of four rooms.
            there = do(world, "WALK", node)
            if there is not None:
                return there
            nearer = do(world, "WALK", int(door)) if door >= 0 else None
            world = (nearer and do(nearer, "OPEN", int(door))) or nearer or world
        return do(world, "WALK", node)

    now = world
    for verb, *kinds in activity.program:
        nodes = []
        for kind in kinds:
            if kind not in chosen:
                found = np.flatnonzero(np.asarray(world.house.kinds) == names.index(kind))
                chosen[kind] = int(found[0])
            nodes.append(chosen[kind])
        if verb == "OPEN" and nodesets.has(situation.in_state(now, "OPEN"), jnp.asarray(nodes[0])):
            continue
        after: World | None = now
        if nodes and not nodesets.has(situation.held(now), jnp.asarray(nodes[-1])):
            after = reach(now, nodes[-1])
        if verb != "WALK" and after is not None:
            after = do(after, verb, *nodes)
        if after is None:
            return None
        now = after
    return Outcome(now, np.array(script, np.int32).reshape(-1, 3), tuple(dict.fromkeys(taken)))


def useful(graph: Graph, world: World, items: Iterable[str]) -> Bool[ndarray, " N"]:
    """The nodes that a search for an activity looks at: those of its items, doors, rooms, and the character."""
    names = classes(graph)
    kept = {*items, *ROOMS, *DOORS, CHARACTER}
    return np.isin(np.asarray(world.house.kinds), [i for i, n in enumerate(names) if n in kept])
