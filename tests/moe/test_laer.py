"""LAER's and EPLB's planners: against loops over devices, DeepSeek's published example, and plain counting."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.moe.placement import cost, hierarchical, laer, planner, policies, simulator, traffic

COSTS = cost.Costs(
    seconds_per_token=1e-6,
    token_bytes=1e3,
    expert_bytes=1e6,
    state_bytes=4e6,
    bandwidth=1e9,
    node=4,
    near=3e9,
)


def zipf(seed, experts, exponent=1.0, total=100_000):
    rng = np.random.default_rng(seed)
    p = rng.permutation(1.0 / np.arange(1, experts + 1) ** exponent)
    return rng.multinomial(total, p / p.sum())


def routed(slots, counts, node):
    """Tokens [source, expert, device], one source and one expert at a time: own node, else all, evenly."""
    devices, experts = len(slots), len(counts)
    out = np.zeros((devices, experts, devices))
    for source in range(devices):
        for e in range(experts):
            copies = [g for g in range(devices) for s in slots[g] if s == e]
            own = [g for g in copies if g // node == source // node]
            for g in own or copies:
                out[source, e, g] += counts[e] / devices / len(own or copies)
    return out


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), node=st.sampled_from([1, 2, 4, 8]))
def test_tokens_and_score_are_those_of_loops(seed, node):
    rng = np.random.default_rng(seed)
    grid = np.concatenate([np.arange(6), rng.integers(0, 6, 10)])
    slots, counts = rng.permutation(grid).reshape(8, 2), zipf(seed, 6)
    sent = routed(slots, counts, node)
    np.testing.assert_allclose(laer.node_first(slots, counts, node), sent.sum(0).T, atol=1e-6)
    costs = cost.Costs(1e-6, 1e3, 1e6, 4e6, 1e9, node=node, near=3e9)
    comm = 0.0
    for i in range(8):
        for g in range(8):
            speed = np.inf if i == g else 3e9 if i // node == g // node else 1e9
            comm += sent[i, :, g].sum() * 1e3 / speed
    comp = sent.sum((0, 1)).max() * 1e-6
    assert laer.score(slots, counts, costs) == pytest.approx(4 * comm + comp)
    again = laer.score(slots, counts, costs, recompute=True)
    assert again == pytest.approx(4 * comm + comp * 4 / 3)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 999),
    nodes=st.sampled_from([1, 2, 4]),
    per_device=st.integers(1, 5),
    experts=st.integers(1, 8),
)
def test_every_placement_is_feasible(seed, nodes, per_device, experts):
    counts, total = zipf(seed, experts, 1.2), 8 * per_device
    many = laer.replicas(counts, total, nodes)
    assert many.sum() == total
    assert (many >= (nodes if nodes * experts <= total else 1)).all()
    if nodes == 1:  # one at a time to the heaviest: nothing lowers the heaviest replica further
        best = planner.bound(counts, 8, per_device) * counts.sum() / 8
        assert (counts / many).max() <= best * (1 + 1e-9)
    slots = laer.spread(many, counts, 8, per_device, 8 // nodes)
    planner.check(slots, experts)
    assert np.array_equal(np.bincount(slots.ravel(), minlength=experts), many)
    costs = cost.Costs(1e-6, 1e3, 1e6, 4e6, 1e9, node=8 // nodes, near=3e9)
    best = laer.place(counts, 8, per_device, costs)
    planner.check(best, experts)
    assert laer.score(best, counts, costs) <= laer.score(slots, counts, costs) * (1 + 1e-9)


def test_replicas_are_spread_over_nodes_first():
    counts = zipf(3, 16)
    slots = laer.place(counts, 16, 8, COSTS)
    inside = cost.replicas(slots, 16).reshape(4, 4, 16).sum(1)
    assert (inside >= 1).all()  # no token leaves its node
    assert (inside.max(0) - inside.min(0) <= 1).all()
    even = planner.initial(16, 16, 8)
    assert laer.score(slots, counts, COSTS) < laer.score(even, counts, COSTS)
    assert cost.balance_ratio(slots, counts) < 1.1 < cost.balance_ratio(even, counts)


def test_few_slots_and_uneven_loads():
    """16 experts in 64 slots on 4 nodes: one replica a node fills them all. Without that, loads are level."""
    counts, costs = zipf(0, 16), dataclasses.replace(COSTS, token_bytes=50.0)
    published, ours = (
        laer.place(counts, 16, 4, costs, as_published=flag) for flag in (True, False)
    )
    assert (np.bincount(published.ravel()) == 4).all()
    assert cost.balance_ratio(published, counts) > 1.2
    assert cost.balance_ratio(ours, counts) < 1.1
    assert np.array_equal(  # where slots do not suffice for that: as published
        laer.place(counts, 16, 2, costs), laer.place(counts, 16, 2, costs, as_published=False)
    )
    at_once = [laer.score(p, counts, costs, at_once=True) for p in (published, ours)]
    assert at_once[1] < at_once[0]


def test_equal_loads_get_equal_replicas():
    slots = laer.place(np.full(8, 1000), 8, 4, COSTS)
    assert (np.bincount(slots.ravel()) == 4).all()
    assert cost.balance_ratio(slots, np.full(8, 1000)) == pytest.approx(1.0)


def test_eplb_gives_its_published_example():
    """Of github.com/deepseek-ai/EPLB: two layers, 12 experts in 4 groups, 16 replicas, 2 nodes, 8 devices."""
    loads = np.array(
        [
            [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
            [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
        ]
    )
    want = [
        [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
        [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
    ]
    for tokens, slots in zip(loads, want, strict=True):
        got = hierarchical.place(tokens, 8, 2, groups=4, nodes=2)
        assert got.ravel().tolist() == slots


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), groups=st.sampled_from([4, 8]))
def test_groups_stay_in_their_nodes(seed, groups):
    counts = zipf(seed, 16)
    slots = hierarchical.place(counts, 8, 4, groups=groups, nodes=4)
    planner.check(slots, 16)
    there = cost.replicas(slots, 16).reshape(4, 2, 16).sum(1) > 0
    assert (there.sum(0) == 1).all()
    node = there.argmax(0).reshape(groups, -1)
    assert (node == node[:, :1]).all()
    # Nodes that do not divide the groups: one node with all.
    alone = hierarchical.place(counts, 8, 4, groups=groups, nodes=3)
    assert np.array_equal(alone, hierarchical.place(counts, 8, 4, groups=1, nodes=1))
    got, known = (cost.balance_ratio(p, counts) for p in (alone, planner.eplb(counts, 8, 4)))
    assert got == pytest.approx(known)


def test_moving_average():
    history = np.array([[[80, 0]], [[0, 80]], [[40, 40]]])
    # Weights 1, 2, 4 of 7.
    want = np.rint(np.array([[80 + 160, 160 + 160]]) / 7)
    assert np.array_equal(traffic.moving_average(history, 0.5), want)
    assert np.array_equal(traffic.moving_average(history[:1], 0.9), history[0])


def test_averages_level_out_noise():
    """Counts that only chance changes: the placement for their average serves the next step better."""
    counts = traffic.zipf(12, 1, 16, 2000, exponent=1.0, seed=0)
    shape = simulator.Shape(64, 128, 1000)
    device = simulator.Device(1e12, 1e9, node=4, near=3e9)
    ratios = {}
    for keep in (0.0, 0.8):
        rules = policies.Rules(shape.costs(device), average=keep)
        _, places = policies.replay("laer", counts, 8, 4, shape, device, rules)
        late = zip(places[6:], counts[6:], strict=True)
        ratios[keep] = np.mean([cost.balance_ratio(p[0], c[0]) for p, c in late])
    assert ratios[0.8] < ratios[0.0] - 0.01


def test_bad_input():
    with pytest.raises(ValueError, match="experts is 9, allowed: at most 8, the slots"):
        laer.place(np.ones(9), 4, 2, COSTS)
    with pytest.raises(ValueError, match="node is 4, allowed: a divisor of 6, the devices"):
        laer.place(np.ones(4), 6, 2, COSTS)
    with pytest.raises(ValueError, match="groups is 3, allowed: a divisor of 8, the experts"):
        hierarchical.place(np.ones(8), 6, 2, groups=3, nodes=3)
    with pytest.raises(ValueError, match="experts is 9, allowed: at most 8, the slots"):
        hierarchical.place(np.ones(9), 4, 2, groups=1, nodes=1)
    with pytest.raises(ValueError, match=r"average is 1.0, allowed: 0 or more, below 1"):
        policies.Rules(COSTS, average=1.0)
