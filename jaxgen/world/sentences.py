"""Script lines as the sentences of a plan, and the state of a household as sentences (Xiang et al., 2023)."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from jaxgen.world.graph import Graph
from jaxgen.world.rules import ARITY, VERB, VERBS

_PHRASES = {
    "WALK": "Walk to {}",
    "RUN": "Run to {}",
    "SIT": "Sit on {}",
    "LIE": "Lie on {}",
    "TYPE": "Type on {}",
    "STANDUP": "Stand up",
    "WAKEUP": "Wake up",
    "SWITCHON": "Switch on {}",
    "SWITCHOFF": "Switch off {}",
    "PLUGIN": "Plug in {}",
    "PLUGOUT": "Plug out {}",
    "TURNTO": "Turn to {}",
    "LOOKAT": "Look at {}",
    "POINTAT": "Point at {}",
    "PUTON": "Put on {}",
    "PUTOFF": "Put off {}",
    "PUTOBJBACK": "Put back {}",
    "PUTBACK": "Put {} on {}",
    "PUTIN": "Put {} in {}",
    "POUR": "Pour {} into {}",
}
PHRASES = {
    v: _PHRASES.get(v, v.capitalize() + " {}" * int(ARITY[VERB[v]]))
    for v in VERBS
    if v != "PUTBESIDE"
}


def words(name: str) -> str:
    """A class name as prose."""
    return name.replace("_", " ")


def plan_sentence(line: str) -> str:
    """`[PutBack] <cup> (1) <table> (2)` -> `Put cup on table.`"""
    verb = line[line.index("[") + 1 : line.index("]")].upper()
    return PHRASES[verb].format(*(words(n) for n in re.findall(r"<(.+?)>", line))) + "."


def read_sentence(sentence: str) -> tuple[str, tuple[str, ...]] | None:
    """Verb and classes of a plan's sentence; None, if it is not one."""
    text = sentence.strip().rstrip(".")
    # The verbs with most words first: `Put on hat` is not `Put .. on ..`.
    for verb, phrase in sorted(PHRASES.items(), key=lambda item: item[1].find("{")):
        if verb.startswith("PUT") and verb not in ("PUTBACK", "PUTIN"):
            pattern = re.escape(phrase).replace(r"\{\}", "(.+)")
            if match := re.fullmatch(pattern, text):
                return verb, tuple(m.replace(" ", "_") for m in match.groups())
    for verb, phrase in sorted(PHRASES.items(), key=lambda item: -len(item[1])):
        pattern = re.escape(phrase).replace(r"\{\}", "(.+?)")
        if match := re.fullmatch(pattern, text):
            return verb, tuple(m.replace(" ", "_") for m in match.groups())
    return None


def plan_sentences(script: Int[ndarray, "L 3"], graph: Graph) -> tuple[str, ...]:
    """The sentences of a script in the world of `graph`; lines of verb -1 are left out."""
    names = [n["class_name"] for n in sorted(graph["nodes"], key=lambda n: n["id"])]
    out = []
    for verb, *nodes in np.asarray(script).tolist():
        if verb >= 0:
            objects = [words(names[n]) for n in nodes[: ARITY[verb]]]
            out.append(PHRASES[VERBS[verb]].format(*objects) + ".")
    return tuple(out)


def conditions(graph: Graph, items: Iterable[str]) -> tuple[str, ...]:
    """What holds of some classes, as sentences: where they are, and whether they are closed, on and plugged."""
    kept = set(items)
    nodes = {n["id"]: n for n in graph["nodes"]}
    out: list[str] = []
    for e in sorted(graph["edges"], key=lambda e: (e["from_id"], e["to_id"])):
        a, b = nodes[e["from_id"]], nodes[e["to_id"]]
        if e["relation_type"] == "INSIDE" and a["class_name"] in kept:
            if b.get("category") == "Rooms":
                out.append(f"The {words(a['class_name'])} is in the {words(b['class_name'])}.")
            elif b["class_name"] in kept:
                out.append(f"The {words(a['class_name'])} is inside the {words(b['class_name'])}.")
    for node in graph["nodes"]:
        if node["class_name"] in kept:
            for state, word in (
                ("CLOSED", "closed"),
                ("ON", "on"),
                ("OFF", "off"),
                ("PLUGGED_IN", "plugged"),
            ):
                if state in node["states"]:
                    out.append(f"The {words(node['class_name'])} is {word}.")
    return tuple(dict.fromkeys(out))


def listed(things: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b, and c`, each with its article."""
    named = [f"the {t}" for t in things]
    if len(named) < 3:
        return " and ".join(named)
    return ", ".join(named[:-1]) + f", and {named[-1]}"
