"""Plans by Monte-Carlo tree search (mctx: Gumbel MuZero, Danihelka et al., 2022), and by breadth-first search.

As Xiang et al. (2023) do, the plan kept is the prefix of highest reward over all simulated paths, the shorter one
on ties, and not the child that was visited most. A simulation ends in a random walk through actions that can be
done; its discounted reward is the value of the node.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mctx
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.errors import require
from jaxgen.world import actions, planning
from jaxgen.world.graph import House, World, at, moment
from jaxgen.world.planning import Episode, Goal
from jaxgen.world.rules import E2WM, Rules

DISCOUNT = 0.99
_UNLIKELY = -1e9  # a logit: inside the tree, -inf would make NaN


class Plan(NamedTuple):
    """What a search found; of B worlds."""

    actions: Int[Array, "B depth 3"]  # after `length`, filled with verb -1
    length: Int[Array, " B"]
    reward: Float[Array, " B"]
    met: Bool[
        Array, "B G"
    ]  # which goals hold at the end; not all: no plan for all of them was found


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
      first: which actions may come first (`planning.room_walks`, as the reference); all, without it.

    Returns:
      The best plan. Of a goal that cannot be met, `met` says so, and the plan is the shortest found that earns
      most, empty where nothing earns.

    Raises:
      ValueError: a number is less than 1.
    """
    numbers = {"simulations": simulations, "depth": depth, "rollout": rollout, "rounds": rounds}
    for name, number in numbers.items():
        require(name, number >= 1, number, "at least 1")
    anything = jnp.ones(table.shape[:2], bool)
    opening = anything if first is None else first
    plan = jnp.full((table.shape[0], depth * (rounds + 1)), -1, jnp.int32)
    length = jnp.zeros(table.shape[0], jnp.int32)
    here = world
    for number in range(rounds):
        key, own = jax.random.split(key)
        begins = (length == 0)[:, None]
        path, steps, here = _round(
            here,
            goal,
            table,
            own,
            jnp.where(begins, opening, anything),
            simulations=simulations,
            depth=depth,
            rollout=rollout,
            rules=rules,
        )
        place = length[:, None] + jnp.arange(depth)
        plan = plan.at[jnp.arange(len(plan))[:, None], place].set(path)
        length += steps
        if number + 1 < rounds and bool(jax.vmap(planning.met)(here, goal).all()):
            break
    return _finish(world, goal, table, plan, opening, depth=depth, rules=rules)


@partial(jax.jit, static_argnames=("depth", "rules"))
def _finish(
    world: World, goal: Goal, table: Array, plan: Array, first: Array, *, depth: int, rules: Rules
) -> Plan:
    def one(world: World, goal: Goal, table: Array, plan: Array, first: Array) -> tuple:
        size = plan.shape[0]

        def holds(indices: Array) -> Array:
            return planning.met(_after(world, table, indices, rules)[0], goal)

        wanted = holds(plan)

        def shorter(i: Array, plan: Array) -> Array:
            """Without the i-th action from the end, if that loses no goal."""
            at = size - 1 - i % size
            place = jnp.arange(size)
            cut = jnp.where(place >= at, jnp.roll(plan, -1), plan).at[-1].set(-1)
            after, failed = _after(world, table, cut, rules)
            opens = (cut[0] < 0) | first[jnp.maximum(cut[0], 0)]
            good = opens & ~failed & (planning.met(after, goal) | ~wanted).all() & (plan[at] >= 0)
            return jnp.where(good, cut, plan)

        plan = jax.lax.fori_loop(0, 2 * size, shorter, plan)[:depth]
        actions_ = jnp.where((plan >= 0)[:, None], table[plan], -1)
        return actions_, (plan >= 0).sum(), _earned(world, goal, table, plan, rules), holds(plan)

    return Plan(*jax.vmap(one)(world, goal, table, plan, first))


def _after(world: World, table: Array, plan: Array, rules: Rules) -> tuple[World, Array]:
    script = jnp.where((plan >= 0)[:, None], table[plan], -1)
    ran = actions.run(world, script, rules)
    return ran.world, ran.reason > 0


def _earned(world: World, goal: Goal, table: Array, plan: Array, rules: Rules) -> Array:
    def act(carry: tuple, index: Array) -> tuple[tuple, Array]:
        now, met, ever, over = carry
        here = Episode(at(now, world.house), met, ever, over | (index < 0))
        new, reward = planning.advance(here, table[index], goal, rules)
        return (moment(new.world), *new[1:]), reward

    start = planning.start(world, goal)
    _, rewards = jax.lax.scan(act, (moment(world), *start[1:]), plan)
    return rewards.sum()


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

    root_key, tree_key = jax.random.split(key)
    episodes = jax.vmap(planning.start)(world, goal)
    keys = jax.random.split(root_key, count_worlds := table.shape[0])
    left = jnp.full(count_worlds, depth)
    tails = jax.vmap(walk)(episodes, goal, table, left, keys)
    allowed = jax.vmap(can)(episodes, table) & first
    # The walk from the root does not know of `first`.
    tails = tails._replace(length=jnp.zeros_like(tails.length), reward=jnp.zeros_like(tails.reward))
    root = mctx.RootFnOutput(
        prior_logits=jnp.where(allowed, 0.0, _UNLIKELY),
        value=tails.value,
        embedding=jax.vmap(embed)(episodes, jnp.zeros(count_worlds, jnp.int32), tails),
    )
    output = mctx.gumbel_muzero_policy(
        (house, goal, table),
        tree_key,
        root,
        recurrent,
        num_simulations=simulations,
        invalid_actions=~allowed,
        max_depth=depth,
        gumbel_scale=0.0,
        max_num_considered_actions=count,
    )
    path, length = jax.vmap(partial(_best, depth=depth))(output.search_tree)
    end = jax.vmap(lambda w, t, p: _after(w, t, p, rules)[0])(world, table, path)
    return path, length, end


def _best(tree: mctx.Tree, *, depth: int) -> tuple[Array, Array]:
    """The prefix of highest reward over all paths of one tree: to a node, and on by its random walk."""
    total = tree.node_visits.shape[0]
    parents, taken = tree.parents, tree.action_from_parent
    _, _, steps, tail = tree.embeddings
    seen = tree.node_visits > 0

    def add(node: Array, sums: Array) -> Array:
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

    def back(_: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        node, out = carry
        inner = parents[node] >= 0
        spot = jnp.clip(steps[node] - 1, 0, depth - 1)
        out = jnp.where(inner, out.at[spot].set(taken[node]), out)
        return jnp.where(inner, parents[node], node), out

    _, out = jax.lax.fori_loop(0, depth, back, (node, out))
    return out, jnp.minimum(length[node], depth)


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
    fields = ("edges", "states", "origin", "origin_relation")
    chunk = 64
    frontier = [(tuple(np.asarray(x) for x in moment(world)), ())]
    known = {b"".join(x.tobytes() for x in frontier[0][0])}
    opening = np.ones(len(table), bool) if first is None else np.asarray(first)
    for level in range(depth):
        following = []
        for begin in range(0, len(frontier), chunk):
            part = frontier[begin : begin + chunk]
            filled = part + [part[0]] * (chunk - len(part))
            stacked = tuple(np.stack([p[0][i] for p in filled]) for i in range(len(fields)))
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
