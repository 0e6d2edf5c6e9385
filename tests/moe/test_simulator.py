"""The simulator against closed forms, and traffic against what it should be."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.errors import ConfigError
from jaxgen.moe.placement import planner, policies, simulator, traffic
from jaxgen.moe.placement.simulator import Device, Shape, Work
from tests.moe.timeline import Timeline

DEVICE = Device(flops=1e12, bandwidth=1e9, latency=1e-5, utilisation=0.5)
SHAPE = Shape(width=64, hidden=128, tokens=1000, dense=1e5)


def test_one_device_is_pure_compute():
    counts = np.array([[300, 700], [500, 500]])
    slots = planner.initial(2, 1, 2)
    works = [simulator.of_placement(slots, row, SHAPE) for row in counts]
    flops = 2 * 1000 * (3 * 1e5 + 6 * SHAPE.weights)
    assert simulator.step_seconds(works, SHAPE, DEVICE) == pytest.approx(flops / 5e11)
    assert simulator.ideal(counts, 1, SHAPE, DEVICE) == pytest.approx(flops / 5e11)


def test_even_load_is_compute_and_four_exchanges():
    """Four devices, one expert each, equal loads: nothing overlaps, so times add up."""
    counts = np.full(4, 1000)
    work = simulator.of_placement(planner.initial(4, 4, 1), counts, SHAPE)
    assert np.allclose(work.moved, 750)
    assert not work.sync.any()
    compute = 1000 * (3 * 1e5 + 6 * SHAPE.weights) / 5e11
    exchange = 4 * (750 * 64 * 2 / 1e9 + 1e-5)
    got = simulator.step_seconds([work], SHAPE, DEVICE)
    assert got == pytest.approx(compute + exchange)


def test_gradient_sums_hide_behind_the_backward_pass():
    """Two devices hold both experts: nothing is exchanged; the sum of one layer overlaps."""
    counts = np.array([1000, 1000])
    work = simulator.of_placement(np.array([[0, 1], [0, 1]]), counts, SHAPE)
    assert np.allclose(work.moved, 0)
    assert np.allclose(work.sync, 2 * SHAPE.weights * 2)
    slow = dataclasses.replace(DEVICE, latency=0.0)
    sync = work.sync[0] / 1e9
    compute = 2 * 1000 * (3 * 1e5 + 6 * SHAPE.weights) / 5e11
    got = simulator.step_seconds([work, work], SHAPE, slow)
    # The first layer's backward pass ends, then its sum; the second layer's sum may still be going on.
    tail = 1000 * 2 * 1e5 / 5e11
    assert compute < got <= compute + 2 * sync
    assert got == pytest.approx(max(compute - tail + sync, compute), rel=0.5)


def test_timeline_serves_in_the_order_of_readiness():
    line = Timeline(2)
    a = line.add(0, 3.0)
    b = line.add(1, 1.0)
    late = line.add(1, 5.0, [a])
    early = line.add(1, 2.0, [b])
    line.add(-1, 0.0, [late, early])
    assert line.run() == 8.0
    with pytest.raises(ValueError, match="resource, seconds are 2"):
        line.add(2, 1.0)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), devices=st.sampled_from([2, 4, 8]))
def test_no_policy_beats_the_ideal_or_loses_tokens(seed, devices):
    counts = traffic.zipf(4, 2, 16, 4000, exponent=1.2, seed=seed)
    rules = policies.Rules(SHAPE.costs(DEVICE), planner.Policy(1.0, 1000), every=2)
    for name in policies.POLICIES:
        steps, places = policies.replay(name, counts, devices, 16, SHAPE, DEVICE, rules)
        for works, slots, row in zip(steps, places, counts, strict=True):
            for one, where, tokens in zip(works, slots, row, strict=True):
                planner.check(where, 16)
                if name != "capacity":
                    assert one.tokens.sum() == pytest.approx(tokens.sum())
                    assert one.lost == 0
            if name != "capacity":
                seconds = simulator.step_seconds(works, SHAPE, DEVICE)
                assert seconds >= simulator.ideal(row, devices, SHAPE, DEVICE) * (1 - 1e-9)


def test_capacity_computes_its_buffers_and_drops_the_rest():
    counts = np.array([700, 100, 100, 100])
    slots = planner.initial(4, 2, 2)
    work = simulator.of_capacity(slots, counts, SHAPE, 1.2)
    assert np.allclose(work.tokens, 600)
    assert work.lost == 400


def test_shadows_pay_only_where_they_help():
    even = simulator.of_shadows(planner.initial(4, 4, 1), np.full(4, 1000), SHAPE, DEVICE)
    assert not even.fetched.any()
    fast = dataclasses.replace(DEVICE, bandwidth=1e12)
    skew = simulator.of_shadows(
        planner.initial(4, 4, 1), np.array([9000, 500, 300, 200]), SHAPE, fast
    )
    assert skew.fetched[0] >= SHAPE.weights * 2
    assert skew.tokens.sum() == pytest.approx(10_000)
    assert skew.tokens.max() < 4000


def test_flexmoe_follows_a_load_that_stays():
    counts = traffic.zipf(12, 1, 16, 100_000, exponent=1.0, seed=3)
    cheap = dataclasses.replace(SHAPE.costs(DEVICE), state_bytes=1.0, expert_bytes=1.0)
    rules = policies.Rules(cheap, planner.Policy(1.02, 100))
    _, places = policies.replay("flexmoe", counts, 8, 4, SHAPE, DEVICE, rules)
    from jaxgen.moe.placement import cost

    assert cost.balance_ratio(places[0][0], counts[0, 0]) > 1.2
    assert cost.balance_ratio(places[-1][0], counts[-1, 0]) < 1.05


def test_sharded_masters_cost_the_same_under_any_placement():
    """S W (N - 1) / N each way for S slots, and neither sums nor moves."""
    counts = np.array([900, 50, 30, 20])
    rules = policies.Rules(SHAPE.costs(DEVICE))
    for slots in (np.array([[0, 1], [0, 0], [2, 3], [0, 0]]), planner.initial(4, 4, 2)):
        other = planner.initial(4, 4, 2)[::-1]
        work = policies.work("symi", slots, counts, SHAPE, DEVICE, before=other)
        assert np.allclose(work.fetched, 2 * SHAPE.weights * SHAPE.bytes * 3 / 4)
        assert not work.sync.any()
        assert work.moving is None
        assert work.tokens.sum() == pytest.approx(1000)
    # Placed anew in each step, for the counts of the last one that is over.
    many = np.stack([counts, counts[::-1], counts])[:, None] * 1000
    _, places = policies.replay("symi", np.repeat(many, 3, 0), 4, 2, SHAPE, DEVICE, rules)
    assert np.array_equal(places[5][0], planner.eplb(many[1, 0] + 1, 4, 2))
    assert np.array_equal(places[8][0], planner.eplb(many[2, 0] + 1, 4, 2))


def test_unknown_policy():
    rules = policies.Rules(SHAPE.costs(DEVICE))
    with pytest.raises(ValueError, match="policy is 'x', allowed: capacity"):
        policies.replay("x", np.ones((1, 1, 2), int), 1, 2, SHAPE, DEVICE, rules)


def test_shadow_slots():
    got = policies.shadows(np.array([1, 9, 2, 8]), 2, 4)
    assert got.tolist() == [[0, 1, 1, 3], [2, 3, 1, 3]]
    with pytest.raises(ValueError, match="experts is 3, allowed: a multiple of 2"):
        policies.shadows(np.arange(3), 2, 4)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), tokens=st.integers(1, 10_000))
def test_scaled_traffic_has_exactly_so_many_tokens(seed, tokens):
    counts = traffic.zipf(3, 2, 7, 50, exponent=1.0, seed=seed)
    wide = traffic.scaled(counts, tokens)
    assert (wide.sum(-1) == tokens).all()
    assert np.abs(wide - counts * tokens / 50).max() < 1


def test_invented_traffic():
    kind = {"exponent": 1.0, "seed": 0}
    still = traffic.zipf(50, 2, 8, 10_000, **kind)
    shares = np.sort(still.mean(0) / 10_000, -1)[:, ::-1]
    want = 1 / np.arange(1, 9)
    assert np.allclose(shares, want / want.sum(), atol=4 * np.sqrt(0.25 / 500_000))
    drift = traffic.drifting(50, 1, 8, 10_000, period=10, **kind)
    early, late = drift[:3].mean((0, 1)), drift[-3:].mean((0, 1))
    assert np.corrcoef(early, late)[0, 1] < 0.9
    burst = traffic.bursty(200, 1, 8, 10_000, rate=0.05, size=20.0, length=3, **kind)
    assert burst.max() > still.max() * 1.5
    assert (burst.sum(-1) == 10_000).all()


def test_traffic_files(tmp_path):
    np.savez(tmp_path / "a.npz", counts=np.ones((2, 1, 4), int))
    assert traffic.read(tmp_path / "a.npz").shape == (2, 1, 4)
    np.savez(tmp_path / "b.npz", counts=np.ones((2, 4)))
    for name in ("b.npz", "missing.npz"):
        with pytest.raises(ConfigError, match="traffic"):
            traffic.read(tmp_path / name)


def test_work_of_replicas_goes_to_the_device_itself_first():
    """Expert 0 on both devices: each keeps its own half; expert 1 lies on one."""
    work: Work = simulator.of_placement(np.array([[0, 1], [0, 0]]), np.array([600, 400]), SHAPE)
    assert np.allclose(work.tokens, [200 + 400, 400])
    # Device 0 gets the other's 200 tokens of expert 1; device 1 its own 300 and 100 of expert 0.
    assert np.allclose(work.moved, [200, 100])
