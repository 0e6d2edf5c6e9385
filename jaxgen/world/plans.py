"""Plans as indices into a table of actions: replayed, and rid of what they can do without."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.world import actions, planning
from jaxgen.world.graph import World, at, moment
from jaxgen.world.planning import Goal
from jaxgen.world.rules import Rules


class Plan(NamedTuple):
    """What a search found; of B worlds."""

    actions: Int[Array, "B depth 3"]  # after `length`, filled with verb -1
    length: Int[Array, " B"]
    reward: Float[Array, " B"]
    met: Bool[
        Array, "B G"
    ]  # which goals hold at the end; not all: no plan for all of them was found


class Replay(NamedTuple):
    """What came of a plan in the simulator."""

    world: World
    failed: Bool[Array, ""]  # whether an action could not be done; it changed nothing
    reward: Float[Array, ""]
    met: Bool[Array, " G"]  # which goals hold at the end


def replay(
    world: World, goal: Goal, table: Int[Array, "A 3"], plan: Int[Array, " L"], *, rules: Rules
) -> Replay:
    """Does the actions of a plan, which -1 fills up, in their order; the episode ends where all goals hold."""

    def act(carry: tuple, index: Array) -> tuple[tuple, Array]:
        now, met, ever, failed = carry
        action = jnp.where(index >= 0, table[index], actions.NOTHING)
        over = met.all() | (index < 0)
        episode = planning.Episode(at(now, world.house), met, ever, over)
        new, reward, reason = planning.attempt(episode, action, goal, rules)
        return (moment(new.world), new.now, new.ever, failed | (reason > 0)), reward

    met = planning.met(world, goal)
    start = (moment(world), met, met, jnp.zeros((), bool))
    (end, met, _, failed), rewards = jax.lax.scan(act, start, plan)
    return Replay(at(end, world.house), failed, rewards.sum(), met)


@partial(jax.jit, static_argnames=("depth", "rules"))
def finish(
    world: World,
    goal: Goal,
    table: Int[Array, "B A 3"],
    plan: Int[Array, "B L"],
    first: Bool[Array, "B A"],
    *,
    depth: int,
    rules: Rules,
) -> Plan:
    """Leaves out each action in turn, from the last to the first and twice, if the same goals are met without it.

    Args:
      plan: indices into the table, of B worlds; -1 fills up.
      first: which actions may come first.
      depth: the most actions; what is beyond is cut off.
    """

    def one(world: World, goal: Goal, table: Array, plan: Array, first: Array) -> tuple:
        size = plan.shape[0]
        again = partial(replay, world, goal, table, rules=rules)
        wanted = again(plan).met

        def shorter(i: int | Array, plan: Array) -> Array:
            place, at = jnp.arange(size), size - 1 - i % size
            cut = jnp.where(place >= at, jnp.roll(plan, -1), plan).at[-1].set(-1)
            without = again(cut)
            opens = (cut[0] < 0) | first[jnp.maximum(cut[0], 0)]
            good = opens & ~without.failed & (without.met | ~wanted).all() & (plan[at] >= 0)
            return jnp.where(good, cut, plan)

        plan = jax.lax.fori_loop(0, 2 * size, shorter, plan)[:depth]
        done = again(plan)
        script = jnp.where((plan >= 0)[:, None], table[plan], actions.NOTHING)
        return script, (plan >= 0).sum(), done.reward, done.met

    return Plan(*jax.vmap(one)(world, goal, table, plan, first))
