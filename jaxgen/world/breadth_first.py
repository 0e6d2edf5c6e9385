"""The shortest plan by breadth-first search: what a tree search is measured against, on small worlds."""

from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxgen.world import actions, planning
from jaxgen.world.graph import House, World, at, moment
from jaxgen.world.planning import Goal
from jaxgen.world.rules import E2WM, Rules


def shortest(
    world: World,
    goal: Goal,
    table: Int[Array, "A 3"],
    *,
    depth: int = 8,
    first: Bool[Array, " A"] | None = None,
    rules: Rules = E2WM,
    limit: int = 200_000,
) -> list[int] | None:
    """The shortest plan that meets all goals, by breadth-first search; for small worlds, and not for `jax.jit`.

    Args:
      depth: the most actions.
      first: which actions may come first.
      limit: the most worlds to look at.

    Returns:
      Indices into the table; None if no plan of so few actions, or among so many worlds, meets the goals.
    """
    if bool(planning.met(world, goal).all()):
        return []
    chunk = 64
    frontier: list[tuple[tuple, tuple[int, ...]]] = [
        (tuple(np.asarray(x) for x in moment(world)), ())
    ]
    known = {b"".join(x.tobytes() for x in frontier[0][0])}
    opening = np.ones(len(table), bool) if first is None else np.asarray(first)
    for level in range(depth):
        following: list[tuple[tuple, tuple[int, ...]]] = []
        for begin in range(0, len(frontier), chunk):
            part = frontier[begin : begin + chunk]
            filled = part + [part[0]] * (chunk - len(part))
            stacked = tuple(map(np.stack, zip(*(now for now, _ in filled), strict=True)))
            after, done, ok = jax.device_get(
                _expand(stacked, world.house, goal, table, rules=rules)
            )
            for i, (_, path) in enumerate(part):
                for a in np.flatnonzero(ok[i] & (opening if level == 0 else True)):
                    if done[i, a]:
                        return [*path, int(a)]
                    new = tuple(x[i, a] for x in after)
                    mark = b"".join(x.tobytes() for x in new)
                    if mark not in known:
                        known.add(mark)
                        following.append((new, (*path, int(a))))
            if len(known) > limit:
                return None
        frontier = following
        if not frontier:
            return None
    return None


@partial(jax.jit, static_argnames="rules")
def _expand(
    moments: tuple, house: House, goal: Goal, table: Int[Array, "A 3"], *, rules: Rules
) -> tuple[tuple, Bool[Array, "C A"], Bool[Array, "C A"]]:
    def one(now: tuple) -> tuple[tuple, Array, Array]:
        here = at(now, house)

        def act(action: Array) -> tuple[tuple, Array, Array]:
            after, reason = actions.step(here, action, rules)
            return moment(after), planning.met(after, goal).all(), (reason == 0) & (action[0] >= 0)

        return jax.vmap(act)(table)

    return jax.vmap(one)(moments)
