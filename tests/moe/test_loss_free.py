"""The bias that balances: moves against the load, chooses, and weighs nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.models import gpt2
from jaxgen.moe import MoEContext, loss_free
from jaxgen.nn import transformer

N, E = 64, 4


def logits(seed=0):
    return jax.random.normal(jax.random.key(seed), (N, E)) + jnp.array([2.0, 0.0, 0.0, -2.0])


def test_chosen_by_score_plus_bias_and_weighted_by_score():
    x, bias = logits(), jnp.array([-0.4, 0.1, 0.0, 0.5])
    s = np.asarray(jax.nn.sigmoid(x))
    for k in (1, 2):
        routing = loss_free.loss_free(x, bias=bias, k=k)
        want = np.argsort(-(s + np.asarray(bias)), -1)[:, :k]
        assert np.array_equal(routing.expert_ids, want)
        np.testing.assert_allclose(routing.weights, np.take_along_axis(s, want, -1), rtol=1e-6)
    assert not np.array_equal(want[:, 0], s.argmax(-1))
    soft = loss_free.loss_free(x, bias=0 * bias, k=2, score="softmax", normalise=True)
    np.testing.assert_allclose(soft.weights.sum(-1), 1.0, rtol=1e-6)


def test_the_bias_has_no_gradient_and_the_router_has_one():
    def total(x, bias):
        return loss_free.loss_free(x, bias=bias, k=2).weights.sum()

    of_logits, of_bias = jax.grad(total, (0, 1))(logits(), jnp.zeros(E))
    assert (of_bias == 0).all()
    assert ((of_logits != 0).sum(-1) == 2).all()


def test_update_moves_against_the_load_by_one_step():
    counts = jnp.array([[10, 2, 4, 4], [5, 5, 5, 5]], jnp.int32)
    bias = loss_free.update_bias(jnp.zeros((2, 4)), counts, rate=0.01)
    np.testing.assert_allclose(bias, [[-0.01, 0.01, 0.01, 0.01], [0, 0, 0, 0]], atol=1e-9)


def test_updates_balance_a_skewed_router():
    @jax.jit
    def step(bias, key):
        x = jax.random.normal(key, (N, E)) + jnp.array([2.0, 0.0, 0.0, -2.0])
        counts = loss_free.loss_free(x, bias=bias).counts(E)
        return loss_free.update_bias(bias, counts, rate=0.02), counts

    _, counts = jax.lax.scan(step, jnp.zeros(E), jax.random.split(jax.random.key(1), 200))
    first, last = counts[:10].mean(0), counts[-50:].mean(0)
    assert first.max() > 2 * N / E
    # 3,200 draws: four standard deviations of a share of 1/4 are 0.031 of all, and a step of the bias moves 0.01.
    assert jnp.abs(last / N - 1 / E).max() < 0.05


@pytest.mark.parametrize("scan", [False, True])
def test_each_layer_of_a_stack_has_its_row(scan):
    config = gpt2.config(
        11, width=8, depth=4, heads=2, max_positions=6, mlp_width=8, experts=E, scan=scan
    )
    model = gpt2.GPT(config, rngs=nnx.Rngs(0))
    tokens = jax.random.randint(jax.random.key(0), (3, 6), 0, 11)

    @jax.jit
    def counts(model, bias):
        route = MoEContext(functools.partial(loss_free.loss_free, k=1), router_bias=bias)
        return model.hidden(tokens, route=route)[2].counts

    bias = jnp.array([[9.0, 0, 0, 0], [0, 0, 9.0, 0]])
    assert counts(model, bias).tolist() == [[18, 0, 0, 0], [0, 0, 18, 0]]
    with pytest.raises(ValueError, match=r"router_bias has shape \(1, 4\), allowed: \(2, 4\)"):
        transformer.layer_rows(MoEContext(router_bias=bias[:1]), config.stack)


def test_bad_settings():
    with pytest.raises(ValueError, match="score is 'tanh', allowed: sigmoid, softmax"):
        loss_free.loss_free(logits(), bias=jnp.zeros(E), score="tanh")
    with pytest.raises(ValueError, match="k is 5, allowed: 1 to 4"):
        loss_free.loss_free(logits(), bias=jnp.zeros(E), k=5)
