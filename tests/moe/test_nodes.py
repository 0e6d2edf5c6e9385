"""Nodes with two bandwidths, overlap, and which mode is cheaper: against event queues, loops and closed forms."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.moe.placement import cost, modes, planner, simulator, work
from jaxgen.moe.placement.simulator import Device, Shape
from tests.moe.timeline import Timeline

FLAT = Device(flops=1e12, bandwidth=1e9, latency=1e-5, utilisation=0.5)
NODES = dataclasses.replace(FLAT, node=4, near=5e9)
SHAPE = Shape(width=64, hidden=128, tokens=1000, dense=1e5)


def random_slots(seed, devices=8, per_device=3, experts=10):
    rng = np.random.default_rng(seed)
    more = rng.integers(0, experts, devices * per_device - experts)
    return rng.permutation(np.concatenate([np.arange(experts), more])).reshape(devices, per_device)


def random_counts(seed, experts=10, total=8000):
    rng = np.random.default_rng(seed)
    return rng.multinomial(total, rng.dirichlet(np.ones(experts)))


def by_events(layers, shape, device):
    """One task of one device at a time, each resource in the order in which tasks become ready."""
    devices = len(layers[0].tokens)
    line, everyone = Timeline(3 * devices), range(devices)
    speed, row = device.flops * device.utilisation, shape.width * shape.bytes

    def both(a, b):
        return [line.add(-1, 0.0, [x, y]) for x, y in zip(a, b, strict=True)]

    def compute(after, flops):
        return [line.add(g, float(flops[g]) / speed, [after[g]]) for g in everyone]

    def one_link(after, size, first, bandwidth):
        wait = device.latency
        return [
            line.add(first + g, float(size[g]) / bandwidth + wait, [after[g]]) for g in everyone
        ]

    def link(after, far, near):
        if near is None:
            return one_link(after, far, devices, device.bandwidth)
        ends = one_link(after, far, devices, device.bandwidth) if far.any() else after
        if near.any():
            ends = both(ends, one_link(after, near, 2 * devices, device.near))
        return ends

    def exchange(after, w):
        together = line.add(-1, 0.0, after)
        return link([together] * devices, w.moved * row, w.near and w.near.moved * row)

    dense = np.full(devices, shape.tokens * shape.dense)
    start = line.add(-1, 0.0)
    state = [start] * devices

    def fetch(after, w):
        gets = [a.fetched + (0 if a.moving is None else a.moving) for a in (w, w.near) if a]
        return link(after, *[*gets, None][:2]) if any(g.any() for g in gets) else [start] * devices

    weights = fetch(state, layers[0])
    for w, after in zip(layers, [*layers[1:], None], strict=True):
        state = exchange(compute(state, dense), w)
        coming = None if after is None else fetch(state, after)
        state = compute(both(state, weights), w.tokens * 2 * shape.weights)
        weights = coming
        state = exchange(state, w)
    for w in reversed(layers):
        state = compute(exchange(state, w), w.tokens * 4 * shape.weights)
        sums = [a.sync + a.fetched for a in (w, w.near) if a]
        if any(s.any() for s in sums):
            link(state, *[*sums, None][:2])
        state = compute(exchange(state, w), 2 * dense)
    return line.run()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), device=st.sampled_from([FLAT, NODES]), sharded=st.booleans())
def test_a_step_takes_what_its_events_take(seed, device, sharded):
    layers = []
    for i in range(3):
        slots, counts = random_slots(seed + i), random_counts(seed + i)
        if sharded:
            layers.append(work.of_sharded(slots, counts, SHAPE, "even", device.node))
            continue
        one = work.of_placement(slots, counts, SHAPE, "even", device.node)
        layers.append(work.with_moving(one, random_slots(seed + 7 + i), slots, SHAPE, device.node))
    got = simulator.step_seconds(layers, SHAPE, device)
    assert got == pytest.approx(by_events(layers, SHAPE, device), rel=1e-9)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), node=st.sampled_from([1, 2, 4, 8]))
def test_nodes_divide_what_passes_over_one_link(seed, node):
    slots, counts = random_slots(seed), random_counts(seed)
    flat = work.of_placement(slots, counts, SHAPE)
    some = work.of_placement(slots, counts, SHAPE, "even", node)
    np.testing.assert_allclose(some.moved + some.near.moved, flat.moved, atol=1e-6)
    np.testing.assert_allclose(some.tokens, flat.tokens)
    assert (some.sync <= flat.sync + 1e-6).all()
    # All in one node, or none: one link has it all.
    if node == 8:
        np.testing.assert_allclose(some.moved, 0.0, atol=1e-6)
        np.testing.assert_allclose(some.sync, 0.0)
        np.testing.assert_allclose(some.near.sync, flat.sync)
    if node == 1:
        np.testing.assert_allclose(some.near.moved, 0.0, atol=1e-6)
        np.testing.assert_allclose(some.sync, flat.sync)
    whole = work.of_sharded(slots, counts, SHAPE)
    cut = work.of_sharded(slots, counts, SHAPE, "even", node)
    np.testing.assert_allclose(cut.fetched + cut.near.fetched, whole.fetched)
    np.testing.assert_allclose(cut.fetched, 3 * SHAPE.weights * SHAPE.bytes * (8 - node) / 8)
    old = random_slots(seed + 1)
    moved = work.with_moving(some, old, slots, SHAPE, node)
    np.testing.assert_allclose(
        moved.moving + moved.near.moving, work.moving(old, slots, SHAPE), atol=1e-6
    )


def test_tokens_and_sums_of_nodes_by_hand():
    """Two nodes of two. Expert 0 on devices 0, 1 and 2, expert 1 on 3: 1,200 and 400 tokens, 300 and 100 of each device."""
    slots, counts = np.array([[0], [0], [0], [1]]), np.array([1200, 400])
    got = work.of_placement(slots, counts, SHAPE, "even", 2)
    # 400 each of expert 0: 300 of their own. What devices 2 and 3 have of it beyond device 2's own, 300 of
    # device 3's, goes 100 to each; expert 1 gets 100 of device 2's within the node and 200 of the others.
    np.testing.assert_allclose(got.tokens, [400, 400, 400, 400])
    np.testing.assert_allclose(got.near.moved, [0, 0, 100, 100])
    np.testing.assert_allclose(got.moved, [100, 100, 0, 200])
    size = SHAPE.weights * SHAPE.bytes
    np.testing.assert_allclose(got.near.sync, np.array([1.0, 1.0, 0.0, 0.0]) * size)
    np.testing.assert_allclose(got.sync, np.array([0.5, 0.5, 1.0, 0.0]) * size)


def test_a_fast_network_inside_of_nodes_helps():
    slots, counts = random_slots(0), random_counts(0)
    seconds = [
        simulator.step_seconds([work.of_placement(slots, counts, SHAPE, "even", d.node)], SHAPE, d)
        for d in (FLAT, NODES)
    ]
    assert seconds[1] < seconds[0]


@pytest.mark.parametrize("bandwidth", [1e9, 1e7])
@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_pieces_by_hand(bandwidth, pieces):
    """Four devices, one expert each, equal loads: experts compute one piece while another is on the link."""
    device = dataclasses.replace(FLAT, bandwidth=bandwidth)
    one = work.of_placement(planner.initial(4, 4, 1), np.full(4, 1000), SHAPE)
    link = 750 * 64 * 2 / pieces / bandwidth + device.latency
    want = 3 * 1000 * 1e5 / 5e11
    for passes in (2, 4):
        experts = 1000 * passes * SHAPE.weights / pieces / 5e11
        if experts >= link:  # the last piece goes back when all are computed
            want += 2 * link + pieces * experts
        else:  # the link is never idle, but for what a single piece waits for
            want += 2 * pieces * link + (experts if pieces == 1 else 0.0)
    got = simulator.step_seconds([one], SHAPE, device, pieces=pieces)
    assert got == pytest.approx(want)


@pytest.mark.parametrize(("twice", "times"), [(False, 2), (True, 3)])
def test_weights_that_come_twice_cost_three_passes(twice, times):
    """Where the links have all the work, a step takes its bytes."""
    shape, quick = Shape(64, 50_000, 10), dataclasses.replace(FLAT, flops=1e18, latency=0.0)
    slots, counts = random_slots(1), random_counts(1, total=80)
    layers = [work.of_sharded(slots, counts, shape, twice=twice)] * 3
    got = simulator.step_seconds(layers, shape, quick)
    each = 3 * shape.weights * shape.bytes * 7 / 8 / 1e9
    assert got == pytest.approx(3 * times * each, rel=1e-3)


def test_weights_come_under_the_layer_before():
    """With enough computation, of five restores and three returns only the first and the last are waited for."""
    slots = planner.initial(8, 8, 1)
    shape = dataclasses.replace(SHAPE, tokens=10_000)
    counts = np.full(8, 10_000)
    quiet = dataclasses.replace(FLAT, latency=0.0)
    still = work.of_placement(slots, counts, shape)
    dealt = work.of_sharded(slots, counts, shape, twice=True)
    want, got = (simulator.step_seconds([w] * 3, shape, quiet, pieces=4) for w in (still, dealt))
    one = dealt.fetched[0] / 1e9
    assert one < shape.tokens * 1e5 / 5e11 / 4  # a quarter of the dense work at most
    assert want <= got <= want + 8 * one


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 999),
    device=st.sampled_from([FLAT, NODES]),
    changed=st.integers(0, 3),
    state=st.sampled_from([1, 3]),
    dense=st.sampled_from([0.0, 3e5]),
)
def test_the_cheaper_mode_is_so_in_the_simulator(seed, device, changed, state, dense):
    """Equal loads, so that nothing else differs; the formula's difference is the simulator's."""
    device = dataclasses.replace(device, latency=0.0)
    shape = dataclasses.replace(SHAPE, state=state, dense=dense, hidden=2048)
    slots = random_slots(seed)
    even = np.full(8, 100.0)
    hidden = shape.tokens * dense / (device.flops * device.utilisation)
    kept = work.of_placement(slots, np.zeros(10, int), shape, "even", device.node)
    kept = dataclasses.replace(
        kept, tokens=even, moving=np.full(8, changed * shape.weights * 4.0 * state)
    )
    cut = work.of_sharded(slots, np.zeros(10, int), shape, "even", device.node)
    cut = dataclasses.replace(cut, tokens=even)
    found = {
        "moving": simulator.step_seconds([kept], shape, device),
        "sharded": simulator.step_seconds([cut], shape, device),
    }
    options = {"changed": float(changed), "hidden": hidden}
    want = modes.link_seconds(slots, 10, shape, device, **options)
    best = modes.cheaper(slots, 10, shape, device, **options)
    slack = 2 * hidden  # sums of gradients may end under the dense backward pass
    assert abs((found["moving"] - found["sharded"]) - (want["moving"] - want["sharded"])) <= (
        slack + 1e-9
    )
    if abs(want["moving"] - want["sharded"]) > slack + 1e-9:
        assert best == min(found, key=found.get)


def test_break_even_is_where_both_take_as_long():
    for device in (FLAT, NODES):
        slots = random_slots(2)
        q = modes.break_even(slots, 10, SHAPE, device)
        assert q > 0
        both = modes.link_seconds(slots, 10, SHAPE, device, changed=q)
        assert both["moving"] == pytest.approx(both["sharded"])
        assert modes.cheaper(slots, 10, SHAPE, device, changed=q * 1.01) == "sharded"
        assert modes.cheaper(slots, 10, SHAPE, device, changed=q * 0.99) == "moving"
        assert modes.break_even(slots, 10, SHAPE, device, passes=2) > q
    # One copy of each expert: no sums, S (W + G) (N - 1) / N bytes against q O.
    single = planner.initial(8, 8, 1)
    want = 2 * 2 * (7 / 8) / 12  # of 2 bytes, 3 numbers of 4 bytes
    assert modes.break_even(single, 8, SHAPE, FLAT) == pytest.approx(want)


def test_changes_count_the_slots_of_the_busiest_device():
    a = np.array([[0, 1], [2, 3]])
    b = np.array([[0, 2], [1, 3]])
    c = np.array([[3, 1], [1, 3]])
    assert modes.changes([a, b, c]) == pytest.approx((1 + 2) / 2)
    assert modes.changes([a, a]) == 0.0


def test_bad_nodes():
    with pytest.raises(
        ValueError, match=r"node, near is \[4.0, 0.0\], allowed: both 0, or both above 0"
    ):
        dataclasses.replace(FLAT, node=4)
    with pytest.raises(ValueError, match="node is 3, allowed: a divisor of 8, the devices"):
        work.of_placement(random_slots(0), random_counts(0), SHAPE, "even", 3)
    one = work.of_placement(random_slots(0), random_counts(0), SHAPE)
    with pytest.raises(ValueError, match="pieces is 0, allowed: at least 1"):
        simulator.step_seconds([one], SHAPE, FLAT, pieces=0)
    with pytest.raises(ValueError, match="passes is 3, allowed: 1 or 2"):
        modes.break_even(random_slots(0), 10, SHAPE, FLAT, passes=3)
    with pytest.raises(ValueError, match="changed is -1"):
        modes.cheaper(random_slots(0), 10, SHAPE, FLAT, changed=-1.0)
    assert cost.Costs(1.0, 1.0, 1.0, 1.0, 1.0).node == 0
