"""Apartments at random: rooms joined by doors, furniture in them, things on and in the furniture.

A generator of our own; its graphs are read by `jaxgen.world.graph.load`, and by the simulators that read
VirtualHome's files.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from jaxgen.errors import ConfigError
from jaxgen.world.graph import Graph

ROOMS = ("bathroom", "bedroom", "dining_room", "home_office")


class Piece(NamedTuple):
    """A piece of furniture: where it stands, and what it can be used for."""

    rooms: str  # one or more, separated by spaces
    properties: str


class Thing(NamedTuple):
    """What can be carried: what it can be used for, and what it may be on or in."""

    properties: str
    places: str


_BOX = "CAN_OPEN CONTAINERS"
_MACHINE = f"{_BOX} HAS_SWITCH HAS_PLUG"
_SEAT = "SITTABLE MOVABLE SURFACES GRABBABLE"
FURNITURE: dict[str, Piece] = {
    "table": Piece("dining_room", "SURFACES MOVABLE"),
    "desk": Piece("home_office", "SURFACES MOVABLE"),
    "coffee_table": Piece("home_office", "SURFACES MOVABLE"),
    "nightstand": Piece("bedroom", f"SURFACES {_BOX}"),
    "kitchen_counter": Piece("dining_room", "SURFACES"),
    "bookshelf": Piece("home_office bedroom", "SURFACES"),
    "fridge": Piece("dining_room", _MACHINE),
    "microwave": Piece("dining_room", _MACHINE),
    "oven": Piece("dining_room", _MACHINE),
    "dishwasher": Piece("dining_room", _MACHINE),
    "washing_machine": Piece("bathroom", _MACHINE),
    "coffee_maker": Piece("dining_room", f"{_MACHINE} RECIPIENT"),
    "cupboard": Piece("dining_room", _BOX),
    "bathroom_cabinet": Piece("bathroom", f"{_BOX} SURFACES"),
    "dresser": Piece("bedroom", _BOX),
    "filing_cabinet": Piece("home_office", f"{_BOX} SURFACES"),
    "sink": Piece("bathroom dining_room", "RECIPIENT CONTAINERS"),
    "bathtub": Piece("bathroom", "LIEABLE SITTABLE"),
    "toilet": Piece("bathroom", f"{_BOX} SITTABLE"),
    "faucet": Piece("bathroom dining_room", "HAS_SWITCH"),
    "bed": Piece("bedroom", "LIEABLE SITTABLE SURFACES"),
    "sofa": Piece("home_office", "LIEABLE SITTABLE SURFACES MOVABLE"),
    "chair": Piece("dining_room home_office", _SEAT),
    "television": Piece("home_office", "HAS_SWITCH HAS_PLUG LOOKABLE"),
    "computer": Piece("home_office", "HAS_SWITCH HAS_PLUG LOOKABLE"),
    "radio": Piece("bedroom dining_room", "HAS_SWITCH HAS_PLUG GRABBABLE MOVABLE"),
    "floor_lamp": Piece("home_office bedroom", "HAS_SWITCH HAS_PLUG"),
    "light": Piece("bathroom bedroom dining_room home_office", "HAS_SWITCH"),
    "window": Piece("bedroom home_office dining_room", "CAN_OPEN"),
    "curtain": Piece("bedroom home_office", "CAN_OPEN MOVABLE"),
    "mirror": Piece("bathroom bedroom", "LOOKABLE"),
    "rug": Piece("bedroom home_office", "SURFACES SITTABLE LIEABLE MOVABLE"),
}
_DISH, _FOOD, _PAPER = (
    "RECIPIENT GRABBABLE MOVABLE",
    "EATABLE GRABBABLE MOVABLE",
    "READABLE GRABBABLE",
)
_DRINK, _CLOTHES = "DRINKABLE POURABLE GRABBABLE MOVABLE", "CLOTHES GRABBABLE MOVABLE HANGABLE"
_TOOL = "GRABBABLE MOVABLE"
THINGS: dict[str, Thing] = {
    "cup": Thing(f"{_DISH} POURABLE", "table kitchen_counter cupboard dishwasher"),
    "plate": Thing(f"{_DISH} SURFACES", "table kitchen_counter cupboard dishwasher"),
    "bowl": Thing(_DISH, "table kitchen_counter cupboard"),
    "glass": Thing(f"{_DISH} POURABLE", "table kitchen_counter cupboard"),
    "pot": Thing(_DISH, "kitchen_counter cupboard oven"),
    "fork": Thing(_TOOL, "table kitchen_counter cupboard"),
    "spoon": Thing(_TOOL, "table kitchen_counter cupboard"),
    "knife": Thing(_TOOL, "kitchen_counter cupboard"),
    "milk": Thing(_DRINK, "fridge table"),
    "juice": Thing(_DRINK, "fridge table"),
    "coffee": Thing(_DRINK, "cupboard kitchen_counter"),
    "bread": Thing(f"{_FOOD} CUTTABLE", "table kitchen_counter"),
    "apple": Thing(f"{_FOOD} CUTTABLE", "table fridge"),
    "cheese": Thing(f"{_FOOD} CUTTABLE", "fridge"),
    "chicken": Thing(f"{_FOOD} CUTTABLE", "fridge kitchen_counter"),
    "soup": Thing(f"{_FOOD} POURABLE", "fridge kitchen_counter"),
    "book": Thing(f"{_PAPER} CAN_OPEN MOVABLE", "bookshelf nightstand desk"),
    "newspaper": Thing(_PAPER, "table coffee_table"),
    "letter": Thing(_PAPER, "desk filing_cabinet"),
    "folder": Thing(f"{_PAPER} CAN_OPEN", "desk filing_cabinet"),
    "pen": Thing(_TOOL, "desk nightstand"),
    "phone": Thing(f"{_TOOL} HAS_SWITCH", "desk nightstand coffee_table"),
    "laptop": Thing(f"{_TOOL} HAS_SWITCH HAS_PLUG LOOKABLE", "desk coffee_table"),
    "remote_control": Thing(f"{_TOOL} HAS_SWITCH", "coffee_table sofa"),
    "toy": Thing(_TOOL, "rug bed coffee_table"),
    "pillow": Thing(_TOOL, "bed sofa"),
    "blanket": Thing(_TOOL, "bed sofa dresser"),
    "jacket": Thing(_CLOTHES, "dresser chair"),
    "shirt": Thing(_CLOTHES, "dresser bed"),
    "shoes": Thing(_CLOTHES, "dresser rug"),
    "hat": Thing(_CLOTHES, "dresser bookshelf"),
    "soap": Thing(f"{_TOOL} CREAM", "sink bathroom_cabinet"),
    "shampoo": Thing(f"{_TOOL} CREAM POURABLE", "bathroom_cabinet bathtub"),
    "toothbrush": Thing(_TOOL, "bathroom_cabinet sink"),
    "towel": Thing(f"{_TOOL} COVER_OBJECT", "bathroom_cabinet bathtub"),
    "rag": Thing(_TOOL, "sink kitchen_counter"),
    "sponge": Thing(f"{_TOOL} RECIPIENT", "sink"),
    "basket": Thing(f"{_TOOL} CONTAINERS", "washing_machine dresser"),
}
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
            door = self.rng.random() < 0.6  # noqa: PLR2004
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
            )  # noqa: PLR2004
        if "HAS_SWITCH" in has:
            states.append("ON" if rng.random() < 0.3 and "OPEN" not in states else "OFF")  # noqa: PLR2004
        if "HAS_PLUG" in has:
            states.append("PLUGGED_IN" if "ON" in states or rng.random() < 0.8 else "PLUGGED_OUT")  # noqa: PLR2004
        if category in ("Props", "Furniture"):
            states.append("CLEAN" if rng.random() < 0.6 else "DIRTY")  # noqa: PLR2004
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
        if free and self.rng.random() < 0.6:  # noqa: PLR2004
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
