"""Apartments at random: rooms joined by doors, furniture in them, things on and in the furniture.

A generator of our own; its graphs are read by `jaxgen.world.graph.load`, and by the simulators that read
VirtualHome's files.
"""

from collections.abc import Iterable

import numpy as np

from jaxgen.errors import ConfigError
from jaxgen.world.catalogue import FURNITURE, ROOMS, THINGS
from jaxgen.world.graph import Graph

# What one faces who sits there, if both are in one room.
_VIEWS = (("sofa", "television"), ("chair", "computer"), ("chair", "television"), ("bed", "mirror"))


def sample(
    rng: np.random.Generator, *, nodes: int = 60, need: Iterable[str] = (), rooms: int = 4
) -> Graph:
    """The graph of a random apartment.

    Rooms form a random tree, joined by doors (a third of them closed) or doorjambs. One character.

    Args:
      nodes: how many in all.
      need: classes of furniture and things that must be there, with all that is needed to put them.
      rooms: 1 to 4; rooms that `need` asks for are among them.

    Raises:
      ConfigError: a class that no apartment has, more rooms than there are, or fewer nodes than `need` takes.
    """
    need = list(dict.fromkeys(need))
    for name in need:
        if name not in FURNITURE and name not in THINGS and name not in ROOMS:
            raise ConfigError("need", name, ", ".join((*ROOMS, *FURNITURE, *THINGS)))
    if not 1 <= rooms <= len(ROOMS):
        raise ConfigError("rooms", rooms, f"1 to {len(ROOMS)}")
    build = _Builder(rng)
    wanted = [n for n in need if n in ROOMS]
    places = {n: str(rng.choice(THINGS[n].places.split())) for n in need if n in THINGS}
    pieces = list(dict.fromkeys([n for n in need if n in FURNITURE] + list(places.values())))
    stands = {p: str(rng.choice(FURNITURE[p].rooms.split())) for p in pieces}
    names = list(dict.fromkeys(wanted + list(stands.values())))
    rest = [r for r in ROOMS if r not in names]
    rng.shuffle(rest)
    names += rest[: max(0, rooms - len(names))]
    build.rooms(names)
    for piece, room in stands.items():
        build.piece(piece, room)
    for thing, place in places.items():
        build.thing(thing, place)
    if len(build.nodes) > nodes:
        raise ConfigError("nodes", nodes, f"at least {len(build.nodes)} for {', '.join(need)}")
    while len(build.nodes) < nodes:
        build.more(names)
    build.view()
    return {"nodes": build.nodes, "edges": build.edges}


class _Builder:
    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.nodes: list[dict[str, object]] = []
        self.edges: list[dict[str, object]] = []
        self.by_class: dict[str, list[int]] = {}
        self.room_of: dict[int, int] = {}

    def rooms(self, names: list[str]) -> None:
        for name in names:
            self.add(name, "Rooms", "")
        for i in range(1, len(names)):
            other = int(self.rng.integers(i))
            a, b = self.by_class[names[other]][0], self.by_class[names[i]][0]
            door = self.rng.random() < 0.6
            kind, properties = ("door", "CAN_OPEN") if door else ("doorjamb", "")
            node = self.add(kind, "Doors", properties, a)
            self.edge(node, "BETWEEN", a)
            self.edge(node, "BETWEEN", b)
        self.add("character", "Characters", "", int(self.rng.integers(len(names))) + 1)

    def add(self, name: str, category: str, properties: str, room: int = 0) -> int:
        """A node, INSIDE a room unless that is 0."""
        node = len(self.nodes) + 1
        has, rng = properties.split(), self.rng
        states = []
        if "CAN_OPEN" in has:
            states.append(
                "CLOSED" if rng.random() < (0.33 if category == "Doors" else 0.7) else "OPEN"
            )
        if "HAS_SWITCH" in has:
            states.append("ON" if rng.random() < 0.3 and "OPEN" not in states else "OFF")
        if "HAS_PLUG" in has:
            states.append("PLUGGED_IN" if "ON" in states or rng.random() < 0.8 else "PLUGGED_OUT")
        if category in ("Props", "Furniture"):
            states.append("CLEAN" if rng.random() < 0.6 else "DIRTY")
        self.nodes.append(
            {
                "id": node,
                "class_name": name,
                "category": category,
                "properties": has,
                "states": states,
            }
        )
        self.by_class.setdefault(name, []).append(node)
        if room:
            self.room_of[node] = room
            self.edge(node, "INSIDE", room)
        return node

    def edge(self, a: int, relation: str, b: int) -> None:
        self.edges.append({"from_id": a, "relation_type": relation, "to_id": b})

    def piece(self, name: str, room: str) -> int:
        return self.add(name, "Furniture", FURNITURE[name].properties, self.by_class[room][0])

    def thing(self, name: str, place: str) -> int:
        """A thing on or in a piece of furniture, and near it, if it can be reached there."""
        at = int(self.rng.choice(self.by_class[place]))
        node = self.add(name, "Props", THINGS[name].properties, self.room_of[at])
        on = (
            "SURFACES" in FURNITURE[place].properties
            or "CONTAINERS" not in FURNITURE[place].properties
        )
        self.edge(node, "ON" if on else "INSIDE", at)
        self.edge(node, "CLOSE", at)
        self.edge(at, "CLOSE", node)
        return node

    def more(self, rooms: list[str]) -> None:
        """One more node: furniture that is not there yet first, then things."""
        free = [
            (n, r)
            for n, piece in FURNITURE.items()
            for r in piece.rooms.split()
            if r in rooms
            and all(self.room_of[i] != self.by_class[r][0] for i in self.by_class.get(n, []))
        ]
        if free and self.rng.random() < 0.6:
            name, room = free[int(self.rng.integers(len(free)))]
            self.piece(name, room)
            return
        spots = [(n, p) for n, t in THINGS.items() for p in t.places.split() if p in self.by_class]
        fresh = [s for s in spots if s[0] not in self.by_class]
        spots = fresh or spots
        if not spots:
            name, room = (free or [("light", rooms[0])])[0]
            self.piece(name, room)
            return
        name, place = spots[int(self.rng.integers(len(spots)))]
        self.thing(name, place)

    def view(self) -> None:
        """What one sees from where one sits."""
        for seat, sight in _VIEWS:
            for a in self.by_class.get(seat, []):
                for b in self.by_class.get(sight, []):
                    if self.room_of[a] == self.room_of[b]:
                        self.edge(a, "FACING", b)
