import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import ConfigError
from jaxgen.world import actions, apartments, graph, planning
from jaxgen.world.rules import E2WM, REASONS, TABLE, VIRTUALHOME
from tests.world.houses import house, same

step = jax.jit(actions.step, static_argnames="rules")


def last(script, *extra, rules=E2WM, **changes):
    """Runs a script; reason of its last line, and the graph after it."""
    source = house(*extra, **changes)
    world = graph.load(source)
    reason = 0
    for action in actions.parse(script, world):
        assert reason == 0
        before = world
        world, reason = step(world, action, rules=rules)
    if int(reason):  # to the bit as it was
        assert same(before, world)
    return REASONS[int(reason)], graph.dump(world, source)


WALK_TABLE, GRAB_CUP = "[WALK] <table> (6)", "[GRAB] <cup> (7)"
WALK_BED, WALK_FRIDGE = "[WALK] <bed> (8)", "[WALK] <fridge> (5)"
SIT = [WALK_BED, "[SIT] <bed> (8)"]
NEAR = ((3, "CLOSE", 10), (10, "CLOSE", 3))
HOLDS = (*NEAR, (3, "HOLDS_RH", 10))
FULL = ((3, "HOLDS_RH", 7), (3, "HOLDS_LH", 9))

# reason, script, extra nodes, states, edges
REFUSED = [
    ("not_found", ["[WALK] <lamp> (99)"], (), {}, ()),
    ("sitting", [*SIT, "[WALK] <table> (6)"], (), {}, ()),
    ("sitting", [*SIT, "[SIT] <bed> (8)"], (), {}, ()),
    ("door_closed", [WALK_BED], (), {4: ["CLOSED"]}, ()),
    ("no_path", ["[WALK] <attic> (11)"], (), {}, ()),
    ("not_grabbable", [WALK_TABLE, "[GRAB] <table> (6)"], (), {}, ()),
    ("not_close", [GRAB_CUP], (), {}, ()),
    (
        "inside_closed",
        [WALK_FRIDGE, "[GRAB] <milk> (10)"],
        ((10, "milk", "GRABBABLE"),),
        {},
        ((10, "INSIDE", 5),),
    ),
    ("no_free_hand", [WALK_FRIDGE, "[OPEN] <fridge> (5)"], (), {}, FULL),
    ("not_holding", [WALK_TABLE, "[PUTBACK] <cup> (7) <table> (6)"], (), {}, ()),
    (
        "container_closed",
        [WALK_TABLE, GRAB_CUP, WALK_FRIDGE, "[PUTIN] <cup> (7) <fridge> (5)"],
        (),
        {},
        (),
    ),
    ("not_grabbed", ["[PUTOBJBACK] <cup> (7)"], (), {}, ()),
    ("not_openable", [WALK_TABLE, "[OPEN] <table> (6)"], (), {}, ()),
    ("wrong_state", [WALK_FRIDGE, "[CLOSE] <fridge> (5)"], (), {}, ()),
    ("still_on", [WALK_FRIDGE, "[OPEN] <fridge> (5)"], (), {5: ["CLOSED", "ON"]}, ()),
    ("no_switch", ["[SWITCHON] <cup> (7)"], (), {}, ()),
    ("unplugged", [WALK_FRIDGE, "[SWITCHON] <fridge> (5)"], (), {5: ["OFF", "PLUGGED_OUT"]}, ()),
    ("no_plug", ["[PLUGIN] <cup> (7)"], (), {}, ()),
    ("not_sittable", [WALK_TABLE, "[SIT] <table> (6)"], (), {}, ()),
    ("occupied", ["[SIT] <stool> (10)"], ((10, "stool", "SITTABLE"),), {}, (*NEAR, (7, "ON", 10))),
    ("lying", [WALK_BED, "[LIE] <bed> (8)", "[LIE] <bed> (8)"], (), {}, ()),
    ("not_lieable", [WALK_TABLE, "[LIE] <table> (6)"], (), {}, ()),
    ("not_sitting", ["[STANDUP]"], (), {}, ()),
    ("not_lying_or_sitting", ["[SLEEP]"], (), {}, ()),
    ("not_facing", ["[LOOKAT] <cup> (7)"], (), {}, ()),
    ("not_lookable", ["[WATCH] <cup> (7)"], (), {}, ()),
    ("other_room", [WALK_BED, "[WATCH] <tv> (10)"], ((10, "tv", "LOOKABLE"),), {}, ()),
    ("empty_hands", [WALK_TABLE, "[WIPE] <table> (6)"], (), {}, ()),
    ("not_clothes", [WALK_TABLE, GRAB_CUP, "[PUTON] <cup> (7)"], (), {}, ()),
    ("not_worn", ["[PUTOFF] <cup> (7)"], (), {}, ()),
    ("not_pourable", ["[POUR] <book> (9) <cup> (7)"], (), {}, ()),
    ("not_recipient", ["[POUR] <cup> (7) <table> (6)"], (), {}, ()),
    ("not_drinkable", ["[DRINK] <book> (9)"], (), {}, ()),
    ("not_readable", ["[READ] <cup> (7)"], (), {}, ()),
    ("not_eatable", [WALK_TABLE, "[EAT] <table> (6)"], (), {}, ()),
    ("not_cuttable", ["[CUT] <egg> (10)"], ((10, "egg", "EATABLE"),), {}, NEAR),
    ("no_knife", ["[CUT] <egg> (10)"], ((10, "egg", "EATABLE CUTTABLE"),), {}, NEAR),
    ("not_movable", ["[PULL] <fridge> (5)"], (), {}, ()),
    ("not_person", ["[GREET] <cup> (7)"], (), {}, ()),
]


@pytest.mark.parametrize(("reason", "script", "extra", "states", "edges"), REFUSED)
def test_each_reason(reason, script, extra, states, edges):
    if reason == "no_path":
        extra = ((11, "attic", ""),)
        source = house(*extra)
        source["edges"] = [e for e in source["edges"] if e["from_id"] != 11]
        world = graph.load(source)
        assert REASONS[int(step(world, actions.parse(script, world)[0])[1])] == "no_path"
        return
    assert last(script, *extra, states=states, edges=edges)[0] == reason


def test_every_reason_is_tried():
    assert {r[0] for r in REFUSED} == set(REASONS) - {"done", "already_grabbed"}
    grab = [WALK_TABLE, GRAB_CUP, "[GRAB] <cup> (7)"]
    assert last(grab, rules=VIRTUALHOME)[0] == "already_grabbed"
    assert last(grab)[0] == "done"  # the second hand takes it


def state(found, node):
    return next(n["states"] for n in found["nodes"] if n["id"] == node)


def linked(found, *edge):
    return edge in {(e["from_id"], e["relation_type"], e["to_id"]) for e in found["edges"]}


def test_what_is_carried_lags_one_walk():
    found = last([WALK_TABLE, GRAB_CUP, WALK_BED])[1]
    assert linked(found, 3, "INSIDE", 2)
    assert linked(found, 7, "INSIDE", 1)
    assert linked(last([WALK_TABLE, GRAB_CUP, WALK_BED, WALK_BED])[1], 7, "INSIDE", 2)


def test_swaps_of_states():
    for verb, before, after in [
        ("OPEN", ["CLOSED"], ["OPEN"]),
        ("CLOSE", ["OPEN"], ["CLOSED"]),
        ("SWITCHON", ["OFF"], ["ON"]),
        ("SWITCHOFF", ["ON"], ["OFF"]),
        ("PLUGIN", ["PLUGGED_OUT"], ["PLUGGED_IN"]),
        ("PLUGOUT", ["ON", "PLUGGED_IN"], ["ON", "PLUGGED_OUT"]),
        ("WASH", ["DIRTY"], ["CLEAN"]),
    ]:
        reason, found = last([WALK_FRIDGE, f"[{verb}] <fridge> (5)"], states={5: before})
        assert (reason, state(found, 5)) == ("done", after), verb


def test_only_water_is_poured_away():
    pour = "[POUR] <{0}> (10) <cup> (7)"
    for name, kept in (("water", False), ("milk", True)):
        extra = ((10, name, "DRINKABLE"),)
        close = (*HOLDS, (3, "CLOSE", 7), (7, "CLOSE", 3))
        reason, found = last([pour.format(name)], *extra, edges=close)
        assert reason == "done"
        assert linked(found, 10, "INSIDE", 7)
        assert linked(found, 3, "HOLDS_RH", 10) == kept


def test_standing_up_under_both_rule_sets():
    reason, found = last([*SIT, "[STANDUP]"])
    assert (reason, state(found, 3), linked(found, 3, "ON", 8)) == ("done", [], False)
    assert last([*SIT, "[STANDUP]"], rules=VIRTUALHOME)[0] == "not_sitting"


def test_putting_back_that_cannot_be_done():
    script = [WALK_TABLE, GRAB_CUP, "[DROP] <cup> (7)", "[PUTOBJBACK] <cup> (7)"]
    assert last(script)[0] == "not_grabbed"
    script = [WALK_TABLE, GRAB_CUP, WALK_BED, "[PUTOBJBACK] <cup> (7)"]
    assert last(script)[0] == "not_close"
    assert last(script, rules=VIRTUALHOME)[0] == "done"
    back = [WALK_TABLE, GRAB_CUP, "[PUTOBJBACK] <cup> (7)"]
    assert linked(last(back)[1], 7, "ON", 6)


@pytest.mark.parametrize("rules", [E2WM, pytest.param(VIRTUALHOME, marks=pytest.mark.slow)])
def test_many_worlds_at_once_are_the_same_as_one_by_one(rules):
    rng = np.random.default_rng(0)
    graphs = [apartments.sample(rng, nodes=30) for _ in range(6)]
    worlds = [graph.load(g, nodes=32) for g in graphs]
    tables = [np.asarray(planning.table(w)) for w in worlds]
    scripts = jnp.asarray(np.stack([t[rng.integers(len(t), size=12)] for t in tables]))

    def lenient(world, script):
        return jax.lax.scan(lambda w, a: actions.step(w, a, rules), world, script)

    many = jax.jit(jax.vmap(lenient))(graph.stack(worlds), scripts)
    assert 0 < int((many[1] == 0).sum()) < many[1].size
    for i, world in enumerate(worlds):
        now = world
        for j, action in enumerate(scripts[i]):
            fine = bool(actions.valid(now, action[None], rules)[0])
            now, reason = step(now, action, rules=rules)
            assert int(reason) == int(many[1][i, j])
            assert fine == (int(reason) == 0)
        assert same(jax.tree.map(lambda leaf, i=i: leaf[i], many[0]), now)
        held = np.asarray(now.house.ids) >= 0
        assert held.sum() == 30  # nothing appears or vanishes


@pytest.mark.slow
def test_chunks_do_not_matter():
    world = graph.load(house())
    lines = [[WALK_TABLE, GRAB_CUP], [WALK_BED, GRAB_CUP], [WALK_FRIDGE, "[OPEN] <fridge> (5)"]]
    scripts = jnp.stack([actions.parse(script, world) for script in lines])
    worlds = graph.stack([world] * 3)
    once, twice = (actions.run_many(worlds, scripts, chunk=c) for c in (3, 2))
    assert once.executed.tolist() == [2, 1, 2]
    assert same(once, twice)


@pytest.mark.slow
def test_no_jit_is_the_same():
    world = graph.load(house())
    script = actions.parse([WALK_TABLE, GRAB_CUP], world)
    slow = fast = world
    for action in script:
        fast, _ = step(fast, action)
        with jax.disable_jit():
            slow, reason = actions.step(slow, action)
        assert int(reason) == 0
    assert same(fast, slow)


def test_lines_come_back():
    world = graph.load(house())
    names = {n["id"]: n["class_name"] for n in house()["nodes"]}
    lines = ["[WALK] <table> (6)", "[PUTIN] <cup> (7) <fridge> (5)", "[STANDUP]"]
    assert [actions.render(a, world, names) for a in actions.parse(lines, world)] == lines


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[FLY] <cup> (7)", "script line 1: verb is 'FLY', allowed: WALK, RUN"),
        ("[GRAB]", "script line 1: number of objects is 0, allowed: 1 objects"),
        ("[WALK] <cup> (7) <bed> (8)", "number of objects is 2"),
        ("grab the cup", "allowed: \\[Verb\\] <class>"),
        ("[WALK] <cup> (77)", "script line 1: id is 77, allowed: the id of a node"),
    ],
)
def test_lines_that_cannot_be_read(line, told):
    with pytest.raises(ConfigError, match=told):
        actions.parse([line], graph.load(house()), strict=True)


def test_the_table_has_the_verbs_of_the_simulator():
    tried = {line.split("]")[0][1:] for case in REFUSED for line in case[1]}
    rest = {"RUN", "FIND", "PUTIN", "RELEASE", "DROP", "PLUGOUT", "SWITCHOFF", "WAKEUP", "TURNTO"}
    rest |= {"POINTAT", "WASH", "RINSE", "SCRUB", "PUSH", "MOVE", "SQUEEZE", "TOUCH", "TYPE"}
    # The last one is not written in scripts: PUTOBJBACK of what was grabbed beside something.
    assert set(TABLE) == tried | rest | {"PUTBESIDE"}
