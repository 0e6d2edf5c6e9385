import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import ConfigError
from jaxgen.world import (
    actions,
    activities,
    apartments,
    breadth_first,
    graph,
    planning,
    plans,
    search,
)
from jaxgen.world.rules import E2WM, VERB
from tests.world.houses import house


def done(lines, source):
    world = graph.load(source)
    return world, actions.run(world, actions.pad(actions.parse(lines, world), 6)).world


def test_a_goal_is_what_changed():
    lines = ["[WALK] <fridge> (5)", "[OPEN] <fridge> (5)", "[WALK] <table> (6)", "[GRAB] <cup> (7)"]
    world, after = done(lines, house())
    goal = planning.goal(world, after)
    names = graph.classes(house())
    kinds = np.asarray(world.house.kinds)
    found = set()
    for s, r, a, b in zip(goal.state, goal.relation, goal.source, goal.target, strict=True):
        if int(s) >= 0:
            found.add((planning.STATES[int(s)], *_classes(a, kinds, names)))
        elif int(r) >= 0:
            found.add(
                (planning.RELATIONS[int(r)], *_classes(a, kinds, names), *_classes(b, kinds, names))
            )
    assert ("OPEN", "fridge") in found
    assert ("HOLDS_RH", "character", "cup") in found
    assert ("CLOSE", "character", "cup") in found  # once, for both directions
    assert ("CLOSE", "cup", "character") not in found
    assert planning.met(after, goal).all()
    unmet = ~planning.met(world, goal)
    assert int(unmet.sum()) == len(found)
    with pytest.raises(ConfigError, match="size is 1, allowed: at least"):
        planning.goal(world, after, size=1)


def _classes(nodes, kinds, names):
    from jaxgen.world import nodesets

    return [names[k] for k in sorted(set(kinds[np.asarray(nodesets.unpack(nodes))].tolist()))]


def test_rewards_of_steps():
    source = house(states={5: ["OPEN"]})
    world, after = done(["[WALK] <fridge> (5)", "[CLOSE] <fridge> (5)"], source)
    among = np.isin(np.asarray(world.house.ids), [5])
    goal = planning.goal(world, after, among=among)  # CLOSED alone
    advance = jax.jit(planning.advance)
    episode = planning.start(world, goal)
    earned = []
    for line in [
        "[CLOSE] <fridge> (5)",
        "[WALK] <fridge> (5)",
        "[CLOSE] <fridge> (5)",
        "[OPEN] <fridge> (5)",
    ]:
        (action,) = actions.parse([line], world)
        episode, reward = advance(episode, action, goal)
        earned.append(float(reward))
    # Not near; near; the only goal, and so all; over.
    np.testing.assert_allclose(earned, [-0.1, -0.1, 2 - 0.1 + 5, 0.0], atol=1e-6)
    before, ever = jnp.array([True, False]), jnp.array([True, True])
    lost = planning.earned(before, ever, jnp.array([False, True]))
    np.testing.assert_allclose(float(lost), -1.5 - 0.1, atol=1e-6)  # met again earns nothing


def problems(count, *, nodes, seed=0):
    """Worlds, goals, tables, and the first walks, of activities that can be done."""
    rng = np.random.default_rng(seed)
    out = []
    while len(out) < count:
        activity = activities.ACTIVITIES[int(rng.integers(len(activities.ACTIVITIES)))]
        try:
            source = apartments.sample(rng, nodes=nodes, need=activity.items, rooms=2)
        except ConfigError:
            continue  # too small for it
        world = graph.load(source, nodes=32)
        outcome = activities.outcome(activity, source, world)
        if outcome is None:
            continue
        among = activities.useful(source, world, outcome.items)
        goal = planning.goal(world, outcome.world, among=among)
        table = planning.table(world, among=among, size=64)
        if not planning.met(world, goal).all():
            out.append((world, goal, table))
    worlds, goals, tables = zip(*out, strict=True)
    stacked = graph.stack(worlds), jax.tree.map(lambda *x: jnp.stack(x), *goals), jnp.stack(tables)
    return out, *stacked, jax.vmap(planning.room_walks)(stacked[0], stacked[2])


@pytest.mark.slow
def test_the_search_meets_all_goals_and_nine_in_ten_plans_are_shortest():
    """With its default number of simulations; with 96, one of twenty worlds may be left without a plan."""
    single, worlds, goals, tables, first = problems(20, nodes=12)
    found = search.search(worlds, goals, tables, jax.random.key(0), first=first)
    equal = shorter = met = 0
    for i, (world, goal, table) in enumerate(single):
        best = breadth_first.shortest(world, goal, table, first=first[i], depth=8, limit=40_000)
        ran = actions.run(world, found.actions[i])
        assert int(ran.reason) == 0
        assert int(ran.executed) == int(found.length[i])
        # What the search says of its plan is what a replay comes to.
        assert (planning.met(ran.world, goal) == found.met[i]).all()
        if not found.met[i].all():
            continue
        met += 1
        equal += best is not None and len(best) == int(found.length[i])
        shorter += best is not None and int(found.length[i]) < len(best)
    assert shorter == 0
    assert met == 20
    assert equal >= 18


@pytest.mark.slow
def test_an_impossible_goal_is_reported():
    world, after = done(["[WALK] <fridge> (5)", "[OPEN] <fridge> (5)"], house())
    among = np.isin(np.asarray(world.house.ids), [5])
    goal = planning.goal(world, after, among=among, size=4)
    table = planning.table(world, among=np.zeros_like(among), size=16)  # rooms alone
    one = lambda tree: jax.tree.map(lambda x: x[None], tree)  # noqa: E731
    found = search.search(
        one(world), one(goal), table[None], jax.random.key(0), simulations=16, depth=6
    )
    assert not found.met.all()
    assert int(found.length[0]) == 0
    assert (found.actions == -1).all()


def test_breadth_first_finds_the_shortest():
    world, after = done(["[WALK] <fridge> (5)", "[OPEN] <fridge> (5)"], house())
    among = np.isin(np.asarray(world.house.ids), [5])
    goal = planning.goal(world, after, among=among)
    table = planning.table(world, among=among)
    path = breadth_first.shortest(world, goal, table, depth=4)
    assert [int(table[i, 0]) for i in path] == [VERB["WALK"], VERB["OPEN"]]
    detour = jnp.array([path[0], path[0], *path, -1, -1])
    replayed = jax.jit(plans.replay, static_argnames="rules")(
        world, goal, table, detour, rules=E2WM
    )
    assert replayed.met.all()
    assert not replayed.failed
    np.testing.assert_allclose(float(replayed.reward), 2 + 5 - 0.4, atol=1e-5)
    nothing = breadth_first.shortest(world, goal, table[:2], depth=3)
    assert nothing is None
