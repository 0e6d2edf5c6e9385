"""Acting in a random apartment from a terminal: type an action, see what changed, or why it could not be done."""

import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.config import Config
from jaxgen.errors import ConfigError
from jaxgen.world import actions, apartments, graph, sentences
from jaxgen.world.graph import Graph, World
from jaxgen.world.rules import ARITY, E2WM, REASONS, VERB, VERBS

HELP = (
    "Type a verb and what it is done to: walk fridge, open fridge, grab milk, putback milk table; a number picks one "
    "of several, walk chair 12. Script lines work too: [Grab] <milk> (31). look, look fridge, verbs, quit."
)
_step = jax.jit(actions.step, static_argnames="rules")


def play(config: Config, workdir: pathlib.Path) -> None:
    """Reads actions from standard input until it ends, or `quit`."""
    rng = np.random.default_rng(config.collect.seed)
    session(apartments.sample(rng, nodes=config.collect.nodes), sys.stdin, sys.stdout)


def session(source: Graph, lines: Iterable[str], out: TextIO) -> World:
    """Plays in an apartment; returns its world in the end."""
    world = graph.load(source)
    print(HELP, file=out)
    print(describe(world, source), file=out)
    for line in lines:
        words = line.lower().split()
        if not words:
            continue
        if words[0] in ("quit", "exit"):
            break
        if words[0] in ("help", "?"):
            print(HELP, file=out)
        elif words[0] == "verbs":
            print(" ".join(v.lower() for v in VERBS[:-1]), file=out)
        elif words[0] == "look":
            print(describe(world, source, *words[1:2]), file=out)
        else:
            world = _act(world, source, line, out)
    return world


def _act(world: World, source: Graph, line: str, out: TextIO) -> World:
    try:
        (action,) = np.asarray(actions.parse([read(line, source)], world, strict=True))
    except ConfigError as e:
        print(e, file=out)
        return world
    before = _facts(world, source)
    new, reason = _step(world, jnp.asarray(action), rules=E2WM)
    if int(reason):
        print(f"not done: {REASONS[int(reason)].replace('_', ' ')}", file=out)
        return world
    after = _facts(new, source)
    changed = [f"+ {f}" for f in after if f not in before] + [
        f"- {f}" for f in before if f not in after
    ]
    print("\n".join(["done", *changed[:12]]), file=out)
    return new


def read(line: str, source: Graph) -> str:
    """The script line of what was typed: `grab milk` or `grab milk 31`, or a script line itself.

    Raises:
      ConfigError: an unknown verb, a wrong number of things, a class or a number that the apartment has not.
    """
    if "[" in line or "<" in line:
        return line
    verb, *rest = line.lower().split()
    if verb.upper() not in VERB or verb == "putbeside":
        raise ConfigError("verb", verb, ", ".join(v.lower() for v in VERBS[:-1]))
    things: list[tuple[str, int]] = []
    for word in rest:
        if word.isdecimal() and things:
            things[-1] = things[-1][0], int(word)
        else:
            found = [n["id"] for n in source["nodes"] if n["class_name"] == word]
            if not found:
                names = sorted({n["class_name"] for n in source["nodes"]})
                raise ConfigError("class", word, ", ".join(names))
            things.append((word, min(found)))
    if len(things) != ARITY[VERB[verb.upper()]]:
        raise ConfigError(f"things after {verb}", len(things), str(ARITY[VERB[verb.upper()]]))
    return " ".join([f"[{verb}]", *(f"<{name}> ({i})" for name, i in things)])


def describe(world: World, source: Graph, name: str = "") -> str:
    """Where the character is, what it holds and what is near; or all that holds of a class."""
    now = graph.dump(world, source)
    of = {n["id"]: f"{n['class_name']} {n['id']}" for n in now["nodes"]}
    if name:
        found = [f for f in _facts(world, source) if f.split()[0] == name or f.split()[-2] == name]
        return "\n".join(found) or f"no {name} here"
    (me,) = (n["id"] for n in now["nodes"] if n["class_name"] == "character")

    def told(*relations: str) -> str:
        found = [
            of[e["to_id"]]
            for e in now["edges"]
            if e["from_id"] == me and e["relation_type"] in relations
        ]
        return ", ".join(found) or "nothing"

    return f"in {told('INSIDE')}; holding {told('HOLDS_RH', 'HOLDS_LH')}; close to {told('CLOSE')}"


def _facts(world: World, source: Graph) -> list[str]:
    now = graph.dump(world, source)
    of = {n["id"]: f"{n['class_name']} {n['id']}" for n in now["nodes"]}
    states = [
        f"{of[n['id']]} is {sentences.words(s.lower())}" for n in now["nodes"] for s in n["states"]
    ]
    edges = [
        f"{of[e['from_id']]} {e['relation_type'].lower()} {of[e['to_id']]}" for e in now["edges"]
    ]
    return states + edges


def moments(source: Graph, world: World, script: Sequence[Sequence[int]]) -> list[World]:
    """The world before a script, and after each line of it; lines that cannot be done change nothing."""
    out = [world]
    for action in script:
        out.append(_step(out[-1], jnp.asarray(np.asarray(action, np.int32)), rules=E2WM)[0])
    return out
