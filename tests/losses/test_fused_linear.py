"""The fused form against output layer plus loss, on one device and with a split vocabulary."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxgen import mesh as mesh_lib
from jaxgen.losses import eisl, fused_linear


def case(b=4, t=6, s=5, d=8, v=24, dtype=jnp.float32):
    k = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(k[0], (b, t, d)).astype(dtype)
    embedding = jax.random.normal(k[1], (v, d)).astype(dtype)
    return hidden, embedding, jax.random.randint(k[2], (b, s), 0, v)


def row_loss(c, mask):
    return eisl.eisl_from_pairs(c, ngrams=(1, 2), targets_mask=mask)


def unfused(hidden, embedding, targets, mask):
    logits = jnp.einsum("btd,vd->btv", hidden, embedding, preferred_element_type=jnp.float32)
    return eisl.eisl_loss(logits, targets, ngrams=(1, 2), targets_mask=mask).mean()


@pytest.mark.parametrize("budget", [1, 4 * 6 * 24 * 2, 10**9])
def test_value_and_gradients_do_not_depend_on_the_tile(budget):
    hidden, embedding, targets = case()
    mask = jnp.arange(5)[None] < jnp.asarray([5, 3, 4, 2])[:, None]

    def ours(h, e):
        return fused_linear.fused_loss(h, e, targets, row_loss, mask, budget=budget)

    value, grads = jax.jit(jax.value_and_grad(ours, (0, 1)))(hidden, embedding)
    want, want_grads = jax.value_and_grad(unfused, (0, 1))(hidden, embedding, targets, mask)
    assert float(value) == pytest.approx(float(want), abs=1e-5)
    assert float(ours(hidden, embedding)) == pytest.approx(float(want), abs=1e-5)
    for a, b in zip(grads, want_grads, strict=True):
        assert np.allclose(a, b, atol=1e-5)


def test_cross_entropy_is_its_diagonal_and_cotangents_scale():
    hidden, embedding, _ = case()
    targets = jax.random.randint(jax.random.key(3), (4, 6), 0, 24)

    def diagonal(c, _):
        return -jnp.diagonal(c, axis1=1, axis2=2).mean(1)

    def plain(h, e):
        logits = jnp.einsum("btd,vd->btv", h, e)
        return 3.0 * optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    def ours(h, e):
        return 3.0 * fused_linear.fused_loss(h, e, targets, diagonal)

    for a, b in zip(
        jax.tree.leaves(jax.value_and_grad(ours, (0, 1))(hidden, embedding)),
        jax.tree.leaves(jax.value_and_grad(plain, (0, 1))(hidden, embedding)),
        strict=True,
    ):
        assert np.allclose(a, b, atol=1e-5)


def test_a_split_vocabulary_gives_the_same():
    hidden, embedding, targets = case()
    mask = jnp.ones((4, 5), bool)
    mesh = Mesh(np.array(jax.devices()), ("model",))

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(), P("model"), P(), P()),
        out_specs=(P(), (P(), P("model"))),
        check_vma=False,
    )
    def sharded(h, e, y, m):
        return jax.value_and_grad(
            lambda h, e: fused_linear.fused_loss(h, e, y, row_loss, m, axis_name="model"), (0, 1)
        )(h, e)

    value, grads = jax.jit(sharded)(hidden, embedding, targets, mask)
    want, want_grads = jax.value_and_grad(unfused, (0, 1))(hidden, embedding, targets, mask)
    assert float(value) == pytest.approx(float(want), abs=1e-5)
    for a, b in zip(grads, want_grads, strict=True):
        assert np.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("shape", [{"data": 2, "fsdp": 2, "model": 2}, {"data": 1, "model": 8}])
def test_arrays_of_a_whole_mesh(shape):
    hidden, embedding, targets = case()
    mask = jnp.arange(5)[None] < jnp.asarray([5, 3, 4, 2])[:, None]
    mesh = mesh_lib.make_mesh(shape)

    @jax.jit
    def sharded(h, e):
        return 2.0 * fused_linear.sharded_fused_loss(mesh, h, e, targets, row_loss, mask)

    value, grads = jax.value_and_grad(sharded, (0, 1))(hidden, embedding)
    want, want_grads = jax.value_and_grad(unfused, (0, 1))(hidden, embedding, targets, mask)
    assert float(value) == pytest.approx(2 * float(want), abs=1e-5)
    for a, b in zip(grads, want_grads, strict=True):
        assert np.allclose(a, 2 * b, atol=1e-5)


def test_a_mesh_that_does_not_divide_is_refused():
    hidden, embedding, targets = case()
    mesh = mesh_lib.make_mesh({"data": 8})
    with pytest.raises(ValueError, match="hidden has 4 rows, allowed: a multiple of 8"):
        fused_linear.sharded_fused_loss(mesh, hidden, embedding, targets, row_loss, None)


def test_bfloat16():
    hidden, embedding, targets = case(dtype=jnp.bfloat16)
    mask = jnp.ones((4, 5), bool)
    value, grads = jax.value_and_grad(
        lambda h, e: fused_linear.fused_loss(h, e, targets, row_loss, mask), (0, 1)
    )(hidden, embedding)
    want = unfused(hidden.astype(jnp.float32), embedding.astype(jnp.float32), targets, mask)
    assert float(value) == pytest.approx(float(want), abs=2e-2)
    assert {g.dtype for g in grads} == {jnp.dtype(jnp.bfloat16)}


def test_memory_does_not_grow_with_the_vocabulary():
    """XLA's temporary memory, less what the gradient of the embedding takes anyway."""
    sizes = {}
    for v in (512, 4096):
        hidden, embedding, targets = case(b=16, t=16, s=16, v=v)

        def ours(h, e, y):
            return jax.grad(
                lambda h, e: fused_linear.fused_loss(h, e, y, row_loss, None, budget=2**17), (0, 1)
            )(h, e)

        compiled = jax.jit(ours).lower(hidden, embedding, targets).compile()
        sizes[v] = compiled.memory_analysis().temp_size_in_bytes - 3 * embedding.nbytes
    logits = 4 * 16 * 16 * 4096
    assert sizes[4096] < logits / 2
    assert sizes[4096] < 2 * max(sizes[512], 2**19)


def test_tiles():
    assert fused_linear.tile_rows(32, 32, 8000, 2**24) == 16
    assert fused_linear.tile_rows(32, 128, 256_000, 2**24) == 1
    assert fused_linear.tile_rows(6, 1, 1, 20) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [({"budget": 0}, "budget is 0"), ({"width": 9}, "9 wide, allowed: 8"), ({"rows": 3}, "3 rows")],
)
def test_bad_settings(change, message):
    hidden, embedding, targets = case()
    if "width" in change:
        embedding = jnp.zeros((24, 9))
    if "rows" in change:
        targets = targets[:3]
    with pytest.raises(ValueError, match=message):
        fused_linear.fused_loss(
            hidden, embedding, targets, row_loss, None, budget=change.get("budget", 1)
        )


def test_states_of_masked_positions_reach_nothing_and_no_rows_cost_nothing(key):
    h, e = jax.random.normal(key, (2, 4, 3)), jax.random.normal(key, (6, 3))
    y, mask = jnp.array([[1, 2, 3, 0], [4, 5, 0, 0]]), jnp.arange(4) < jnp.array([[3], [2]])

    def loss(h, e, y, mask):
        pair_loss = lambda c, m: eisl.eisl_from_pairs(  # noqa: E731
            c, ngrams=(1, 2), logits_mask=m, targets_mask=m
        )
        return fused_linear.fused_loss(h, e, y, pair_loss, mask)

    run = jax.jit(jax.value_and_grad(loss, (0, 1)))
    value, grads = run(h, e, y, mask)
    filled = jnp.where(mask[..., None], h, jnp.nan)
    same, others = run(filled, e, jnp.where(mask, y, -100), mask)
    assert same == pytest.approx(float(value), rel=1e-6)
    for a, b in zip(grads, others, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-6)
    empty, (_, d_embedding) = run(h[:0], e, y[:0], mask[:0])
    assert empty == 0
    assert (d_embedding == 0).all()
    assert jnp.isnan(run(h, e, y.at[0, 0].set(6), mask)[0])
