"""Gates: the oracles of the method's page."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.moe import gates

N, E = 64, 8


def logits(seed=0, scale=2.0):
    return scale * jax.random.normal(jax.random.key(seed), (N, E))


def test_switch_and_top_k_by_hand():
    x = logits()
    p = np.asarray(jax.nn.softmax(x, -1))
    one = gates.switch(x)
    assert np.array_equal(one.expert_ids[:, 0], p.argmax(-1))
    assert np.allclose(one.weights[:, 0], p.max(-1))
    three = gates.top_k(x, 3, normalise=True)
    want = np.sort(p, -1)[:, ::-1][:, :3]
    assert np.allclose(three.weights, want / want.sum(-1, keepdims=True), atol=1e-6)
    f = np.bincount(p.argmax(-1), minlength=E) / N
    assert float(one.balance) == pytest.approx(E * (f * p.mean(0)).sum(), rel=1e-5)
    lse = np.log(np.exp(np.asarray(x)).sum(-1))
    assert float(one.z) == pytest.approx((lse**2).mean(), rel=1e-5)
    assert one.counts(E).tolist() == np.bincount(p.argmax(-1), minlength=E).tolist()


def test_balance_is_one_where_even_and_e_where_all_go_to_one():
    even = 20.0 * jax.nn.one_hot(jnp.arange(N) % E, E)
    assert float(gates.switch(even).balance) == pytest.approx(1.0, abs=1e-3)
    assert float(gates.switch(20.0 * jax.nn.one_hot(jnp.zeros(N, int), E)).balance) == (
        pytest.approx(E, rel=1e-3)
    )


def test_gshard_keeps_the_second_as_often_as_it_should():
    x = jnp.broadcast_to(jnp.asarray([1.0, 0.0, -9.0, -9.0]), (20_000, 4))
    both = gates.gshard(x)
    assert both.kept.all()
    w = float(both.weights[0, 1])
    drawn = gates.gshard(x, key=jax.random.key(0))
    assert drawn.kept[:, 0].all()
    share = float(drawn.kept[:, 1].mean())
    # Four standard deviations of a Bernoulli mean.
    assert share == pytest.approx(2 * w, abs=4 * (0.25 / 20_000) ** 0.5)
    assert (drawn.weights[:, 1] == 0).sum() == (~drawn.kept[:, 1]).sum()


def test_expert_choice_fills_every_expert():
    routing = gates.expert_choice(logits(), capacity=10)
    assert routing.counts(E).tolist() == [10] * E
    p = np.asarray(jax.nn.softmax(logits(), -1))
    for e in range(E):
        assert set(np.flatnonzero(routing.kept[:, e])) == set(np.argsort(-p[:, e])[:10])


def test_hash_is_fixed_and_spreads():
    ids = jnp.arange(8000)
    a, b = gates.hash_gate(ids, E), gates.hash_gate(ids[::-1], E)
    assert np.array_equal(a.expert_ids, b.expert_ids[::-1])
    assert np.abs(np.asarray(a.counts(E)) - 1000).max() < 100


def test_dts_from_uniform_to_one_hot():
    x = logits()
    hot = gates.dts(x, temperature=1e6)
    assert hot.kept.all()
    assert np.allclose(hot.weights, 1 / E, atol=1e-4)
    cold = gates.dts(x, temperature=1e-4)
    assert (cold.kept.sum(-1) == 1).all()
    assert np.array_equal(cold.expert_ids[:, 0], x.argmax(-1))
    assert np.allclose(cold.weights[:, 0], 1.0)


def test_more_experts_take_part_at_higher_temperature():
    kept = [
        int(gates.dts(logits(), temperature=t, key=jax.random.key(1)).kept.sum())
        for t in (0.1, 0.3, 0.5, 1.0, 2.0)
    ]
    assert kept == sorted(kept)
    assert kept[0] < kept[-1]


def test_hard_dts_is_switch():
    x = logits()
    ours, theirs = gates.dts(x, temperature=0.3, hard=True), gates.switch(x)
    assert np.array_equal(ours.expert_ids, theirs.expert_ids)
    assert np.allclose(ours.weights, theirs.weights)
    assert float(ours.balance) == pytest.approx(float(theirs.balance))


def test_a_budget_counts_what_it_leaves_out_and_never_leaves_a_token_without_expert():
    x = logits()
    free = gates.dts(x, temperature=2.0)
    bound = gates.dts(x, temperature=2.0, budget=3)
    assert int(bound.overflow) == int(free.kept.sum() - bound.kept.sum())
    assert int(bound.overflow) > 0
    none = gates.dts(x, temperature=2.0, threshold=1.0)
    assert (none.kept.sum(-1) == 1).all()
    assert int(none.overflow) == 0


def test_dts_balance_by_hand():
    routing = gates.dts(logits(), temperature=0.7, key=jax.random.key(2))
    w, kept = np.zeros((N, E)), np.zeros((N, E))
    for n in range(N):
        for k in range(E):
            w[n, routing.expert_ids[n, k]] = routing.weights[n, k]
            kept[n, routing.expert_ids[n, k]] = routing.kept[n, k]
    want = E**2 * (w.mean(0) * kept.mean(0)).mean()
    assert float(routing.balance) == pytest.approx(want, rel=1e-5)


def test_noise_is_for_training_only():
    x = logits()
    plain, again = (gates.dts(x, temperature=1.0) for _ in range(2))
    assert np.array_equal(plain.weights, again.weights)
    noisy = gates.dts(x, temperature=1.0, key=jax.random.key(0))
    assert not np.allclose(plain.weights, noisy.weights)
    free = gates.dts(x, temperature=1.0, key=jax.random.key(0), noise_free_weights=True)
    p = np.take_along_axis(np.asarray(jax.nn.softmax(x, -1)), np.asarray(free.expert_ids), -1)
    assert np.allclose(free.weights, np.where(free.kept, p, 0), atol=1e-6)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_annealing(kind):
    f = lambda s: float(gates.temperature_at(s, decay_steps=100, kind=kind))  # noqa: E731
    assert f(0) == pytest.approx(2.0)
    assert f(50) == pytest.approx({"exponential": (2.0 * 0.3) ** 0.5, "linear": 1.15}[kind])
    assert f(100) == pytest.approx(0.3)
    assert f(1000) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: gates.top_k(x, 9), "k is 9, allowed: 1 to 8"),
        (lambda x: gates.dts(x, temperature=0.0), "temperature is 0.0, allowed: above 0"),
        (lambda x: gates.dts(x, temperature=1.0, threshold=2.0), "threshold is 2.0, allowed: 0 to"),
        (lambda x: gates.dts(x, temperature=1.0, budget=9), "budget is 9, allowed: 1 to 8"),
        (lambda x: gates.expert_choice(x, capacity=0), "capacity is 0, allowed: 1 to 64"),
        (lambda x: gates.temperature_at(1, decay_steps=0), "decay_steps are 2.0, 0.3, 0"),
        (lambda x: gates.temperature_at(1, decay_steps=5, kind="cosine"), "kind is 'cosine'"),
    ],
)
def test_bad_settings(call, message):
    with pytest.raises(ValueError, match=message):
        call(logits())


def test_annealed_options_may_be_traced_and_are_checked_where_they_are_known():
    x = jax.random.normal(jax.random.key(0), (6, 4))

    def weights(temperature, threshold):
        return gates.dts(x, temperature=temperature, threshold=threshold).weights

    np.testing.assert_allclose(jax.jit(weights)(0.7, 0.2), weights(0.7, 0.2), rtol=1e-6)
    for tiny in (1e-38, jnp.float32(1e-38)):
        one = gates.dts(x, temperature=tiny)
        assert (one.kept.sum(-1) == 1).all()
        assert (one.expert_ids[:, 0] == x.argmax(-1)).all()
        assert (one.weights[:, 0] == 1).all()
    for bad in (float("nan"), 0.0, -1.0, jnp.float32(-1.0)):
        with pytest.raises(ValueError, match="temperature is"):
            weights(bad, 0.2)
    for bad in (float("nan"), -0.1, 1.1):
        with pytest.raises(ValueError, match="threshold is"):
            weights(1.0, bad)


def test_experts_that_are_ruled_out_have_no_weight_and_no_gradient():
    x = jax.random.normal(jax.random.key(0), (6, 4)).at[:, 2].set(-jnp.inf)

    def loss(x):
        routings = gates.top_k(x, 2), gates.dts(x, temperature=0.5)
        return sum((r.weights**2).sum() + r.balance + r.z for r in routings)

    value, grad = jax.value_and_grad(loss)(x)
    assert jnp.isfinite(value)
    assert jnp.isfinite(grad).all()
    assert (grad[:, 2] == 0).all()


def test_no_tokens_are_balanced():
    x = jnp.zeros((0, 4))
    for routing in (
        gates.switch(x),
        gates.expert_choice(x, capacity=1),
        gates.dts(x, temperature=1.0),
    ):
        assert routing.weights.shape[0] == 0
        assert routing.z == 0
        assert jnp.isfinite(routing.balance)
        assert routing.counts(4).tolist() == [0] * 4
