"""Group normalisation: flax' own, from the same parameters."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.nn.group_norm import GroupNorm


def both(channels, groups, dtype=None):
    norms = [
        kind(channels, num_groups=groups, dtype=dtype, rngs=nnx.Rngs(0))
        for kind in (GroupNorm, nnx.GroupNorm)
    ]
    for norm in norms:
        norm.scale[...] = jnp.linspace(0.5, 2.0, channels)
        norm.bias[...] = jnp.linspace(-1.0, 1.0, channels)
    return norms


@settings(max_examples=6, deadline=None)
@given(
    rows=st.integers(1, 3),
    sides=st.lists(st.integers(1, 5), max_size=2),
    groups=st.integers(1, 4),
    each=st.integers(1, 4),
)
def test_values_and_gradients_of_flax(rows, sides, groups, each):
    ours, theirs = both(groups * each, groups)
    x = 2 + 3 * jax.random.normal(jax.random.key(0), (rows, *sides, groups * each))
    w = jax.random.normal(jax.random.key(1), x.shape)

    def run(norm, x):
        return (jnp.sin(norm(x)) * w).sum()

    if each * math.prod(sides) == 1:
        return  # one number a group: its variance is nothing but rounding
    # Few numbers may lie close together: flax takes their variance as a difference of squares, which rounds by eps x^2.
    exact = np.asarray(x, np.float64).reshape(rows, -1, groups, each)
    rounding = 4 * np.finfo(np.float32).eps * (exact**2).max() / exact.var((1, 3)).min()
    np.testing.assert_allclose(ours(x), theirs(x), atol=3e-5 + rounding)
    got, want = (jax.grad(run, argnums=(0, 1))(norm, x) for norm in (ours, theirs))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-4 + 10 * rounding, rtol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_the_result_has_the_asked_dtype_and_statistics_are_wide(dtype):
    ours, theirs = both(8, 4, dtype)
    x = (300 + jax.random.normal(jax.random.key(0), (2, 16, 16, 8))).astype(dtype)
    assert ours(x).dtype == dtype
    exact = np.asarray(x, np.float64).reshape(2, 256, 4, 2)
    exact = (exact - exact.mean((1, 3), keepdims=True)) / exact.std((1, 3), keepdims=True)
    exact = exact.reshape(x.shape) * np.asarray(ours.scale[...]) + np.asarray(ours.bias[...])
    away = [np.abs(np.asarray(norm(x), np.float64) - exact).max() for norm in (ours, theirs)]
    assert away[0] < 2 * float(jnp.finfo(dtype).eps) + 1e-4
    assert away[0] <= away[1] + 1e-6


def test_a_constant_is_its_bias_and_has_a_gradient():
    norm = both(6, 3)[0]
    x = jnp.full((2, 5, 6), 7.3)
    np.testing.assert_allclose(norm(x), jnp.broadcast_to(norm.bias[...], x.shape), atol=1e-2)
    assert jnp.isfinite(jax.grad(lambda x: norm(x).sum())(x)).all()


def test_the_same_names_and_draws_as_flax():
    names = [
        [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(norm)]
        for norm in both(6, 3)
    ]
    assert names[0] == names[1]
    counts = []
    for kind in (GroupNorm, nnx.GroupNorm):
        rngs = nnx.Rngs(0)
        kind(6, num_groups=3, rngs=rngs)
        counts.append(int(rngs.params.count[...]))
    assert counts[0] == counts[1]


def test_groups_divide_the_channels():
    with pytest.raises(ValueError, match="num_groups is 4, allowed: a divisor of 6 channels"):
        GroupNorm(6, num_groups=4, rngs=nnx.Rngs(0))
