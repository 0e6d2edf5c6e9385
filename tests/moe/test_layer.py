"""Dispatch and layer against the sum written out, token by token."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.moe import dispatch, gates, grouped, layer
from jaxgen.nn import stacked, transformer

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
        y, load = model(x, layer.MoEContext(lambda logits, _: GATES[name](logits)))
        return (y**2).sum() + load.balance, (y, load)

    run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, (y, load)), g = run(make(), x)
    (_, (z, same)), h = run(make(float(E)), x)
    assert int(same.dropped) == 0
    routing = GATES[name](make().router(x))
    assert np.array_equal(load.counts, routing.counts(E))
    want = by_hand(make(), x, routing)
    assert np.allclose(y, want, atol=1e-5)
    assert np.allclose(z, want, atol=1e-5)
    for a, b in zip(jax.tree.leaves(g), jax.tree.leaves(h), strict=True):
        assert np.allclose(a, b, atol=1e-4)


def test_threshold_zero_is_the_dense_mixture():
    x, model = tokens(), make()
    route = layer.MoEContext(lambda logits, _: gates.dts(logits, temperature=1.3, threshold=0.0))

    def dense(model, x):
        w = jax.nn.softmax(model.router(x) / 1.3, -1)
        every = jnp.einsum("nd,edf->enf", x, model.experts.up[...])
        out = jnp.einsum("enf,efd->end", jax.nn.gelu(every), model.experts.down[...])
        return jnp.einsum("ne,end->nd", w, out)

    assert np.allclose(model(x, route)[0], dense(model, x), atol=1e-5)
    g = jax.grad(lambda m: (m(x, route)[0] ** 2).sum())(model)
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
    run = lambda x: model(x, layer.MoEContext())[0]  # noqa: E731
    both = jax.jit(jax.vmap(run))(x)
    assert np.allclose(both[1], run(x[1]), atol=1e-5)
    largest = max(
        v.aval.size
        for eqn in jax.make_jaxpr(lambda x: make(1.0)(x, layer.MoEContext())[0])(tokens(n=96)).eqns
        for v in eqn.outvars
    )
    assert largest < 96 * E * 24


def test_padding_is_not_routed():
    x, model = tokens(), make()
    real = jnp.arange(N) < N - 5
    y, load = model(x, layer.MoEContext(), real=real)
    assert np.allclose(y[:-5], model(x, layer.MoEContext())[0][:-5], atol=1e-6)
    assert not y[-5:].any()
    assert int(load.counts.sum()) == N - 5


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 99),
    groups=st.integers(1, 6),
    block=st.sampled_from([1, 8, 128]),
    form=st.sampled_from([None, "blocks", "padded"]),
)
def test_grouped_matmul_equals_ragged_dot(seed, groups, block, form, monkeypatch_module):
    """Value and gradients, with empty groups, rows of none, and groups that need several rounds."""
    monkeypatch_module.setattr(grouped, "_BLOCK", block)
    rng = np.random.default_rng(seed)
    sizes = jnp.asarray(rng.multinomial(30, rng.dirichlet(np.ones(groups) * 0.5)), jnp.int32)
    x = jnp.asarray(rng.normal(size=(37, D)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(groups, D, F)), jnp.float32)

    def loss(form, x, w):
        y = grouped.grouped_matmul(x, w, sizes, implementation=form)
        return (y**2).sum(), y

    got, want = (
        jax.value_and_grad(functools.partial(loss, f), (0, 1), has_aux=True)(x, w)
        for f in (form, "ragged")
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-3)
    assert not got[0][1][30:].any()


@pytest.mark.parametrize("form", ["blocks", "padded"])
def test_all_rows_in_one_group_under_jit_and_vmap(form, monkeypatch_module):
    """The worst case of the buffers: eight rounds, under vmap beside a row of sizes that needs one."""
    monkeypatch_module.setattr(grouped, "_BLOCK", 1)
    x = jax.random.normal(jax.random.key(0), (40, D))
    w = jax.random.normal(jax.random.key(1), (10, D, F))
    sizes = jnp.stack([jnp.zeros(10, jnp.int32).at[3].set(40), jnp.full(10, 4, jnp.int32)])
    product = functools.partial(grouped.grouped_matmul, implementation=form)
    one, even = jax.jit(jax.vmap(product, (None, None, 0)))(x, w, sizes)
    np.testing.assert_allclose(one, x @ w[3], rtol=1e-5, atol=1e-5)
    want = jnp.einsum("ecd,edf->ecf", x.reshape(10, 4, D), w).reshape(40, F)
    np.testing.assert_allclose(even, want, rtol=1e-5, atol=1e-5)


def test_forms_keep_half_precision_and_refuse_unknown_names():
    x, w = jnp.ones((6, D), jnp.bfloat16), jnp.ones((2, D, F), jnp.bfloat16)
    for form in grouped.IMPLEMENTATIONS:
        y = grouped.grouped_matmul(x, w, jnp.array([2, 3]), implementation=form)
        assert y.dtype == jnp.bfloat16
        assert y[:, 0].tolist() == [D] * 5 + [0]
    with pytest.raises(ValueError, match="implementation is 'dense', allowed: None, blocks, padd"):
        grouped.grouped_matmul(x, w, jnp.array([2, 3]), implementation="dense")


@pytest.mark.parametrize("form", grouped.IMPLEMENTATIONS)
def test_the_layer_is_the_same_in_all_forms(form):
    def loss(model, x, form):
        gate = lambda logits, _: gates.top_k(logits, 2)  # noqa: E731
        y, _ = model(x, layer.MoEContext(gate, grouped=form))
        return (y**2).sum()

    got, want = (jax.value_and_grad(loss, (0, 1))(make(0.0), tokens(), f) for f in (form, None))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.mark.parametrize("scan", [False, True])
def test_blocks_of_any_transformer(scan):
    """Each second block has experts; one expert of each token is the dense block."""
    spec = transformer.TransformerConfig(
        8, 4, 2, 4, F, experts=3, expert_every=2, scan=scan, mlp_bias=False, init_std=0.3
    )
    model = transformer.Transformer(spec, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 5, 8))
    route = layer.MoEContext(lambda logits, _: gates.top_k(logits, 2, normalise=True))
    _, _, loads = model(x, route=route)
    assert loads.counts.shape == (2, 3)
    assert (loads.counts.sum(1) == 2 * 5 * 2).all()
    # With equal experts and weights that sum to 1, a mixture is one feed-forward layer.
    dense = transformer.Transformer(dataclasses.replace(spec, experts=0), rngs=nnx.Rngs(0))
    model, dense = stacked.unstack(model), stacked.unstack(dense)
    for block, plain in zip(model.blocks, dense.blocks, strict=True):
        for part in ("norm1", "attention", "norm2"):
            nnx.update(getattr(plain, part), nnx.state(getattr(block, part)))
        if block.moe is None:
            nnx.update(plain.mlp, nnx.state(block.mlp))
        else:
            for name in ("up", "down"):
                weights = getattr(block.moe.experts, name)
                weights[...] = jnp.broadcast_to(weights[:1], weights.shape)
                getattr(plain.mlp, name).kernel[...] = weights[0]
    model, dense = stacked.stack(model), stacked.stack(dense)
    assert isinstance(model.blocks, stacked.Stacked) == scan
    assert np.allclose(model(x, route=route)[0], dense(x)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": -1}, "experts, expert_every, capacity_factor are -1"),
        ({"experts": 2, "expert_every": 3}, "a multiple of expert_every, 3"),
        ({"experts": 4, "expert_slots": 3}, "experts is 4, allowed: at most 3, the slots"),
    ],
)
def test_specs_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        transformer.Transformer(
            transformer.TransformerConfig(8, 4, 2, 4, F, **options), rngs=nnx.Rngs(0)
        )


@pytest.mark.parametrize("factor", [0.0, float(E)])
@pytest.mark.parametrize("fill", [np.nan, np.inf])
def test_padding_may_hold_anything(factor, fill):
    """Value and gradients of real tokens are those beside padding of 0; the losses see it as 0."""
    x, real = tokens(), jnp.arange(N) < N - 5

    def loss(model, x):
        route = layer.MoEContext(
            lambda logits, _: gates.dts(logits, temperature=0.5, threshold=0.1)
        )
        y, load = model(x, route, real=real)
        return (y**2).sum() + load.balance + load.z, y

    run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (want, y), (g_model, g_x) = run(make(factor), jnp.where(real[:, None], x, 0.0))
    (got, z), (h_model, h_x) = run(make(factor), jnp.where(real[:, None], x, fill))
    assert got == pytest.approx(float(want), rel=1e-6)
    np.testing.assert_allclose(z, y, atol=1e-6)
    np.testing.assert_allclose(h_x[:-5], g_x[:-5], atol=1e-6)
    assert (h_x[-5:] == 0).all()
    for a, b in zip(jax.tree.leaves(g_model), jax.tree.leaves(h_model), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-6)


def test_capacity_of_a_call_drops_what_a_count_by_hand_says():
    """ceil(N / E) places an expert: first come, first served; a dropped token gives 0."""
    model, x = make(), tokens(n=22)
    context = functools.partial(layer.MoEContext, lambda logits, _: gates.switch(logits))
    y, load = model(x, context(capacity_factor=1.0))
    ids, seen, dropped = np.asarray(model.router(x).argmax(-1)), np.zeros(E, int), []
    for n, e in enumerate(ids):
        if seen[e] == 6:
            dropped.append(n)
        seen[e] += seen[e] < 6
    assert len(dropped) == int(load.dropped) == np.maximum(np.bincount(ids) - 6, 0).sum() > 0
    whole, none = model(x, context())
    assert int(none.dropped) == 0
    stay = np.setdiff1d(np.arange(22), dropped)
    np.testing.assert_allclose(y[stay], whole[stay], atol=1e-6)
    assert (y[np.array(dropped)] == 0).all()
    again, _ = make(1.0)(x, context(capacity_factor=0.0))
    np.testing.assert_allclose(again, whole, atol=1e-6)


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_no_tokens_cost_nothing(factor):
    def loss(model, x):
        y, load = model(x, layer.MoEContext(lambda logits, _: gates.top_k(logits, 2)))
        return y.sum() + load.balance + load.z, (y, load)

    run = jax.value_and_grad(loss, has_aux=True)
    (value, (y, load)), grad = run(make(factor), jnp.zeros((0, D)))
    assert y.shape == (0, D)
    assert value == 0
    assert load.counts.tolist() == [0] * E
    assert all((g == 0).all() for g in jax.tree.leaves(grad))


def test_rows_that_belong_to_no_group_reach_no_gradient():
    x = tokens(n=10).at[7:].set(jnp.nan)
    w, sizes = jax.random.normal(jax.random.key(1), (2, D, F)), jnp.array([3, 4])
    total = lambda x, w: grouped.grouped_matmul(x, w, sizes).sum()  # noqa: E731
    value, (dx, dw) = jax.value_and_grad(total, (0, 1))(x, w)
    assert value == pytest.approx(float((x[:3] @ w[0]).sum() + (x[3:7] @ w[1]).sum()), rel=1e-4)
    np.testing.assert_allclose(dw[1], jnp.broadcast_to(x[3:7].sum(0)[:, None], (D, F)), atol=1e-5)
    assert (dx[7:] == 0).all()
