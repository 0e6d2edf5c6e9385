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

from jaxgen.errors import ConfigError
from jaxgen.world import actions, forms, nodesets, sentences, situation
from jaxgen.world.forms import Example
from jaxgen.world.graph import Graph, World
from jaxgen.world.paths import NAMES
from jaxgen.world.rules import E2WM, VERB, VERBS
from jaxgen.world.vocabulary import ON

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

    Raises:
      ConfigError: there is no place with nothing on it.
    """
    names = [n["class_name"] for n in sorted(graph["nodes"], key=lambda n: n["id"])]
    able = {
        c: np.asarray(nodesets.unpack(situation.able(world, c)))
        for c in ("surface", "grabbable", "room")
    }
    on = np.asarray(nodesets.unpack(world.edges[ON]))
    free = np.flatnonzero(able["surface"] & ~able["grabbable"] & ~able["room"] & ~on.any(0))
    if not len(free):
        raise ConfigError("graph", f"{len(names)} nodes", "one with a surface that is empty")
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
    left = [sentences.words(names[int(t)]) for t in there if int(t) != int(world.house.character)]
    done = np.array(script, np.int32).reshape(-1, 3)
    told, subject = _tell(rng, done, names), sentences.words(names[place])
    return Story(done, place, Example(told, subject, count_answer(left, subject)))


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
