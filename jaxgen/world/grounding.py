"""Plans in words, done in the simulator: which things they mean, how far they can be done, what they reach.

A sentence names classes alone. Of the things of a class that is meant which makes the action possible; where none
does, or the sentence is none of a plan, the plan ends there.
"""

import itertools
import re
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int
from numpy import ndarray

from jaxgen.world import actions, planning, sentences
from jaxgen.world.graph import Graph, Moment, World, at, moment
from jaxgen.world.planning import Goal
from jaxgen.world.rules import ARITY, E2WM, REASONS, VERB, Rules

NOT_A_STEP, NO_SUCH_THING = "not_a_step", "no_such_thing"  # beside the simulator's reasons
_MOST = 16  # combinations of things that are tried for one sentence


class Executed(NamedTuple):
    """What came of a plan."""

    world: World
    script: Int[ndarray, "L 3"]  # the actions that were done
    reason: str  # why it ended early; "done" if it did not
    met: Bool[ndarray, " G"]  # which goals hold in the end

    @property
    def executable(self) -> bool:
        """Whether all of it could be done."""
        return self.reason == "done"


def plan_steps(text: str) -> list[str]:
    """The sentences of a plan."""
    return [s.strip() for s in re.split(r"(?<=\.)\s+", text.strip()) if s.strip()]


def execute(
    steps: Sequence[str], source: Graph, world: World, goal: Goal, rules: Rules = E2WM
) -> Executed:
    """Does a plan, sentence by sentence, up to the first that cannot be done; not for `jax.jit`.

    Args:
      source: the graph that the world was loaded from, for its names.
    """
    places: dict[str, list[int]] = {}
    for i, node in enumerate(sorted(source["nodes"], key=lambda n: n["id"])):
        places.setdefault(node["class_name"], []).append(i)
    now, script, reason = moment(world), [], "done"
    for step in steps:
        read = sentences.read_sentence(step)
        if read is None or len(read[1]) != ARITY[VERB[read[0]]]:
            reason = NOT_A_STEP
            break
        verb, names = read
        if any(n not in places for n in names):
            reason = NO_SUCH_THING
            break
        meant = list(itertools.islice(itertools.product(*(places[n] for n in names)), _MOST))
        tried = np.full((_MOST, 3), -1, np.int32)
        tried[: len(meant), 0] = VERB[verb]
        for row, nodes in zip(tried, meant, strict=False):
            row[1 : 1 + len(nodes)] = nodes
        now, chosen, why = _try(now, world, jnp.asarray(tried), rules=rules)
        if int(why):
            reason = REASONS[int(why)]
            break
        script.append(tried[int(chosen)])
    end = at(now, world.house)
    done = np.array(script, np.int32).reshape(-1, 3)
    return Executed(end, done, reason, np.asarray(planning.met(end, goal)))


@partial(jax.jit, static_argnames="rules")
def _try(
    now: Moment, world: World, tried: Int[Array, "K 3"], *, rules: Rules
) -> tuple[Moment, Int[Array, ""], Int[Array, ""]]:
    """The first of some actions that can be done: the moment after it, its place, and why none could."""
    here = at(now, world.house)
    after, reasons = jax.vmap(lambda action: actions.step(here, action, rules))(tried)
    able = (reasons == 0) & (tried[:, 0] >= 0)
    chosen = jnp.argmax(able)
    done = jax.tree.map(lambda new: new[chosen], moment(after))
    return done, chosen, jnp.where(able.any(), 0, reasons[0])
