"""Experience from goals: an activity set in a random apartment, and a plan that is searched for.

What a human would do gives the goal (`jaxgen.world.activities.outcome`); the plan that is kept is found by search
and meets the goal in the simulator.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32, Key
from numpy import ndarray

from jaxgen.errors import ConfigError, require
from jaxgen.world import activities, apartments, breadth_first, graph, planning, search
from jaxgen.world.activities import Activity
from jaxgen.world.graph import Graph, World
from jaxgen.world.planning import Goal

PLANNERS = ("search", "breadth_first")


class Problem(NamedTuple):
    """An activity to be done in an apartment."""

    activity: str
    graph: Graph
    world: World
    goal: Goal
    items: tuple[str, ...]  # classes that the activity takes
    table: Int32[Array, "A 3"]  # the actions that a plan may have


class Solved(NamedTuple):
    """A problem and a plan that meets all its goals."""

    problem: Problem
    script: Int32[ndarray, "L 3"]

    @property
    def given(self) -> tuple[str, ...]:
        """The classes that a question names: those of the activity, and those that the plan goes to."""
        names = [
            n["class_name"] for n in sorted(self.problem.graph["nodes"], key=lambda n: n["id"])
        ]
        used = [names[x] for _, *nodes in self.script.tolist() for x in nodes if x >= 0]
        return tuple(dict.fromkeys((*self.problem.items, *used)))


def problem(
    rng: np.random.Generator, activity: Activity, *, nodes: int = 48, actions: int = 96
) -> Problem | None:
    """An activity in a new apartment; None where it is done already, cannot be done, or does not fit.

    Args:
      nodes: of the apartment; the world has room for them, so that worlds can be stacked.
      actions: room in the table of actions.
    """
    try:
        source = apartments.sample(rng, nodes=nodes, need=activity.items)
        world = graph.load(source, nodes=nodes)
        done = activities.outcome(activity, source, world)
        if done is None:
            return None
        among = activities.useful(source, world, done.items)
        goal = planning.goal(world, done.world, among=among)
        table = planning.table(world, among=among, size=actions)
    except ConfigError:
        return None  # larger than the room that there is
    if bool(planning.met(world, goal).all()):
        return None
    return Problem(activity.name, source, world, goal, done.items, table)


def solve(
    problems: Sequence[Problem],
    key: Key[Array, ""],
    *,
    planner: str = "search",
    simulations: int = 48,
    depth: int = 16,
) -> list[Solved]:
    """Plans that meet all goals; problems for which none was found are left out.

    Args:
      planner: "search" (`jaxgen.world.search`, all problems at once) or "breadth_first" (the shortest plan, one
        problem after the other: for small worlds and short plans).
      simulations: of the search.
      depth: the most actions.

    Raises:
      ValueError: another planner.
    """
    require("planner", planner in PLANNERS, planner, "one of " + ", ".join(PLANNERS))
    if not problems:
        return []
    if planner == "breadth_first":
        return [s for p in problems if (s := _shortest(p, depth)) is not None]
    world, goal, table = stacked(problems)
    found = search.search(
        world,
        goal,
        table,
        key,
        simulations=simulations,
        depth=depth,
        rounds=2,
        attempts=1,
        first=jax.vmap(planning.room_walks)(world, table),
    )
    met, scripts = np.asarray(found.met.all(-1)), np.asarray(found.actions)
    return [
        Solved(p, _cut(script)) for p, script, ok in zip(problems, scripts, met, strict=True) if ok
    ]


def stacked(problems: Sequence[Problem]) -> tuple[World, Goal, Int32[Array, "B A 3"]]:
    """Worlds, goals and tables of B problems of one size, as `jaxgen.world.search` takes them."""
    goal = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[p.goal for p in problems])
    return graph.stack([p.world for p in problems]), goal, jnp.stack([p.table for p in problems])


def _shortest(problem: Problem, depth: int) -> Solved | None:
    first = planning.room_walks(problem.world, problem.table)
    path = breadth_first.shortest(
        problem.world, problem.goal, problem.table, depth=depth, first=first, limit=20_000
    )
    return None if path is None else Solved(problem, np.asarray(problem.table)[path])


def _cut(script: Int[ndarray, "L 3"]) -> Int32[ndarray, "M 3"]:
    return script[script[:, 0] >= 0].astype(np.int32)


def distractors(
    rng: np.random.Generator, source: Graph, given: Sequence[str], *, most: int = 3
) -> tuple[str, ...]:
    """Up to `most` classes of unrelated things from the rooms of those that are given."""
    rooms = {n["id"] for n in source["nodes"] if n.get("category") == "Rooms"}
    of = {n["id"]: n["class_name"] for n in source["nodes"]}
    inside = [
        (e["from_id"], e["to_id"])
        for e in source["edges"]
        if e["relation_type"] == "INSIDE" and e["to_id"] in rooms
    ]
    near = {room for thing, room in inside if of[thing] in given}
    props = {n["id"] for n in source["nodes"] if n.get("category") == "Props"}
    found = {of[t] for t, room in inside if room in near and t in props} - set(given)
    names = sorted(found)
    count = min(len(names), int(rng.integers(1, most + 1)))
    return tuple(str(n) for n in rng.permutation(names)[:count])
