"""Plans by Monte-Carlo tree search (mctx: Gumbel MuZero, Danihelka et al., 2022).

As Xiang et al. (2023) do, the plan kept is the prefix of highest reward over all simulated paths, the shorter one
on ties, and not the child that was visited most. A simulation ends in a random walk through actions that can be
done; its discounted reward is the value of the node.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mctx
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.errors import require
from jaxgen.world import actions, planning, plans
from jaxgen.world.graph import House, World, at, moment
from jaxgen.world.planning import Episode, Goal
from jaxgen.world.plans import Plan
from jaxgen.world.rules import E2WM, Rules

DISCOUNT = 0.99
_UNLIKELY = -1e9  # a logit: inside the tree, -inf would make NaN


class _Walk(NamedTuple):
    """A random walk from a node of the tree, cut where its reward is highest."""

    actions: Int[Array, " rollout"]
    length: Int[Array, ""]
    reward: Float[Array, ""]
    value: Float[Array, ""]  # discounted reward of all of it


def search(
    world: World,
    goal: Goal,
    table: Int[Array, "B A 3"],
    key: Key[Array, ""],
    *,
    simulations: int = 256,
    depth: int = 25,
    rollout: int = 12,
    rounds: int = 3,
    attempts: int = 3,
    first: Bool[Array, "B A"] | None = None,
    rules: Rules = E2WM,
) -> Plan:
    """Plans for B worlds at once (`jaxgen.world.graph.stack`).

    Where goals are left open at the end of the best path, the search goes on from there. Actions that a plan can
    do without are taken out in the end: each is left out in turn, and the script run again.

    Args:
      goal: of each world, stacked.
      table: the actions that may be taken (`jaxgen.world.planning.table`), one size for all.
      simulations: how many for each world and round.
      depth: the most actions of a plan.
      rollout: length of the random walk at the end of a simulation.
      rounds: how often the search may go on.
      attempts: searches from the beginning; of their plans the one of highest reward is kept.
      first: which actions may come first (`planning.room_walks`, as the reference); all, without it.

    Returns:
      The best plan. Of a goal that cannot be met, `met` says so, and the plan is the shortest found that earns
      most, empty where nothing earns.

    Raises:
      ValueError: a number is less than 1.
    """
    numbers = {
        "simulations": simulations,
        "depth": depth,
        "rollout": rollout,
        "rounds": rounds,
        "attempts": attempts,
    }
    for name, number in numbers.items():
        require(name, number >= 1, number, "at least 1")
    opening = jnp.ones(table.shape[:2], bool) if first is None else first
    one = partial(_round, simulations=simulations, depth=depth, rollout=rollout, rules=rules)
    found = []
    for own in jax.random.split(key, attempts):
        path = _path(world, goal, table, own, opening, one, rounds, depth)
        found.append(plans.finish(world, goal, table, path, opening, depth=depth, rules=rules))

    def best(*options: Plan) -> Plan:
        every = jax.tree.map(lambda *leaves: jnp.stack(leaves), *options)
        # All goals first; the reward counts the goals and the steps.
        score = every.reward + jnp.where(every.met.all(-1), 1e3, 0.0)
        return jax.tree.map(lambda leaf: leaf[jnp.argmax(score)], every)

    return jax.vmap(best)(*found)


def _path(
    world: World,
    goal: Goal,
    table: Array,
    key: Key[Array, ""],
    first: Array,
    one: Callable[..., tuple[Array, Array, World]],
    rounds: int,
    depth: int,
) -> Int[Array, "B L"]:
    """The best paths of one attempt, round after round, as indices into the table."""
    anything = jnp.ones(table.shape[:2], bool)
    plan = jnp.full((table.shape[0], depth * (rounds + 1)), -1, jnp.int32)
    length = jnp.zeros(table.shape[0], jnp.int32)
    for own in jax.random.split(key, rounds):
        allowed = jnp.where((length == 0)[:, None], first, anything)
        path, steps, world = one(world, goal, table, own, allowed)
        place = length[:, None] + jnp.arange(depth)
        plan = plan.at[jnp.arange(len(plan))[:, None], place].set(path)
        length += steps
        if bool(jax.vmap(planning.met)(world, goal).all()):
            break
    return plan


@partial(jax.jit, static_argnames=("simulations", "depth", "rollout", "rules"))
def _round(
    world: World,
    goal: Goal,
    table: Int[Array, "B A 3"],
    key: Key[Array, ""],
    first: Bool[Array, "B A"],
    *,
    simulations: int,
    depth: int,
    rollout: int,
    rules: Rules,
) -> tuple[Int[Array, "B depth"], Int[Array, " B"], World]:
    """The best path of one search, as indices into the table, its length, and the worlds at its end."""
    house = world.house
    count = table.shape[1]

    def can(episode: Episode, table: Int[Array, "A 3"]) -> Bool[Array, " A"]:
        return actions.valid(episode.world, table, rules) & (table[:, 0] >= 0)

    def walk(
        episode: Episode, goal: Goal, table: Int[Array, "A 3"], left: Array, key: Key[Array, ""]
    ) -> _Walk:
        def once(carry: tuple, key: Key[Array, ""]) -> tuple[tuple, tuple[Array, Array]]:
            now, met, ever, over, steps = carry
            here = Episode(at(now, episode.world.house), met, ever, over)
            logits = jnp.where(can(here, table), 0.0, _UNLIKELY)
            chosen = jax.random.categorical(key, logits)
            here = here._replace(over=over | (steps >= left))
            new, reward = planning.advance(here, table[chosen], goal, rules)
            after = (moment(new.world), new.now, new.ever, new.over, steps + 1)
            return after, (chosen, reward)

        start = (moment(episode.world), episode.now, episode.ever, episode.over, jnp.int32(0))
        _, (chosen, rewards) = jax.lax.scan(once, start, jax.random.split(key, rollout))
        sums = jnp.concatenate([jnp.zeros(1), jnp.cumsum(rewards)])
        length = jnp.argmax(sums - 1e-4 * jnp.arange(rollout + 1))
        value = (rewards * DISCOUNT ** jnp.arange(rollout)).sum()
        return _Walk(chosen, length, sums[length], value)

    def embed(episode: Episode, steps: Array, tail: _Walk) -> tuple:
        met = (episode.now, episode.ever, episode.over)
        return (moment(episode.world), met, steps, tail)

    def recurrent(
        params: tuple[House, Goal, Array], key: Key[Array, ""], action: Array, state: tuple
    ) -> tuple[mctx.RecurrentFnOutput, tuple]:
        house, goal, table = params

        def one(
            house: House, goal: Goal, table: Array, key: Array, action: Array, state: tuple
        ) -> tuple:
            now, met, steps, _ = state
            episode = Episode(at(now, house), *met)
            late = episode.over | (steps >= depth)
            new, reward = planning.advance(episode._replace(over=late), table[action], goal, rules)
            tail = walk(new, goal, table, depth - steps - 1, key)
            over = new.over | (steps + 1 >= depth)
            logits = jnp.where(can(new, table), 0.0, _UNLIKELY)
            output = mctx.RecurrentFnOutput(
                reward=reward,
                discount=jnp.where(over, 0.0, DISCOUNT),
                prior_logits=logits,
                value=jnp.where(over, 0.0, tail.value),
            )
            return output, embed(new, steps + 1, tail)

        keys = jax.random.split(key, action.shape[0])
        return jax.vmap(one)(house, goal, table, keys, action, state)

    episodes = jax.vmap(planning.start)(world, goal)
    count_worlds = table.shape[0]
    none = jnp.zeros(count_worlds)
    tails = _Walk(  # none from the root: its first action could be one that may not come first
        jnp.zeros((count_worlds, rollout), jnp.int32), none.astype(jnp.int32), none, none
    )
    allowed = jax.vmap(can)(episodes, table) & first
    root = mctx.RootFnOutput(
        prior_logits=jnp.where(allowed, 0.0, _UNLIKELY),
        value=tails.value,
        embedding=jax.vmap(embed)(episodes, jnp.zeros(count_worlds, jnp.int32), tails),
    )
    output = mctx.gumbel_muzero_policy(
        (house, goal, table),
        key,
        root,
        recurrent,
        num_simulations=simulations,
        invalid_actions=~allowed,
        max_depth=depth,
        gumbel_scale=0.0,
        max_num_considered_actions=count,
    )
    path, length = jax.vmap(partial(_best, depth=depth))(output.search_tree)
    end = jax.vmap(lambda *args: plans.replay(*args, rules=rules).world)(world, goal, table, path)
    return path, length, end


def _best(tree: mctx.Tree, *, depth: int) -> tuple[Array, Array]:
    """The prefix of highest reward over all paths of one tree: to a node, and on by its random walk."""
    total = tree.node_visits.shape[0]
    parents, taken = tree.parents, tree.action_from_parent
    _, _, steps, tail = tree.embeddings
    seen = tree.node_visits > 0

    def add(node: int | Array, sums: Array) -> Array:
        parent = jnp.maximum(parents[node], 0)
        own = tree.children_rewards[parent, taken[node]]
        return sums.at[node].set(jnp.where(seen[node], sums[parent] + own, -jnp.inf))

    sums = jax.lax.fori_loop(1, total, add, jnp.zeros(total))
    here = jnp.minimum(steps, depth)
    best = sums + tail.reward
    length = here + tail.length
    # Rewards are multiples of a tenth: a thousandth a step settles ties alone.
    score = jnp.where(seen, best - 1e-3 * length, -jnp.inf)
    node = jnp.argmax(score)
    place = jnp.arange(depth)
    along = tail.actions[node][jnp.clip(place - here[node], 0, tail.actions.shape[-1] - 1)]
    out = jnp.where((place >= here[node]) & (place < length[node]), along, -1)

    def back(_: int | Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        node, out = carry
        inner = parents[node] >= 0
        spot = jnp.clip(steps[node] - 1, 0, depth - 1)
        out = jnp.where(inner, out.at[spot].set(taken[node]), out)
        return jnp.where(inner, parents[node], node), out

    _, out = jax.lax.fori_loop(0, depth, back, (node, out))
    return out, jnp.minimum(length[node], depth)
