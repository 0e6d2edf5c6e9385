"""Questions about what happened in a household, with answers from the simulator (Xiang et al., 2023, section 3.2).

Plans and recognition tell what a search found; counting tells random actions, and asks the graph at their end; the
path of a thing is told by people who walk and carry, and asks where they were. No answer is read from the text.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from numpy import ndarray

from jaxgen.world import actions, forms, nodesets, sentences, situation
from jaxgen.world.forms import Example
from jaxgen.world.graph import Graph, World
from jaxgen.world.rules import E2WM, VERB, VERBS
from jaxgen.world.vocabulary import ON

NAMES = tuple(
    [
        "Alice",
        "Ben",
        "Carla",
        "Daniel",
        "Emma",
        "Frank",
        "Grace",
        "Henry",
        "Irene",
        "Jacob",
        "Laura",
        "Martin",
        "Nora",
        "Oscar",
    ]
)
PATH_ROOMS = ("kitchen", "bathroom", "bedroom", "dining room", "home office", "hallway")
PATH_THINGS = tuple(
    [
        "apple",
        "book",
        "cup",
        "fork",
        "hat",
        "key",
        "laptop",
        "pen",
        "phone",
        "pillow",
        "plate",
        "shoes",
        "towel",
        "wallet",
    ]
)
_GO = ("went to", "moved to", "walked into", "entered", "travelled to", "journeyed to")
_TAKE = ("got", "took", "grabbed", "picked up")
_LEAVE = ("left", "dropped", "put down")
_PAST = {
    "WALK": ("walked to the {}", "went to the {}"),
    "GRAB": ("grabbed the {}", "picked up the {}", "took the {} in hand"),
    "PUTBACK": ("put the {} on the {}", "placed the {} on the {}"),
    "TURNTO": ("turned to the {}", "faced the {}"),
    "RINSE": ("rinsed the {}", "held the {} under water"),
    "WASH": ("washed the {}", "cleaned the {}"),
    "SCRUB": ("scrubbed the {}",),
    "TOUCH": ("touched the {}",),
    "FIND": ("found the {}", "came across the {}"),
    "OPEN": ("opened the {}",),
    "CLOSE": ("closed the {}", "shut the {}"),
    "SWITCHON": ("switched on the {}", "turned on the {}"),
    "SWITCHOFF": ("switched off the {}", "turned off the {}"),
}
_IDLE = (
    "TURNTO",
    "RINSE",
    "WASH",
    "SCRUB",
    "TOUCH",
    "FIND",
    "OPEN",
    "CLOSE",
    "SWITCHON",
    "SWITCHOFF",
)


class Record(NamedTuple):
    """An activity done once: its name, what was given, and the sentences of a plan."""

    activity: str
    items: tuple[str, ...]
    conditions: tuple[str, ...]
    plan: tuple[str, ...]


def record(
    activity: str, graph: Graph, items: Sequence[str], script: Int[ndarray, "L 3"]
) -> Record:
    """A plan in words; `graph` is the household at its beginning, `items` the classes that are given."""
    told = tuple(sentences.words(i) for i in items)
    return Record(
        activity, told, sentences.conditions(graph, items), sentences.plan_sentences(script, graph)
    )


def plan_example(record: Record) -> Example:
    """How to do an activity, given things and their state."""
    context = ", ".join(record.items) + ". " + " ".join(record.conditions)
    return Example(context.strip(), record.activity, " ".join(record.plan))


def recognise_example(record: Record) -> Example:
    """Which activity a plan is of."""
    return Example(" ".join(record.plan), "name", record.activity)


class Story(NamedTuple):
    """Random actions, as told, and as done."""

    script: Int[ndarray, "L 3"]
    place: int  # the node that is asked about
    example: Example


_step = jax.jit(actions.step, static_argnames="rules")


def count_story(rng: np.random.Generator, graph: Graph, world: World, *, most: int = 5) -> Story:
    """Things put on a place, and taken again, among other actions; asks what is on the place in the end.

    The place has nothing on it at the start. Actions that cannot be done are not told.

    Args:
      most: things to carry there, at most.
    """
    names = [n["class_name"] for n in sorted(graph["nodes"], key=lambda n: n["id"])]
    able = {
        c: np.asarray(nodesets.unpack(situation.able(world, c)))
        for c in ("surface", "grabbable", "room")
    }
    on = np.asarray(nodesets.unpack(world.edges[ON]))
    free = np.flatnonzero(able["surface"] & ~able["grabbable"] & ~able["room"] & ~on.any(0))
    things = np.flatnonzero(able["grabbable"] & ~able["surface"])
    single = [int(t) for t in things if names.count(names[int(t)]) == 1]
    place = int(rng.choice(free))
    script: list[tuple[int, int, int]] = []

    def do(world: World, verb: str, x: int, y: int = -1) -> tuple[World, bool]:
        new, reason = _step(world, jnp.array([VERB[verb], x, y], jnp.int32), rules=E2WM)
        if int(reason):
            return world, False
        script.append((VERB[verb], x, y))
        return new, True

    def idle(world: World) -> World:
        for _ in range(int(rng.integers(0, 3))):
            verb = str(rng.choice(_IDLE))
            world, _ = do(
                world, verb, int(rng.choice(np.flatnonzero(np.asarray(world.house.ids) >= 0)))
            )
        return world

    chosen = rng.permutation(single)[: int(rng.integers(0, most + 1))]
    for thing in chosen.tolist():
        world, _ = do(world, "WALK", thing)
        world, ok = do(world, "GRAB", thing)
        world = idle(world)
        world, near = do(world, "WALK", place)
        if ok and near:
            world, _ = do(world, "PUTBACK", thing, place)
        world = idle(world)
        if rng.random() < 0.3:
            world, _ = do(world, "GRAB", thing)
    world = idle(world)
    there = np.flatnonzero(np.asarray(nodesets.unpack(world.edges[ON]))[:, place])
    there = [sentences.words(names[int(t)]) for t in there if int(t) != int(world.house.character)]
    done = np.array(script, np.int32).reshape(-1, 3)
    told, subject = _tell(rng, done, names), sentences.words(names[place])
    return Story(done, place, Example(told, subject, count_answer(there, subject)))


def count_answer(things: Sequence[str], place: str) -> str:
    """How many, and which."""
    if not things:
        return f"There is no item on the {place}."
    if len(things) == 1:
        return f"There is one item on the {place}. It is the {things[0]}."
    return f"There are {len(things)} items on the {place}. They are {sentences.listed(things)}."


def _tell(rng: np.random.Generator, script: Int[ndarray, "L 3"], names: Sequence[str]) -> str:
    person = str(rng.choice(NAMES))
    out = [f"{person} was at home."]
    for verb, *nodes in script.tolist():
        phrase = str(rng.choice(_PAST[VERBS[verb]]))
        objects = [sentences.words(names[n]) for n in nodes if n >= 0]
        out.append(f"{person} {phrase.format(*objects)}.")
    return " ".join(out)


class Event(NamedTuple):
    """What one of the people does: `go` to a room, or `take` or `leave` a thing."""

    person: str
    kind: str
    object: str


def path_of(events: Sequence[Event], thing: str) -> list[str]:
    """The rooms in which a thing was, from when it was first taken on, after each event."""
    place: dict[str, str] = {}
    holder, room, out = "", "", []
    for e in events:
        if e.kind == "go":
            place[e.person] = e.object
        elif e.object == thing:
            holder, room = (e.person, "") if e.kind == "take" else ("", place[e.person])
        now = place[holder] if holder else room
        if now and (not out or out[-1] != now):
            out.append(now)
    return out


def path_story(
    rng: np.random.Generator, *, people: int = 3, events: int = 18
) -> tuple[list[Event], Example]:
    """People who walk, take and leave things; asks for the rooms of one thing, 2 to 5 of them."""
    while True:
        told = _walks(rng, people, events)
        paths = {
            t: path_of(told, t) for t in dict.fromkeys(e.object for e in told if e.kind == "take")
        }
        fit = [t for t, p in paths.items() if 2 <= len(p) <= 5]
        if fit:
            thing = str(rng.choice(fit))
            words = {"go": _GO, "take": _TAKE, "leave": _LEAVE}
            text = " ".join(f"{e.person} {rng.choice(words[e.kind])} the {e.object}." for e in told)
            return told, Example(text, thing, ", ".join(paths[thing]))


def _walks(rng: np.random.Generator, people: int, events: int) -> list[Event]:
    who = [str(p) for p in rng.choice(NAMES, people, replace=False)]
    place: dict[str, str] = {}
    carried: dict[str, list[str]] = {p: [] for p in who}
    lies = {t: "" for t in PATH_THINGS}  # "": nobody has seen it yet
    out = []
    for _ in range(events):
        person = str(rng.choice(who))
        here = place.get(person, "")
        kind = str(rng.choice(["go", "go", "take", "leave"])) if here else "go"
        near = [t for t, room in lies.items() if room in ("", here)]
        if kind == "leave" and carried[person]:
            thing = str(rng.choice(carried[person]))
            carried[person].remove(thing)
            lies[thing] = here
        elif kind == "take" and near and len(carried[person]) < 2:
            thing = str(rng.choice(near))
            del lies[thing]
            carried[person].append(thing)
        else:
            kind, thing = "go", str(rng.choice([r for r in PATH_ROOMS if r != here]))
            place[person] = thing
        out.append(Event(person, kind, thing))
    return out


def rows(
    task: str, examples: Sequence[Example], rng: np.random.Generator, shots: int
) -> list[dict[str, str]]:
    """Lines of a file: each example as a question, after worked ones of other subjects drawn from the rest."""
    out = []
    for i, question in enumerate(examples):
        others = [e for j, e in enumerate(examples) if j != i]
        if task in ("plan", "recognise"):
            key = (lambda e: e.subject) if task == "plan" else (lambda e: e.answer)
            others = [e for e in others if key(e) != key(question)]
        picked = rng.permutation(len(others))[:shots]
        out.append(forms.row(task, question, [others[int(k)] for k in picked]))
    return out
