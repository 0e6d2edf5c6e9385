"""Plans in words carried out, and problems set and solved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.world import actions, activities, gathering, graph, grounding, planning, sentences
from tests.world.houses import house


def setting(*extra, lines=("[WALK] <table> (6)", "[GRAB] <cup> (7)")):
    source = house(*extra)
    world = graph.load(source)
    after = actions.run(world, actions.pad(actions.parse(lines, world), 6)).world
    among = np.isin(np.asarray(world.house.ids), [3, 7])
    return source, world, planning.goal(world, after, among=among)


def test_a_plan_in_words_does_what_its_script_does():
    source, world, goal = setting()
    done = grounding.execute(["Walk to table.", "Grab cup."], source, world, goal)
    assert done.executable
    assert done.reason == "done"
    assert done.met.all()
    ran = actions.run(world, jnp.asarray(done.script))
    assert int(ran.executed) == 2
    assert all(
        bool((a == b).all())
        for a, b in zip(*map(jax.tree.leaves, (ran.world, done.world)), strict=True)
    )
    assert list(sentences.plan_sentences(done.script, source)) == ["Walk to table.", "Grab cup."]


@pytest.mark.parametrize(
    ("plan", "reason", "steps"),
    [
        (["Grab cup."], "not_close", 0),
        (["Walk to table.", "Sit on table."], "not_sittable", 1),
        (["Walk to table.", "Grab unicorn."], "no_such_thing", 1),
        (["Walk to table.", "Be happy."], "not_a_step", 1),
        (["Walk to fridge.", "Open fridge.", "Open fridge."], "wrong_state", 2),
        ([], "done", 0),
    ],
)
def test_a_plan_ends_where_it_cannot_be_done(plan, reason, steps):
    source, world, goal = setting()
    done = grounding.execute(plan, source, world, goal)
    assert (done.reason, len(done.script)) == (reason, steps)
    assert not done.met.all()
    assert done.executable == (reason == "done")


def test_of_two_things_the_one_that_can_be_taken_is_meant():
    source, world, goal = setting((10, "cup", "GRABBABLE"))
    # The second cup, which is on nothing, is near its room alone; the first is on the table.
    done = grounding.execute(["Walk to table.", "Grab cup."], source, world, goal)
    assert done.executable
    ids = np.asarray(world.house.ids)
    assert ids[done.script[1, 1]] == 7


def test_steps_of_a_text():
    assert grounding.plan_steps(" Walk to bed. Lie on bed.") == ["Walk to bed.", "Lie on bed."]
    assert grounding.plan_steps("") == []


def test_breadth_first_plans_meet_their_goals_and_name_what_they_take():
    rng = np.random.default_rng(0)
    names = {"turn on radio", "open window", "put on hat"}
    some = [a for a in activities.ACTIVITIES if a.name in names]
    problems = []
    while len(problems) < 3:
        found = gathering.problem(rng, some[len(problems)], nodes=24)
        problems += [found] if found else []
    solved = gathering.solve(problems, jax.random.key(0), planner="breadth_first", depth=3)
    assert solved
    for s in solved:
        plan = sentences.plan_sentences(s.script, s.problem.graph)
        done = grounding.execute(plan, s.problem.graph, s.problem.world, s.problem.goal)
        assert done.executable
        assert done.met.all()
        assert set(s.problem.items) <= set(s.given)
        extra = gathering.distractors(rng, s.problem.graph, s.given)
        assert not set(extra) & set(s.given)
        assert len(extra) <= 3
    assert gathering.solve([], jax.random.key(0)) == []
    with pytest.raises(ValueError, match="planner is 'greedy', allowed: one of search, breadth"):
        gathering.solve(problems, jax.random.key(0), planner="greedy")
