"""Dispatch and layer against the sum written out, token by token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.moe import dispatch, gates, layer

N, D, E, F = 24, 6, 4, 10


def make(factor=0.0):
    return layer.MoE(E, D, F, capacity_factor=factor, rngs=nnx.Rngs(0))


def tokens(seed=0, n=N):
    return jax.random.normal(jax.random.key(seed), (n, D))


def by_hand(model, x, routing):
    """Every expert on every token, then the kept ones weighted."""
    every = jnp.stack(
        [jax.nn.gelu(x @ model.experts.up[...][e]) @ model.experts.down[...][e] for e in range(E)],
        1,
    )
    chosen = jnp.take_along_axis(every, routing.expert_ids[..., None], 1)
    return (chosen * routing.weights[..., None]).sum(1)


GATES = {
    "switch": gates.switch,
    "top_2": functools.partial(gates.top_k, k=2, normalise=True),
    "gshard": functools.partial(gates.gshard, key=jax.random.key(3)),
    "expert_choice": functools.partial(gates.expert_choice, capacity=5),
    "dts": functools.partial(gates.dts, temperature=0.5, threshold=0.1, key=jax.random.key(4)),
}


@pytest.mark.parametrize("name", GATES)
def test_both_dispatches_equal_the_sum_written_out(name):
    """Value and gradients; the buffers are large enough that nothing is dropped."""
    x = tokens()

    def loss(model, x):
        y, routing, dropped = model(x, GATES[name])
        return (y**2).sum() + routing.balance, (y, routing, dropped)

    (_, (y, routing, _)), g = jax.value_and_grad(loss, (0, 1), has_aux=True)(make(), x)
    (_, (z, _, dropped)), h = jax.value_and_grad(loss, (0, 1), has_aux=True)(make(float(E)), x)
    assert int(dropped) == 0
    want = by_hand(make(), x, routing)
    assert np.allclose(y, want, atol=1e-5)
    assert np.allclose(z, want, atol=1e-5)
    for a, b in zip(jax.tree.leaves(g), jax.tree.leaves(h), strict=True):
        assert np.allclose(a, b, atol=1e-4)


def test_threshold_zero_is_the_dense_mixture():
    x, model = tokens(), make()
    gate = functools.partial(gates.dts, temperature=1.3, threshold=0.0)

    def dense(model, x):
        w = jax.nn.softmax(model.router(x) / 1.3, -1)
        every = jnp.einsum("nd,edf->enf", x, model.experts.up[...])
        out = jnp.einsum("enf,efd->end", jax.nn.gelu(every), model.experts.down[...])
        return jnp.einsum("ne,end->nd", w, out)

    assert np.allclose(model(x, gate)[0], dense(model, x), atol=1e-5)
    g = jax.grad(lambda m: (m(x, gate)[0] ** 2).sum())(model)
    want = jax.grad(lambda m: (dense(m, x) ** 2).sum())(model)
    for a, b in zip(jax.tree.leaves(g), jax.tree.leaves(want), strict=True):
        assert np.allclose(a, b, atol=1e-4)
    # While dense, every expert and every row of the router learns.
    assert (np.abs(g.experts.up[...]).max((1, 2)) > 0).all()
    assert (np.abs(g.router.kernel[...]).max(0) > 0).all()


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 99), slots=st.integers(1, 6), k=st.integers(1, 3))
def test_dropped_pairs_are_counted(seed, slots, k):
    """A buffer of C slots keeps C of an expert's pairs, first choices and earlier tokens first."""
    routing = gates.top_k(3.0 * jax.random.normal(jax.random.key(seed), (N, E)), k)
    x = tokens(seed)
    y, dropped = dispatch.capacity(x, routing, lambda b: b, num_experts=E, slots=slots)
    full, want, lost = np.zeros(E, int), np.zeros((N, D)), 0
    for choice in range(k):
        for n in range(N):
            e = int(routing.expert_ids[n, choice])
            if full[e] < slots:
                full[e] += 1
                want[n] += float(routing.weights[n, choice]) * np.asarray(x[n])
            else:
                lost += 1
    assert int(dropped) == lost
    assert np.allclose(y, want, atol=1e-5)


def test_capacity_of():
    assert dispatch.capacity_of(64, 8, 2, 1.0) == 16
    assert dispatch.capacity_of(64, 8, 2, 1.25) == 20
    assert dispatch.capacity_of(3, 8, 1, 1.0) == 1
    with pytest.raises(ValueError, match="capacity factor is 0"):
        dispatch.capacity_of(3, 8, 1, 0.0)


def test_under_jit_and_vmap_and_without_tokens_times_experts_times_capacity():
    model, x = make(1.0), jnp.stack([tokens(0), tokens(1)])
    run = lambda x: model(x, gates.switch)[0]  # noqa: E731
    both = jax.jit(jax.vmap(run))(x)
    assert np.allclose(both[1], run(x[1]), atol=1e-5)
    largest = max(
        v.aval.size
        for eqn in jax.make_jaxpr(lambda x: make(1.0)(x, gates.switch)[0])(tokens(n=96)).eqns
        for v in eqn.outvars
    )
    assert largest < 96 * E * 24
