"""Splits of experts' tokens over replicas: against the linear programme that they approximate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from jaxgen.moe.placement import cost, planner, policies, simulator, split, traffic

SCHEDULED = jax.jit(split.scheduled, static_argnames=("devices", "rounds"))
SHAPE = simulator.Shape(width=1024, hidden=4096, tokens=8192, k=2, dense=4e7)


def optimum(slots, counts):
    """max_g load_g of the best split, over the mean, by scipy's linear programming."""
    (devices, _), experts = slots.shape, len(counts)
    pairs = np.argwhere(cost.holds(slots, experts))
    n = len(pairs)
    sums = np.zeros((experts, n + 1))
    sums[pairs[:, 1], np.arange(n)] = 1.0
    loads = np.zeros((devices, n + 1))
    loads[pairs[:, 0], np.arange(n)] = 1.0
    loads[:, n] = -1.0
    goal = np.zeros(n + 1)
    goal[n] = 1.0
    scaled = counts / (counts.sum() / devices)
    found = optimize.linprog(
        goal, loads, np.zeros(devices), sums, scaled, bounds=[(0, None)] * (n + 1)
    )
    return found.fun


def random_slots(seed, devices, per_device, experts):
    rng = np.random.default_rng(seed)
    more = rng.integers(0, experts, devices * per_device - experts)
    slots = rng.permutation(np.concatenate([np.arange(experts), more]))
    return slots.reshape(devices, per_device)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 9999), skew=st.floats(0.0, 1.2), total=st.sampled_from([50, 10**4]))
def test_shares_are_a_split_and_never_worse_than_even(seed, skew, total):
    slots = random_slots(seed, 8, 3, 10)
    p = (1 + np.arange(10.0)) ** -skew
    counts = np.random.default_rng(seed).multinomial(total, p / p.sum())
    shares = np.asarray(SCHEDULED(jnp.asarray(slots.ravel()), jnp.asarray(counts), devices=8))
    assert (shares >= 0).all()
    np.testing.assert_allclose(np.bincount(slots.ravel(), shares, 10), 1.0, atol=1e-5)
    got, flat = (cost.balance_ratio(slots, counts, kind) for kind in ("scheduled", "even"))
    assert got <= flat + 1e-5
    assert got >= optimum(slots, counts) - 1e-5


@pytest.mark.parametrize("seed", range(6))
def test_within_a_percent_of_the_linear_programme(seed):
    """Random placements of 64 experts in 4 slots of 64 devices, under loads by Zipf's law."""
    slots = random_slots(seed, 64, 4, 64)
    p = (1 + np.arange(64.0)) ** -1.0
    counts = np.random.default_rng(seed).permutation(
        np.random.default_rng(seed).multinomial(10**6, p / p.sum())
    )
    got = cost.balance_ratio(slots, counts, "scheduled")
    assert got <= 1.01 * optimum(slots, counts)


def test_drifting_traffic_under_flexmoes_placements_is_level():
    """Placements follow counts two steps old; the split follows the step's own: 1.3 to at most 1.02."""
    devices, size = 64, {"steps": 12, "layers": 1, "experts": 64, "seed": 0}
    counts = traffic.drifting(
        **size, tokens=SHAPE.tokens * SHAPE.k * devices, exponent=1.0, period=50
    )
    device = simulator.DEVICES["a100"]
    rules = policies.Rules(SHAPE.costs(device), planner.Policy(1.05, 3), 5)
    _, places = policies.replay("flexmoe", counts, devices, 4, SHAPE, device, rules)
    ratios = {
        kind: np.mean(
            [
                cost.balance_ratio(s[0], c[0], kind)
                for s, c in zip(places[4:], counts[4:], strict=True)
            ]
        )
        for kind in split.SPLITS
    }
    assert ratios["even"] > 1.1
    assert ratios["scheduled"] <= 1.02


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 9999), total=st.sampled_from([0, 3, 1000, 10**7]))
def test_quotas_are_whole_and_lose_nothing(seed, total):
    rng = np.random.default_rng(seed)
    holds = np.sort(np.concatenate([np.arange(7), rng.integers(0, 7, 13)]))
    raw = rng.random(20) * (rng.random(20) < 0.7) + 1e-9
    shares = raw / np.bincount(holds, raw)[holds]
    counts = rng.multinomial(total, np.full(7, 1 / 7))
    got = np.asarray(
        split.quotas(jnp.asarray(shares, jnp.float32), jnp.asarray(holds), jnp.asarray(counts))
    )
    assert (got >= 0).all()
    np.testing.assert_array_equal(np.bincount(holds, got, 7), counts)
    assert np.abs(got - shares * counts[holds]).max() <= 1.0 + 1e-5 * total


def test_under_vmap_and_where_nothing_is_asked():
    slots = jnp.asarray(random_slots(0, 4, 2, 5).ravel())
    counts = jnp.asarray([[3, 1, 0, 5, 9], [0, 0, 0, 0, 0], [7, 0, 0, 0, 0]])
    run = functools.partial(split.scheduled, slots, devices=4)
    each = jnp.stack([run(c) for c in counts])
    np.testing.assert_allclose(jax.vmap(run)(counts), each, atol=1e-6)
    assert jnp.isfinite(each).all()


def test_the_simulator_knows_the_split():
    slots, counts = random_slots(3, 8, 3, 10), np.arange(1, 11) * 1000
    device = simulator.DEVICES["a100"]
    works = {
        kind: policies.work("flexmoe", slots, counts, SHAPE, device, split=kind)
        for kind in split.SPLITS
    }
    for kind, work in works.items():
        assert work.tokens.sum() == pytest.approx(counts.sum(), rel=1e-5)
        assert work.tokens.max() / work.tokens.mean() == pytest.approx(
            cost.balance_ratio(slots, counts, kind), rel=1e-5
        )
    even, level = (simulator.step_seconds([works[kind]], SHAPE, device) for kind in split.SPLITS)
    assert level < even


def test_devices_divide_the_slots():
    with pytest.raises(ValueError, match="devices is 3, allowed: a divisor of 4, the slots"):
        split.scheduled(jnp.arange(4), jnp.ones(4, int), devices=3)
