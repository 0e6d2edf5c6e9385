"""What each verb asks for, in order, and the two rule sets: the action table of the simulator.

Rule set `E2WM` is the executor that Xiang et al. (2023) planned and told stories with; `VIRTUALHOME` is that of
VirtualHome (Puig et al., 2018; Liao et al., 2019), from which the former was taken and changed.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True)
class Rules:
    """Where the two rule sets differ. Every field is a Python bool: rules are static under `jax.jit`."""

    doors: bool = True  # closed doors stop a walk
    live_posture: bool = (
        True  # sitting and lying are what they are now, not in the graph that was loaded
    )
    nested_rooms: bool = False  # a thing's room is found through what it is inside
    near_on_walk: bool = (
        True  # a walk brings near all that its goal is close to, on, inside, or bears
    )
    find_anywhere: bool = True  # FIND succeeds also where nothing is near
    standing_leaves: bool = True  # STANDUP ends ON
    grab_again: bool = True  # what is held, or was grabbed before, can be grabbed
    put_back_or_fail: bool = (
        True  # PUTOBJBACK that cannot be done fails, and does not pass silently
    )


E2WM = Rules()
VIRTUALHOME = Rules(
    doors=False,
    live_posture=False,
    nested_rooms=True,
    near_on_walk=False,
    find_anywhere=False,
    standing_leaves=False,
    grab_again=False,
    put_back_or_fail=False,
)

REASONS = (
    *("done", "not_found", "sitting", "no_path", "door_closed", "not_grabbable", "not_close"),
    *("inside_closed", "no_free_hand", "not_holding", "container_closed", "not_grabbed"),
    *("not_openable", "wrong_state", "still_on", "no_switch", "unplugged", "no_plug"),
    *("not_sittable", "occupied", "lying", "not_lieable", "not_sitting", "not_lying_or_sitting"),
    *("not_facing", "not_lookable", "other_room", "empty_hands", "not_clothes", "not_worn"),
    *("not_pourable", "not_recipient", "not_drinkable", "not_readable", "not_eatable"),
    *("not_cuttable", "no_knife", "not_movable", "not_person", "already_grabbed"),
)

X, Y = 0, 1


class Check(NamedTuple):
    """A fact (see `jaxgen.world.situation.facts`) that must hold of an object, and the reason if it does not."""

    fact: str
    reason: str
    of: int = X


_CLOSE = Check("close", "not_close")
_CLOSE_Y = Check("close", "not_close", Y)
_HELD = Check("held", "not_holding")
_HAND = Check("hand", "no_free_hand")
_UNSHUT = Check("unshut", "inside_closed")
_FACES = Check("faces", "not_facing")
_MOVE = (Check("movable", "not_movable"), _CLOSE, _UNSHUT, _HAND)
_REST = (Check("resting", "not_lying_or_sitting"),)
_WALK = (
    Check("upright", "sitting"),
    Check("path", "no_path"),
    Check("open_way", "door_closed"),
)
_PUT = (_HELD, _CLOSE_Y)

# Verb -> number of objects, and the checks in their order.
TABLE: dict[str, tuple[int, tuple[Check, ...]]] = {
    "WALK": (1, _WALK),
    "RUN": (1, _WALK),
    "FIND": (1, (Check("findable", "not_close"),)),
    "GRAB": (
        1,
        (
            Check("grabbable", "not_grabbable"),
            Check("ungrabbed", "already_grabbed"),
            *(_CLOSE, _UNSHUT, _HAND),
        ),
    ),
    "PUTBACK": (2, _PUT),
    "PUTIN": (2, (*_PUT, Check("unlidded", "container_closed", Y))),
    "PUTOBJBACK": (1, (Check("has_origin", "not_grabbed"),)),
    "DROP": (1, (_HELD,)),
    "RELEASE": (1, (_HELD,)),
    "OPEN": (
        1,
        (
            *(Check("openable", "not_openable"), _CLOSE, _HAND),
            *(Check("CLOSED", "wrong_state"), Check("not_on", "still_on")),
        ),
    ),
    "CLOSE": (1, (Check("openable", "not_openable"), _CLOSE, Check("OPEN", "wrong_state"))),
    "SWITCHON": (
        1,
        (
            *(Check("switch", "no_switch"), _CLOSE, Check("OFF", "wrong_state")),
            Check("not_unplugged", "unplugged"),
        ),
    ),
    "SWITCHOFF": (1, (Check("switch", "no_switch"), _CLOSE, Check("ON", "wrong_state"))),
    "PLUGIN": (1, (Check("plug", "no_plug"), _CLOSE, _HAND, Check("PLUGGED_OUT", "wrong_state"))),
    "PLUGOUT": (1, (Check("plug", "no_plug"), _CLOSE, _HAND, Check("PLUGGED_IN", "wrong_state"))),
    "SIT": (
        1,
        (
            *(_CLOSE, Check("not_sitting", "sitting"), Check("sittable", "not_sittable")),
            Check("seat_free", "occupied"),
        ),
    ),
    "LIE": (
        1,
        (
            *(_CLOSE, Check("not_lying", "lying"), Check("lieable", "not_lieable")),
            Check("berth_free", "occupied"),
        ),
    ),
    "STANDUP": (0, (Check("resting", "not_sitting"),)),
    "SLEEP": (0, _REST),
    "WAKEUP": (0, _REST),
    "TURNTO": (1, ()),
    "LOOKAT": (1, (_FACES,)),
    "POINTAT": (1, (_FACES,)),
    "WATCH": (
        1,
        (
            *(Check("lookable", "not_lookable"), Check("same_room", "other_room"), _FACES),
            Check("faces_resting", "not_facing"),
        ),
    ),
    "WIPE": (1, (_CLOSE, Check("holding", "empty_hands"))),
    "WASH": (1, (_CLOSE,)),
    "RINSE": (1, (_CLOSE,)),
    "SCRUB": (1, (_CLOSE,)),
    "PUTON": (1, (_HELD, Check("clothes", "not_clothes"))),
    "PUTOFF": (1, (Check("worn", "not_worn"), Check("clothes", "not_clothes"))),
    "POUR": (
        2,
        (
            *(Check("pourable", "not_pourable"), Check("recipient", "not_recipient", Y)),
            *(_HELD, _CLOSE_Y),
        ),
    ),
    "DRINK": (1, (Check("drinkable", "not_drinkable"), _HELD)),
    "READ": (1, (Check("readable", "not_readable"), _HELD)),
    "EAT": (1, (_CLOSE, Check("edible", "not_eatable"))),
    "CUT": (
        1,
        (
            *(_HAND, _CLOSE, Check("eatable", "not_eatable")),
            *(Check("cuttable", "not_cuttable"), Check("knife_held", "no_knife")),
        ),
    ),
    "PUSH": (1, (_CLOSE, _UNSHUT, _HAND)),
    "PULL": (1, _MOVE),
    "MOVE": (1, _MOVE),
    "SQUEEZE": (1, (_HAND, _CLOSE, Check("squeezable", "not_clothes"))),
    "TOUCH": (1, (_CLOSE, _UNSHUT)),
    "TYPE": (1, (_CLOSE, Check("keys", "no_switch"))),
    "GREET": (1, (Check("person", "not_person"),)),
    # Not a verb of scripts: PUTOBJBACK of what was grabbed beside something.
    "PUTBESIDE": (2, _PUT),
}

VERBS = tuple(TABLE)
VERB = {name: i for i, name in enumerate(VERBS)}
ARITY = np.array([arity for arity, _ in TABLE.values()], np.int32)
FACTS = tuple(dict.fromkeys(c.fact for _, checks in TABLE.values() for c in checks))


def _columns(value: Callable[[Check], int], fill: int) -> Int[np.ndarray, "V M"]:
    most = max(len(checks) for _, checks in TABLE.values())
    out = np.full((len(VERBS), most), fill, np.int32)
    for verb, (_, checks) in enumerate(TABLE.values()):
        out[verb, : len(checks)] = [value(c) for c in checks]
    return out


# [verb, check]; len(FACTS) stands for no check.
CHECK_FACT = _columns(lambda c: FACTS.index(c.fact), len(FACTS))
CHECK_OF = _columns(lambda c: c.of, X)
CHECK_REASON = _columns(lambda c: REASONS.index(c.reason), 0)
