"""Where a thing was: people walk between rooms, take things along and leave them (after bAbI, Weston et al., 2015)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxgen.world.forms import Example

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


class Event(NamedTuple):
    """What one of the people does: `go` to a room, or `take` or `leave` a thing."""

    person: str
    kind: str
    object: str


def path_of(events: Sequence[Event], thing: str) -> list[str]:
    """The rooms in which a thing was, from when it was first taken on, after each event."""
    place: dict[str, str] = {}
    holder = room = ""
    out: list[str] = []
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
    out: list[Event] = []
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
