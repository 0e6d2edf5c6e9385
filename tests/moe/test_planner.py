"""Placement: every plan is feasible and no worse, the primitives undo each other, costs by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from jaxgen.moe.placement import cost, planner

COSTS = cost.Costs(
    seconds_per_token=1e-6, token_bytes=1e3, expert_bytes=1e6, state_bytes=4e6, bandwidth=1e9
)


@st.composite
def cases(draw):
    devices, slots = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    experts = draw(st.integers(1, devices * slots))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    weights = rng.permutation(1.0 / np.arange(1, experts + 1) ** draw(st.floats(0, 2)))
    tokens = rng.multinomial(4096, weights / weights.sum())
    extra = rng.integers(0, experts, devices * slots - experts)
    grid = rng.permutation(np.concatenate([np.arange(experts), extra]))
    return grid.reshape(devices, slots), tokens


@settings(deadline=None, max_examples=150)
@given(cases())
def test_every_plan_is_feasible_and_no_worse(case):
    slots, tokens = case
    before = slots.copy()
    new = planner.plan(slots, tokens, slack=0.0)
    assert np.array_equal(slots, before)
    planner.check(new, len(tokens))
    assert new.shape == slots.shape
    # All tokens are somewhere.
    assert cost.device_loads(new, tokens).sum() == pytest.approx(tokens.sum())
    ratio = cost.balance_ratio(slots, tokens)
    assert cost.balance_ratio(new, tokens) <= ratio * (1 + 1e-9)
    assert cost.balance_ratio(new, tokens) >= planner.bound(tokens, *slots.shape) * (1 - 1e-9)


@settings(deadline=None, max_examples=60)
@given(cases(), st.integers(0, 99))
def test_primitives_undo_each_other(case, seed):
    slots, tokens = case
    rng = np.random.default_rng(seed)
    a, b = ((int(rng.integers(slots.shape[0])), int(rng.integers(slots.shape[1]))) for _ in "ab")
    expert, old = int(rng.integers(len(tokens))), int(slots[a])
    if (slots == old).sum() > 1 or expert == old:
        new = planner.expand(slots, expert, a)
        planner.check(new, len(tokens))
        assert np.array_equal(planner.shrink(new, a, old), slots)
    else:
        with pytest.raises(ValueError, match=f"last replica of expert {old}"):
            planner.expand(slots, expert, a)
    assert np.array_equal(planner.migrate(planner.migrate(slots, a, b), a, b), slots)


@pytest.mark.parametrize("s", [0.5, 1.0, 1.5])
def test_zipf_loads_come_near_perfect_balance(s):
    """64 experts on 32 devices of 8 slots, where one slot can never hold more than a device's share."""
    tokens = np.random.default_rng(0).multinomial(
        65_536, (w := 1 / np.arange(1, 65) ** s) / w.sum()
    )
    start = planner.initial(64, 32, 8)
    new = planner.plan(start, tokens)
    assert cost.balance_ratio(start, tokens) > 1.3
    assert cost.balance_ratio(new, tokens) < 1.03


def exhaustive(tokens, devices, slots):
    """The lowest balance ratio of all placements, by mixed-integer programs over all replica counts."""
    best = np.inf
    experts = len(tokens)
    for extra in itertools.combinations_with_replacement(range(experts), devices * slots - experts):
        r = np.bincount([*range(experts), *extra], minlength=experts)
        # Variables: replicas of e on g, then the largest load.
        c = np.append(np.zeros(experts * devices), 1.0)
        whole = np.kron(np.eye(experts), np.ones(devices))
        room = np.kron(np.ones(experts), np.eye(devices))
        load = np.kron(tokens / r, np.eye(devices))
        zero, one = np.zeros((experts, 1)), np.zeros((devices, 1))
        found = optimize.milp(
            c,
            integrality=np.append(np.ones(experts * devices), 0),
            constraints=[
                optimize.LinearConstraint(np.hstack([whole, zero]), r, r),
                optimize.LinearConstraint(np.hstack([room, one]), slots, slots),
                optimize.LinearConstraint(np.hstack([load, one - 1]), -np.inf, 0),
            ],
        )
        best = min(best, found.fun)
    return best / (tokens.sum() / devices)


@pytest.mark.parametrize("seed", range(6))
def test_against_the_best_of_all_placements(seed):
    """Four experts, three devices of two slots: the bound holds, and plans come near the optimum."""
    rng = np.random.default_rng(seed)
    tokens = rng.multinomial(1000, rng.dirichlet(np.ones(4)))
    optimum = exhaustive(tokens, 3, 2)
    assert planner.bound(tokens, 3, 2) <= optimum + 1e-9
    for slots in (
        planner.plan(planner.initial(4, 3, 2), tokens),
        planner.eplb(tokens, 3, 2),
    ):
        planner.check(slots, 4)
        ratio = cost.balance_ratio(slots, tokens)
        assert optimum - 1e-9 <= ratio <= 1.25 * optimum


def test_bringing_replicas_together_saves_synchronisation():
    tokens = np.full(4, 1000)
    spread = np.array([[0, 1, 2, 3]] * 4)
    new = planner.plan(spread, tokens)
    assert cost.balance_ratio(new, tokens) == pytest.approx(1.0)
    assert COSTS.parts(new, tokens)["sync"] < COSTS.parts(spread, tokens)["sync"]


def test_costs_by_hand():
    slots, tokens = np.array([[0, 1], [0, 2]]), np.array([600, 100, 300])
    # Loads: 300 + 100 and 300 + 300.
    assert cost.device_loads(slots, tokens).tolist() == [400, 600]
    assert cost.balance_ratio(slots, tokens) == pytest.approx(1.2)
    parts = COSTS.parts(slots, tokens)
    assert parts["compute"] == pytest.approx(600e-6)
    assert parts["exchange"] == pytest.approx(4 * 0.5 * 600 * 1e3 / 1e9)
    assert parts["sync"] == pytest.approx(2 * 0.5 * 1e6 / 1e9)
    assert COSTS.step(slots, tokens) == pytest.approx(sum(parts.values()))
    assert COSTS.moving(slots, np.array([[0, 1], [2, 2]])) == pytest.approx(4e6 / 1e9)
    one = COSTS.parts(np.array([[0, 1, 2]]), tokens)
    assert one == {"compute": pytest.approx(1000e-6), "exchange": 0.0, "sync": 0.0}


def test_the_scheduler_moves_only_where_it_pays():
    tokens = np.array([3000, 10, 10, 10])
    slots = planner.initial(4, 2, 4)
    new = planner.next_placement(slots, tokens, COSTS)
    assert cost.balance_ratio(new, tokens) < cost.balance_ratio(slots, tokens) or (
        cost.balance_ratio(slots, tokens) <= 1.05
    )
    even = np.full(4, 100)
    assert planner.next_placement(slots, even, COSTS) is slots
    uneven = np.array([[0, 0, 0, 1], [2, 2, 2, 3]])
    dear = cost.Costs(1e-6, 1e3, 1e6, 1e15, 1e9)
    assert planner.next_placement(uneven, tokens, dear) is uneven
    patient = planner.Policy(horizon=100)
    assert planner.next_placement(uneven, tokens, COSTS, patient) is not uneven


def test_bad_input():
    with pytest.raises(ValueError, match="experts is 9, allowed: at most 8"):
        planner.initial(9, 2, 4)
    with pytest.raises(ValueError, match="no replica of expert 2"):
        planner.check(np.array([[0, 1], [1, 0]]), 3)
    with pytest.raises(ValueError, match="allowed: 0 to 1"):
        planner.check(np.array([[0, 2]]), 2)
    with pytest.raises(ValueError, match="bandwidth is 0"):
        cost.Costs(1.0, 1.0, 1.0, 1.0, 0.0)
    with pytest.raises(ValueError, match=r"threshold, horizon, slack are 0.5"):
        planner.Policy(threshold=0.5)
