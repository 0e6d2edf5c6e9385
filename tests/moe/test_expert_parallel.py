"""Experts on eight devices, in any placement, against the sum written out on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen import mesh as mesh_lib
from jaxgen.moe import expert_parallel, gates, layer
from jaxgen.moe.placement import split

N, D, E, F, SLOTS = 64, 6, 6, 10, 16
MESHES = ({"expert": 8}, {"data": 2, "expert": 4}, {"fsdp": 2, "expert": 2, "model": 2})
GATE = functools.partial(gates.top_k, k=2)
SHARE_OUT = jax.jit(expert_parallel.share_out)
SCHEDULED, QUOTAS = jax.jit(split.scheduled, static_argnames="devices"), jax.jit(split.quotas)


def make(slots):
    return layer.MoE(E, D, F, slots=slots, rngs=nnx.Rngs(0))


def placed(model, placement):
    """The experts of `model`, whose slot e holds expert e, in the slots of a placement."""
    other = make(len(placement))
    other.router.kernel[...] = model.router.kernel[...]
    for name in ("up", "down"):
        getattr(other.experts, name)[...] = getattr(model.experts, name)[...][placement]
    return other


def random_placement(seed, slots=SLOTS):
    rng = np.random.default_rng(seed)
    return rng.permutation(np.concatenate([np.arange(E), rng.integers(0, E, slots - E)]))


def loss(model, x, route, placement=None):
    y, load = model(x, route, placement=placement)
    return (y**2).sum() + load.balance, (y, load)


@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.parametrize(("seed", "kind", "form"), [(0, "even", None), (1, "scheduled", "padded")])
def test_any_placement_gives_the_result_of_single_copies(shape, seed, kind, form):
    """Output, dropped pairs, and gradients; those of replicas are the expert's, bit by bit the same."""
    mesh = mesh_lib.make_mesh(shape)
    gate = lambda logits, _: GATE(logits)  # noqa: E731
    single = make(0)
    x = jax.random.normal(jax.random.key(seed), (N, D)) + 0.5  # some experts are liked better
    run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), static_argnums=2)
    (value, (y, load)), g = run(single, x, layer.MoEContext(gate))
    placement = random_placement(seed)
    model = placed(single, placement)
    model = jax.device_put(model, mesh_lib.shardings(model, mesh))
    there = jax.device_put(x, NamedSharding(mesh, mesh_lib.BATCH))
    (value_p, (y_p, load_p)), g_p = run(
        model,
        there,
        layer.MoEContext(gate, mesh, split=kind, grouped=form),
        jnp.asarray(placement),
    )
    assert int(load_p.dropped) == 0
    assert np.array_equal(load.counts, load_p.counts)
    assert np.allclose(value, value_p, rtol=1e-5)
    assert np.allclose(y, y_p, atol=1e-5)
    assert np.allclose(g[1], g_p[1], atol=1e-5)
    assert np.allclose(g[0].router.kernel, g_p[0].router.kernel, atol=1e-5)
    for name in ("up", "down"):
        want = np.asarray(getattr(g[0].experts, name)[...])[placement]
        got = np.asarray(getattr(g_p[0].experts, name)[...])
        assert np.allclose(want, got, atol=1e-5 * np.abs(want).max())
        for e in range(E):
            first, *others = got[placement == e]
            assert all(np.array_equal(first, o) for o in others)


@pytest.mark.parametrize("shape", MESHES)
def test_sharded_experts_give_the_result_of_single_copies_in_any_placement(shape):
    """Output and gradients, the latter on the shards: one program for all placements, two exchanges of weights."""
    mesh = mesh_lib.make_mesh(shape)
    gate = lambda logits, _: GATE(logits)  # noqa: E731
    wide = 8  # tokens' width, which the devices divide
    single = layer.MoE(E, wide, F, gated=True, rngs=nnx.Rngs(0))
    model = layer.MoE(E, wide, F, gated=True, sharded=True, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (N, wide)) + 0.5
    grad = jax.value_and_grad(loss, (0, 1), has_aux=True)
    (_, (y, load)), g = jax.jit(grad, static_argnums=2)(single, x, layer.MoEContext(gate))
    model = jax.device_put(model, mesh_lib.shardings(model, mesh))
    assert model.masters.up[...].sharding.spec[1] == "expert"
    there = jax.device_put(x, NamedSharding(mesh, mesh_lib.BATCH))
    route = layer.MoEContext(gate, mesh, split="scheduled")
    run = jax.jit(lambda m, x, p: grad(m, x, route, p))
    for seed in range(3):
        (_, (y_p, load_p)), g_p = run(model, there, jnp.asarray(random_placement(seed)))
        assert int(load_p.dropped) == 0
        assert np.array_equal(load.counts, load_p.counts)
        assert np.allclose(y, y_p, atol=1e-5)
        assert np.allclose(g[1], g_p[1], atol=1e-5)
        for name in ("up", "down", "gate"):
            want = np.asarray(getattr(g[0].experts, name)[...])
            got = np.asarray(getattr(g_p[0].masters, name)[...])
            assert np.allclose(want, got, atol=1e-5 * np.abs(want).max())
    assert run._cache_size() == 1


def test_sharded_experts_have_to_be_cut_evenly():
    mesh = mesh_lib.make_mesh({"expert": 8})
    model = layer.MoE(E, D, F, sharded=True, rngs=nnx.Rngs(0))
    route = layer.MoEContext(lambda logits, _: GATE(logits), mesh)
    with pytest.raises(
        ValueError, match=r"weights is \[6, 6, 10\], allowed: axis 1 a multiple of 8"
    ):
        model(jnp.ones((N, D)), route, placement=jnp.arange(SLOTS) % E)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 9999), devices=st.sampled_from([1, 2, 4, 8]))
def test_replicas_get_even_shares_and_own_tokens_first(seed, devices):
    rng = np.random.default_rng(seed)
    placement = random_placement(seed)
    counts = rng.integers(0, 12, (devices, E)) * rng.integers(0, 2, (devices, E))
    slots = []
    for g in range(devices):
        expert = np.repeat(np.arange(E), counts[g])
        rank = np.concatenate([np.arange(c) for c in counts[g]])
        nowhere = 11 * E - len(expert)  # so that all examples have one shape
        went = SHARE_OUT(
            placement,
            counts,
            g,
            np.pad(expert, (0, nowhere), constant_values=E),
            np.pad(rank, (0, nowhere)),
        )
        went = np.asarray(went)[: len(expert)]
        assert np.array_equal(placement[went], expert)
        slots.append(went)
    held = np.bincount(np.concatenate(slots), minlength=SLOTS)
    total, replicas = counts.sum(0), np.bincount(placement, minlength=E)
    for s, e in enumerate(placement):
        assert total[e] // replicas[e] <= held[s] <= -(-total[e] // replicas[e])
    owner = np.arange(SLOTS) // (SLOTS // devices)
    for g in range(devices):
        for e in range(E):
            home = (owner == g) & (placement == e)
            stayed = int(np.isin(slots[g], np.flatnonzero(home)).sum())
            assert stayed == min(counts[g, e], held[home].sum())


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 9999), devices=st.sampled_from([2, 8]))
def test_scheduled_shares_lose_no_pair_and_level_the_devices(seed, devices):
    rng = np.random.default_rng(seed)
    placement = random_placement(seed)
    counts = rng.multinomial(60, rng.dirichlet(np.full(E, 0.5)), devices)
    total = counts.sum(0)
    shares = SCHEDULED(jnp.asarray(placement), jnp.asarray(total), devices=devices)
    slots = []
    for g in range(devices):
        expert = np.repeat(np.arange(E), counts[g])
        rank = np.concatenate([np.arange(c) for c in counts[g]])
        went = np.asarray(SHARE_OUT(placement, counts, g, expert, rank, shares))
        assert np.array_equal(placement[went], expert)
        slots.append(went)
    held = np.bincount(np.concatenate(slots), minlength=SLOTS)
    order = np.argsort(placement, kind="stable")
    want = QUOTAS(shares[order], jnp.asarray(placement[order]), jnp.asarray(total))
    assert np.array_equal(held[order], want)
    # Rounding moves less than one pair a slot.
    planned = np.asarray(shares) * total[placement]
    loads = held.reshape(devices, -1).sum(1)
    assert loads.max() <= planned.reshape(devices, -1).sum(1).max() + SLOTS // devices


def test_pairs_that_go_nowhere():
    got = expert_parallel.share_out(
        jnp.arange(E), jnp.zeros((2, E), jnp.int32), 0, jnp.full(3, E), jnp.arange(3)
    )
    assert (got == E).all()


def test_rows_beyond_the_room_are_dropped_and_counted():
    """All tokens want expert 0; its device takes in 1.5 times an even share."""
    mesh = mesh_lib.make_mesh({"expert": 8})
    x = jnp.ones((N, D))
    ids = jnp.zeros((N, 1), jnp.int32)
    zero = jnp.zeros(())
    routing = gates.Routing(ids, jnp.ones((N, 1)), ids == 0, zero, zero, jnp.zeros((), jnp.int32))
    run = functools.partial(
        expert_parallel.expert_parallel,
        experts=lambda w, rows, sizes: rows,
        mesh=mesh,
        num_experts=8,
        specs=P("expert"),
        receive_capacity_factor=1.5,
    )
    y, lost = jax.jit(lambda x: run(x, routing, jnp.ones(8), placement=jnp.arange(8)))(x)
    assert int(lost) == N - 12
    assert np.array_equal(y[:, 0], np.arange(N) < 12)


def test_placement_is_no_constant():
    """Another placement, the same program."""
    mesh = mesh_lib.make_mesh({"expert": 8})
    single, x = make(0), jax.random.normal(jax.random.key(0), (N, D))
    route = layer.MoEContext(lambda logits, _: GATE(logits), mesh)
    run = jax.jit(lambda m, x, p: m(x, route, placement=p)[0])
    outs = []
    for seed in range(3):
        placement = random_placement(seed)
        outs.append(run(placed(single, placement), x, jnp.asarray(placement)))
    assert run._cache_size() == 1
    assert np.allclose(outs[0], outs[1], atol=1e-5)
    assert np.allclose(outs[0], outs[2], atol=1e-5)


@pytest.mark.parametrize(
    ("slots", "tokens", "message"),
    [
        (4, 64, "experts is 6, allowed: at most 4"),
        (12, 64, "slots is 12, allowed: a multiple of 8"),
        (16, 60, "tokens is 60, allowed: a multiple of 8"),
    ],
)
def test_what_devices_do_not_divide(slots, tokens, message):
    mesh = mesh_lib.make_mesh({"expert": 8})
    routing = gates.switch(jnp.zeros((tokens, E)))
    with pytest.raises(ValueError, match=message):
        expert_parallel.expert_parallel(
            jnp.zeros((tokens, D)),
            routing,
            jnp.ones(slots),
            lambda w, rows, sizes: rows,
            jnp.arange(slots),
            mesh=mesh,
            num_experts=E,
            specs=P("expert"),
        )
