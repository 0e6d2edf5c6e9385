"""What our apartments are made of: rooms, furniture, things, and what each can be used for."""

from typing import NamedTuple

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
