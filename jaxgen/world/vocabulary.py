"""Words of the household simulator of VirtualHome (Puig et al., 2018), and what its rules ask of a class.

Relations, states and properties are those of the graphs' files. A capability is what a rule asks of a node:
a property, or one of a few classes that the simulator names; it never changes, and is decided on loading.
"""

from collections.abc import Collection

RELATIONS = ("ON", "INSIDE", "BETWEEN", "CLOSE", "FACING", "HOLDS_RH", "HOLDS_LH")
ON, INSIDE, BETWEEN, CLOSE, FACING, HOLDS_RH, HOLDS_LH = range(len(RELATIONS))

STATES = (
    *("CLOSED", "OPEN", "ON", "OFF", "SITTING", "LYING"),
    *("DIRTY", "CLEAN", "PLUGGED_IN", "PLUGGED_OUT"),
)

PROPERTIES = (
    *("SURFACES", "GRABBABLE", "SITTABLE", "LIEABLE", "HANGABLE", "DRINKABLE", "EATABLE"),
    *("RECIPIENT", "CUTTABLE", "POURABLE", "CAN_OPEN", "HAS_SWITCH", "READABLE", "LOOKABLE"),
    *("CONTAINERS", "CLOTHES", "PERSON", "BODY_PART", "COVER_OBJECT", "HAS_PLUG", "HAS_PAPER"),
    *("MOVABLE", "CREAM"),
)

CHARACTER = "character"
ROOMS = "Rooms"  # the category
DOORS = ("door", "doorjamb")

# Name -> properties, one of which is enough, and classes that need none.
CAPABILITIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "surface": (("SURFACES",), ()),
    "grabbable": (("GRABBABLE",), ("water", "child")),
    "lid": (("CAN_OPEN",), ()),
    "container": (("CONTAINERS",), ()),
    "openable": (("CAN_OPEN",), ("desk", "window")),
    "switch": (("HAS_SWITCH",), ()),
    "plug": (("HAS_PLUG",), ()),
    "sittable": (("SITTABLE",), ()),
    "lieable": (("LIEABLE",), ()),
    "lookable": (("LOOKABLE",), ()),
    "readable": (("READABLE",), ()),
    "clothes": (("CLOTHES",), ()),
    "pourable": (("POURABLE", "DRINKABLE"), ()),
    "recipient": (("RECIPIENT",), ("hands_both", "sponge", "face")),
    "drinkable": (("DRINKABLE", "RECIPIENT"), ()),
    "eatable": (("EATABLE",), ()),
    "cuttable": (("CUTTABLE",), ()),
    "movable": (("MOVABLE",), ("button", "chair", "curtain")),
    "squeezable": (
        ("CLOTHES",),
        (
            *("cleaning_solution", "tooth_paste", "shampoo", "food_peanut_butter", "dish_soap"),
            *("soap", "towel", "rag", "paper", "sponge", "food_lemon", "check"),
        ),
    ),
    "keys": (("HAS_SWITCH",), ("keyboard",)),
    "person": (("PERSON",), ()),
    "body_part": (("BODY_PART",), ()),
    "water": ((), ("water",)),
    "computer": ((), ("computer",)),
    "door": ((), DOORS),
    # Walking to one of these does not bring all that is inside it near.
    "plain_room": ((), ("home_office", "bathroom", "dining_room", "bedroom")),
}
# Decided by something else than properties and classes.
OTHER_CAPABILITIES = ("node", "room", "knife", "seat_2", "seat_4", "berth_2", "berth_3")
CAPABILITY_NAMES = (*CAPABILITIES, *OTHER_CAPABILITIES)

# How many things may be on what one sits or lies on; 1 elsewhere.
SEATS = {"couch": 4, "bed": 4, "sofa": 4, "loveseat": 2, "bench": 2, "pianobench": 2}
BERTHS = {"bed": 3, "couch": 2, "sofa": 2, "loveseat": 2, "bathtub": 2}


def capabilities(class_name: str, category: str | None, properties: Collection[str]) -> set[str]:
    """Names of the capabilities of a node."""
    found = {
        name
        for name, (some_of, classes) in CAPABILITIES.items()
        if class_name in classes or any(p in properties for p in some_of)
    }
    found |= {f"seat_{SEATS.get(class_name, 1)}", f"berth_{BERTHS.get(class_name, 1)}"}
    if category == ROOMS:
        found.add("room")
    if "knife" in class_name:
        found.add("knife")
    return (found | {"node"}) & set(CAPABILITY_NAMES)
