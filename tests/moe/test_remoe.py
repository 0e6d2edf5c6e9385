"""ReLU routing, and the coefficient that brings it to its sparsity."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgen.moe import MoE, MoEContext, remoe

N, E, D = 64, 8, 6


def logits(seed=0):
    return jax.random.normal(jax.random.key(seed), (N, E))


def test_positive_logits_are_weights():
    x = logits()
    routing = remoe.relu(x)
    dense = np.zeros((N, E))
    np.put_along_axis(dense, np.asarray(routing.expert_ids), np.asarray(routing.weights), -1)
    np.testing.assert_allclose(dense, np.maximum(x, 0))
    assert np.array_equal(routing.kept.sum(-1), (x > 0).sum(-1))
    assert int(routing.overflow) == 0


def test_a_budget_keeps_the_largest_and_counts_the_rest():
    x = logits()
    bound = remoe.relu(x, budget=2)
    assert int(bound.overflow) == int(jnp.maximum((x > 0).sum(-1) - 2, 0).sum())
    np.testing.assert_allclose(bound.weights, jnp.maximum(jnp.sort(x, -1)[:, ::-1][:, :2], 0))


def test_penalty_by_hand_and_a_token_without_experts():
    x = jnp.array([[1.0, -1.0, 0.5, -2.0], [2.0, -1.0, -0.5, -2.0], [-1.0, -1.0, -1.0, -1.0]])
    # Loads 2, 0, 1, 0 of 3 tokens; F = 4 load / (2 * 3).
    want = (4 * 2 / 6) * (3.0 / 3) + (4 * 1 / 6) * (0.5 / 3)
    assert remoe.relu(x, target=2.0).balance == pytest.approx(want)
    assert remoe.relu(x, balanced=False).balance == pytest.approx(3.5 / 3)
    assert (remoe.relu(x).weights[2] == 0).all()
    assert jnp.isfinite(jax.grad(lambda x: remoe.relu(x).balance)(x)).all()


def test_coefficient_by_hand():
    start = jnp.float32(1e-3)
    for counts, want in (([[64, 65], [64, 64]], 1.2e-3), ([[60, 60], [64, 64]], 1e-3 / 1.2)):
        new = remoe.update_coefficient(start, jnp.array(counts, jnp.int32), 64, target=2.0)
        assert new == pytest.approx(want, rel=1e-5)
    even = remoe.update_coefficient(start, jnp.full((2, 4), 16, jnp.int32), 64)
    assert even == pytest.approx(1e-3, rel=1e-6)


def test_the_coefficient_brings_a_layer_to_its_target():
    """A layer that fits a function of its input; the router begins with about half of all experts."""
    model = MoE(E, D, 8, rngs=nnx.Rngs(0))
    tx = optax.adam(1e-2)

    @jax.jit
    def train(model, opt_state):
        def body(carry, key):
            model, opt_state, coefficient = carry
            x = (
                jax.random.normal(key, (N, D)) + 1.0
            )  # a router without bias needs a mean to turn off

            def loss(model):
                y, stats = model(x, MoEContext(remoe.relu))
                return ((y - jnp.sin(2 * x)) ** 2).mean() + coefficient * stats.balance, stats

            grad, stats = jax.grad(loss, has_aux=True)(model)
            updates, opt_state = tx.update(grad, opt_state, model)
            new = remoe.update_coefficient(coefficient, stats.counts, N, factor=1.02)
            return (optax.apply_updates(model, updates), opt_state, new), (
                stats.counts.sum() / N,
                coefficient,
            )

        keys = jax.random.split(jax.random.key(1), 600)
        return jax.lax.scan(body, (model, opt_state, jnp.float32(1e-3)), keys)[1]

    each, coefficient = train(model, tx.init(model))
    assert each[0] > 3.0
    assert coefficient.max() > 10 * coefficient[0]
    assert each[-100:].mean() == pytest.approx(1.0, abs=0.2)


def test_bad_settings():
    with pytest.raises(ValueError, match="budget is 9, allowed: 1 to 8"):
        remoe.relu(logits(), budget=9)
    with pytest.raises(ValueError, match=r"target is 0\.0, allowed: above 0"):
        remoe.relu(logits(), target=0.0)
