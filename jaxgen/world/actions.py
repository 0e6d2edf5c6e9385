"""Acting in a world: script lines, one step, a whole script, and which actions may be done.

A script line is `[Verb] <class> (id) <class> (id)` with as many objects as the verb takes; the id alone says which
object is meant. An action is (verb, x, y): an index into `jaxgen.world.rules.VERBS`, and two nodes. Functions take
one world; for many, use `jax.vmap` over worlds of one size (`jaxgen.world.graph.stack`). Integers have no gradient.
"""

import re
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int32, UInt32

from jaxgen.errors import ConfigError, require
from jaxgen.world import effects, nodesets, situation
from jaxgen.world.graph import Moment, World, at, moment
from jaxgen.world.rules import (
    ARITY,
    CHECK_FACT,
    CHECK_OF,
    CHECK_REASON,
    E2WM,
    FACTS,
    REASONS,
    VERB,
    VERBS,
    Rules,
)
from jaxgen.world.vocabulary import INSIDE, ON

NOTHING = -1  # a verb: an action that fills up
MISSING = -2  # a node: the id is not in the graph


class Ran(NamedTuple):
    """What came of a script."""

    world: World
    reason: Int[Array, ""]  # index into REASONS of the line that failed; 0: all were done
    executed: Int[Array, ""]  # lines done


def parse(lines: Iterable[str], world: World, *, strict: bool = False) -> Int32[Array, "L 3"]:
    """Actions of script lines; blank lines and those that begin with `#` are left out.

    An object whose id the world has not is a failed action (`not_found`), unless `strict`.

    Raises:
      ConfigError: a line that cannot be read, an unknown verb, a wrong number of objects; if `strict`, an id
        that is not in the graph.
    """
    place = {int(i): at for at, i in enumerate(np.asarray(world.house.ids)) if i >= 0}
    out = []
    for number, line in enumerate(lines, 1):
        field, text = f"script line {number}", line.strip()
        if not text or text.startswith("#"):
            continue
        match = re.fullmatch(
            r"\[\s*(\w+)\s*\]((?:\s*<[^<>]+>\s*\(\s*\d+\s*\))*)\s*(?:\[\d+\])?", text
        )
        if not match:
            raise ConfigError(field, line, "[Verb] <class> (id) <class> (id)")
        verb = match[1].upper()
        if verb not in VERB or verb == "PUTBESIDE":
            raise ConfigError(f"{field}: verb", match[1], ", ".join(VERBS[:-1]))
        ids = [int(i) for i in re.findall(r"\(\s*(\d+)\s*\)", match[2])]
        if len(ids) != ARITY[VERB[verb]]:
            wanted = f"{ARITY[VERB[verb]]} objects after [{match[1]}]"
            raise ConfigError(f"{field}: number of objects", len(ids), wanted)
        for i in ids:
            if strict and i not in place:
                raise ConfigError(f"{field}: id", i, "the id of a node of the graph")
        nodes = [place.get(i, MISSING) for i in ids]
        out.append([VERB[verb], *nodes, *[-1] * (2 - len(nodes))])
    return jnp.asarray(np.array(out, np.int32).reshape(-1, 3))


def pad(script: Int[Array, "L 3"], lines: int) -> Int[Array, "lines 3"]:
    """A script with lines that do nothing added; scripts of one length can be stacked.

    Raises:
      ValueError: the script is longer than that.
    """
    require("lines", lines >= len(script), lines, f"at least {len(script)}, the script's length")
    return jnp.pad(script, ((0, lines - len(script)), (0, 0)), constant_values=NOTHING)


def render(action: Int[Array, "3"], world: World, names: dict[int, str]) -> str:
    """The script line of an action; `names`: id -> class name."""
    verb, *nodes = (int(v) for v in action)
    ids = [int(world.house.ids[n]) for n in nodes[: ARITY[verb]]]
    return " ".join([f"[{VERBS[verb]}]", *(f"<{names[i]}> ({i})" for i in ids)])


def step(
    world: World, action: Int[Array, "3"], rules: Rules = E2WM
) -> tuple[World, Int[Array, ""]]:
    """One action: the world after it, and the reason why it failed (index into REASONS), or 0.

    An action that fails leaves the world as it was, to the bit. A verb of -1 does nothing, and does not fail.
    """
    facts = nodesets.settle(situation.facts(world, rules))
    reason, done, (verb, x, y) = _check(world, facts, action, rules)
    far = nodesets.has(facts[len(FACTS)], x)
    walks = jnp.stack(
        [nodesets.has(facts[FACTS.index(f)], x) for f in ("upright", "path", "open_way")]
    ).all()
    verb, x, y, far, walks, reason = nodesets.settle(
        jnp.stack([jnp.where(done, verb, NOTHING), x, y, far, walks, reason]).astype(jnp.int32)
    )
    return effects.apply(world, verb, x, y, far > 0, walks > 0, rules), reason


def _check(
    world: World, facts: UInt32[Array, "F W"], action: Int[Array, "3"], rules: Rules
) -> tuple[Int[Array, ""], Bool[Array, ""], tuple[Int[Array, ""], Int[Array, ""], Int[Array, ""]]]:
    """The reason, whether the action changes the world, and the action as it is carried out."""
    verb, x, y = action
    total = world.origin.shape[0]
    nothing = verb < 0
    asked = jnp.asarray(ARITY)[verb]
    there = world.house.ids >= 0
    known = [(n >= 0) & (n < total) & there[n] for n in (x, y)]
    missing = ((asked > 0) & ~known[0]) | ((asked > 1) & ~known[1])
    x, y = jnp.where(known[0], x, 0), jnp.where(known[1], y, 0)

    def first_failure(verb: Int[Array, ""], y: Int[Array, ""]) -> Int[Array, ""]:
        fact = jnp.asarray(CHECK_FACT)[verb]
        node = jnp.where(jnp.asarray(CHECK_OF)[verb] == 0, x, y)
        # A verb without objects asks facts that hold of all nodes or of none.
        bits = facts[fact, node // nodesets.WORD] >> (node % nodesets.WORD).astype(jnp.uint32)
        failed = ((bits & 1) == 0) & (fact < len(FACTS))
        return jnp.where(failed.any(), jnp.asarray(CHECK_REASON)[verb][jnp.argmax(failed)], 0)

    reason = first_failure(verb, y)
    # PUTOBJBACK is one of the other three, once there is a place to put it back to.
    back = verb == VERB["PUTOBJBACK"]
    relation = world.origin_relation[x]
    as_put = jnp.where(relation == INSIDE, VERB["PUTIN"], VERB["PUTBESIDE"])
    as_put = jnp.where(relation == ON, VERB["PUTBACK"], as_put)
    swap = back & (reason == 0)
    verb, y = jnp.where(swap, as_put, verb), jnp.where(swap, jnp.maximum(world.origin[x], 0), y)
    second = first_failure(verb, y)
    reason = jnp.where(swap, second, reason)
    reason = jnp.where(missing, REASONS.index("not_found"), reason)
    reason = jnp.where(nothing, 0, reason)
    done = (reason == 0) & ~nothing
    if not rules.put_back_or_fail:
        reason = jnp.where(swap & ~missing, 0, reason)
    return reason, done, (verb, x, y)


def run(world: World, script: Int[Array, "L 3"], rules: Rules = E2WM) -> Ran:
    """A script, up to the first line that fails."""
    return _run(world, script, rules)


@partial(jax.jit, static_argnames=("rules", "chunk"))
def run_many(
    worlds: World, scripts: Int[Array, "B L 3"], rules: Rules = E2WM, *, chunk: int = 256
) -> Ran:
    """`run` of B worlds (`jaxgen.world.graph.stack`), `chunk` of them at once.

    On a CPU, so many fit into its cache; on an accelerator, take as many as there are.
    """
    return jax.lax.map(lambda both: _run(*both, rules), (worlds, scripts), batch_size=chunk)


@partial(jax.jit, static_argnames="rules")
def _run(world: World, script: Int[Array, "L 3"], rules: Rules) -> Ran:
    def line(carry: tuple[Moment, Array, Array], action: Array) -> tuple[tuple, None]:
        now, failed, executed = carry
        action = action.at[0].set(jnp.where(failed == 0, action[0], NOTHING))
        after, reason = step(at(now, world.house), action, rules)
        done = (action[0] >= 0) & (reason == 0)
        return (moment(after), jnp.where(failed == 0, reason, failed), executed + done), None

    zero = jnp.zeros((), jnp.int32)
    (end, reason, executed), _ = jax.lax.scan(line, (moment(world), zero, zero), script)
    return Ran(at(end, world.house), reason, executed)


def valid(world: World, table: Int[Array, "A 3"], rules: Rules = E2WM) -> Bool[Array, " A"]:
    """Which actions of a table may be done now."""
    facts = nodesets.settle(situation.facts(world, rules))
    return jax.vmap(lambda action: _check(world, facts, action, rules)[0] == 0)(table)
