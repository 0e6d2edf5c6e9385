import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen import fsdp
from jaxgen import mesh as mesh_lib
from jaxgen.nn.layers import linear
from jaxgen.nn.rows import on_one_axis


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.integers(0, 4), max_size=3), seed=st.integers(0, 99))
def test_it_is_f_for_any_axes_of_rows(rows, seed):
    x, w = (
        jax.random.normal(k, s)
        for k, s in zip(jax.random.split(jax.random.key(seed)), ((*rows, 5), (5, 3)), strict=True)
    )
    got = on_one_axis(lambda rows: rows @ w, x)
    assert got.shape == (*rows, 3)
    np.testing.assert_allclose(got, x @ w, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_and_dtypes_are_those_of_the_layer(key, dtype):
    layer = nnx.Linear(6, 4, dtype=dtype, rngs=nnx.Rngs(0))
    x = jax.random.normal(key, (3, 5, 6), dtype)

    def loss(layer, x, call):
        return (call(layer, x).astype(jnp.float32) ** 2).sum()

    got, want = (
        jax.grad(loss, (0, 1))(layer, x, call) for call in (linear, lambda layer, x: layer(x))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-2, atol=1e-5), got, want)
    assert linear(layer, x).dtype == dtype
    many = jax.vmap(linear, (None, 0))(layer, jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(many[0], linear(layer, x), rtol=1e-2)


def test_the_gradient_of_a_weight_sums_over_one_axis():
    w, x = jnp.ones((6, 4)), jnp.ones((3, 5, 6))
    grad = jax.grad(lambda w: on_one_axis(lambda rows: jnp.tanh(rows @ w), x).sum())
    summed = [
        e.params["dimension_numbers"][0][0]
        for e in jax.make_jaxpr(grad)(w).eqns
        if e.primitive.name == "dot_general"
    ]
    assert summed
    assert all(len(axes) == 1 for axes in summed)


def test_other_platforms_have_the_rows_as_they_are(monkeypatch):
    seen = []

    def apply():
        return on_one_axis(lambda rows: seen.append(rows.shape) or rows, jnp.ones((3, 5, 6)))

    with fsdp.over(mesh_lib.make_mesh({"data": 1}, jax.devices()[:1])):
        apply()
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    apply()
    monkeypatch.undo()
    # Compiled here for a mesh that is elsewhere.
    there = types.SimpleNamespace(abstract_device=types.SimpleNamespace(platform="tpu"))
    monkeypatch.setattr(jax.sharding, "get_abstract_mesh", lambda: there)
    apply()
    assert seen == [(15, 6), (3, 5, 6), (3, 5, 6)]
