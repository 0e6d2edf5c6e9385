"""DTS as its reference has it: what the weights sum to, caps, flags of the weights, and the hard switch."""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgen.losses.cross_entropy import cross_entropy
from jaxgen.models import gpt2
from jaxgen.moe import MoEContext, gates

N, E, C = 512, 8, 0.001


def logits(seed=0, scale=1.0):
    return scale * jax.random.normal(jax.random.key(seed), (N, E))


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_weights_sum_to_at_least_one_less_experts_times_threshold(scale):
    """At every step of the soft phase: what is dropped is E shares at most, each below c."""

    @jax.vmap
    def sums(step):
        routing = gates.dts(
            logits(scale=scale),
            jax.random.fold_in(jax.random.key(1), step),
            temperature=gates.temperature_at(step, decay_steps=100),
            threshold=C,
        )
        return routing.weights.sum(-1), routing.kept.sum(-1)

    total, kept = sums(jnp.arange(0, 121, 5))
    assert total.min() >= 1 - E * C
    assert total.max() <= 1 + 1e-5
    assert (total.min(), kept.min()) != (1.0, E)  # some shares are below c


def test_experts_kept_as_tabulated():
    """Mean counts of E = 8, c = 0.001, logits N(0, 1), from a table made elsewhere with other draws."""
    x = jax.random.normal(jax.random.key(3), (20_000, E))
    for temperature, want in ((2.0, 8.0), (1.13, 7.9), (0.85, 7.5), (0.64, 6.6), (0.31, 3.5)):
        kept = gates.dts(x, jax.random.key(4), temperature=temperature, threshold=C).kept
        # The table has one decimal; the standard error here is below 0.015.
        assert kept.sum(-1).mean() == pytest.approx(want, abs=0.05 + 0.045)


def test_no_threshold_is_the_dense_mixture_in_value_and_gradient():
    x = logits()
    value = jax.random.normal(jax.random.key(2), (N, E))

    def ours(x):
        routing = gates.dts(x, temperature=0.7, threshold=0.0)
        return (routing.weights * jnp.take_along_axis(value, routing.expert_ids, -1)).sum()

    def dense(x):
        return (jax.nn.softmax(x / 0.7, -1) * value).sum()

    assert ours(x) == pytest.approx(float(dense(x)), rel=1e-5)
    np.testing.assert_allclose(jax.grad(ours)(x), jax.grad(dense)(x), atol=1e-5)


def test_a_cap_that_bites_renormalises_and_one_that_does_not_changes_nothing():
    x, key = logits(), jax.random.key(5)
    soft = functools.partial(gates.dts, x, key, temperature=1.0, threshold=C)
    bound = soft(budget=3, renormalise=True)
    cut = soft().kept.sum(-1) > 3
    assert 0.9 < cut.mean() < 1.0
    np.testing.assert_allclose(bound.weights.sum(-1)[cut], 1.0, rtol=1e-5)
    plain = soft(budget=3)
    assert plain.weights.sum(-1).mean() < 0.9
    np.testing.assert_allclose(
        bound.weights[cut], (plain.weights / plain.weights.sum(-1, keepdims=True))[cut], rtol=1e-5
    )
    assert np.array_equal(bound.weights[~cut], plain.weights[~cut])
    assert np.array_equal(soft(renormalise=True).weights, soft().weights)
    free = soft(budget=3, renormalise=True, noise_free_weights=True)
    np.testing.assert_allclose(free.weights.sum(-1)[cut], 1.0, rtol=1e-5)


def test_hard_weights_by_the_flag_and_the_expert_of_the_noisy_gate():
    x, key = logits(), jax.random.key(6)
    hard = functools.partial(gates.dts, x, key, temperature=0.5, hard=True)
    noisy = x + jax.random.gumbel(key, x.shape)
    chosen = noisy.argmax(-1)
    assert (chosen != x.argmax(-1)).mean() > 0.2
    rows = jnp.arange(N)
    plain = jax.nn.softmax(x, -1)[rows, chosen]
    gate = jax.nn.softmax(noisy / 0.5, -1)[rows, chosen]
    for flag, want in ((None, plain), (True, plain), (False, gate)):
        routing = hard(noise_free_weights=flag)
        assert np.array_equal(routing.expert_ids[:, 0], chosen)
        np.testing.assert_allclose(routing.weights[:, 0], want, rtol=1e-5)


def test_gradients_are_finite_where_noise_chose_an_expert_of_no_weight():
    x = jnp.array([[0.0, -200.0, -200.0]])

    def total(x):
        routing = gates.dts(
            x, temperature=9.0, budget=2, threshold=0.0, renormalise=True, noise_free_weights=True
        )
        return routing.weights.sum()

    assert jnp.isfinite(jax.grad(total)(x)).all()


def test_loss_hardly_moves_at_the_hard_switch():
    """A small GPT reads bytes of Python code under the soft gate to its lowest temperature; then hard.

    Both sides with the noise of training. Where nearly nothing of a loss is irreducible the step is larger.
    """
    steps, vocab, length = 120, 128, 32
    text = np.frombuffer(pathlib.Path(argparse.__file__).read_bytes(), np.uint8) % vocab
    text = jnp.asarray(text.astype(np.int32))
    config = gpt2.config(
        vocab,
        width=32,
        depth=2,
        heads=2,
        max_positions=length,
        mlp_width=32,
        mlp_bias=False,
        experts=E,
    )
    model = gpt2.GPT(config, rngs=nnx.Rngs(0))
    tx = optax.adam(3e-3)

    def batch(key):
        first = jax.random.randint(key, (16, 1), 0, len(text) - length - 1)
        return text[first + jnp.arange(length + 1)]

    def nll(model, tokens, key, step, hard):
        gate = functools.partial(
            gates.dts,
            temperature=gates.temperature_at(step, decay_steps=steps),
            threshold=C,
            hard=hard,
            noise_free_weights=True,
        )
        h, _, stats = model.hidden(tokens[:, :-1], route=MoEContext(gate), key=key)
        return cross_entropy(model.logits(h), tokens[:, 1:]).mean(), stats.weight_sum.mean()

    @jax.jit
    def train(model, opt_state):
        def body(carry, step):
            model, opt_state = carry
            key = jax.random.fold_in(jax.random.key(7), step)
            grad, _ = jax.grad(nll, has_aux=True)(model, batch(key), key, step, False)
            updates, opt_state = tx.update(grad, opt_state, model)
            return (optax.apply_updates(model, updates), opt_state), None

        return jax.lax.scan(body, (model, opt_state), jnp.arange(steps))[0]

    test = jax.jit(nll, static_argnames="hard")
    tokens, key = batch(jax.random.key(8)), jax.random.key(9)
    fresh = float(test(model, tokens, key, steps, hard=False)[0])
    model, _ = train(model, tx.init(model))
    before, weights = map(float, test(model, tokens, key, steps, hard=False))
    after, fewer = map(float, test(model, tokens, key, steps, hard=True))
    assert before < 0.95 * fresh  # it has learnt something
    assert fewer < weights
    assert after == pytest.approx(before, rel=0.02)
