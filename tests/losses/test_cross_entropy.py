"""Cross-entropy against numpy in float64, and against optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax

from jaxgen.losses import eisl
from jaxgen.losses.cross_entropy import cross_entropy, mean_cross_entropy, sum_cross_entropy

B, T, V = 3, 5, 7
MASK = np.arange(T) < np.array([[5], [3], [0]])


def drawn(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return jnp.asarray(3 * rng.normal(size=(B, T, V)), dtype), jnp.asarray(
        rng.integers(0, V, (B, T)), jnp.int32
    )


def oracle(logits, targets, smoothing=0.0):
    logp = log_softmax(np.asarray(logits, np.float64), -1)
    chosen = np.take_along_axis(logp, np.asarray(targets)[..., None], -1)[..., 0]
    return -(1 - smoothing) * chosen - smoothing * logp.mean(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_each_sum_and_mean_against_numpy(smoothing):
    x, y = drawn()
    want = oracle(x, y, smoothing)
    options = {"label_smoothing": smoothing}
    np.testing.assert_allclose(cross_entropy(x, y, **options), want, rtol=1e-5)
    np.testing.assert_allclose(
        cross_entropy(x, y, jnp.asarray(MASK), **options), want * MASK, rtol=1e-5
    )
    total, count = sum_cross_entropy(x, y, jnp.asarray(MASK), **options)
    np.testing.assert_allclose(total, (want * MASK).sum(1), rtol=1e-5)
    assert count.tolist() == [5, 3, 0]
    assert count.dtype == jnp.int32
    mean = mean_cross_entropy(x, y, jnp.asarray(MASK), **options)
    np.testing.assert_allclose(mean, (want * MASK).sum(1) / [5, 3, 1], rtol=1e-5)
    np.testing.assert_allclose(mean_cross_entropy(x, y, **options), want.mean(1), rtol=1e-5)
    assert sum_cross_entropy(x, y)[1].tolist() == [T] * B


def test_the_forms_that_it_replaces():
    """EISL's mixture without n-grams, optax, and labels of which some are unknown."""
    x, y = drawn(1)
    mask = jnp.asarray(MASK)
    for smoothing in (0.0, 0.1):
        options = {"mask": mask, "label_smoothing": smoothing}
        want = eisl.mixed_loss(x, y, ngram_factor=0.0, **options)
        np.testing.assert_allclose(mean_cross_entropy(x, y, **options), want, rtol=1e-5)
    want = optax.softmax_cross_entropy_with_integer_labels(x, y)
    np.testing.assert_allclose(cross_entropy(x, y), want, rtol=1e-5, atol=1e-6)
    labels = jnp.where(jnp.arange(T) < 3, y[0], -1)
    got = mean_cross_entropy(x[0], labels, labels >= 0)
    np.testing.assert_allclose(got, oracle(x[0, :3], y[0, :3]).mean(), rtol=1e-5)


def test_gradient_is_softmax_less_the_target():
    x, y = drawn(2)
    grad = jax.grad(lambda x: cross_entropy(x, y, label_smoothing=0.2).sum())(x)
    want = jax.nn.softmax(x) - 0.8 * jax.nn.one_hot(y, V) - 0.2 / V
    np.testing.assert_allclose(grad, want, atol=1e-6)


def test_masked_positions_reach_neither_value_nor_gradient():
    x, y = drawn(3)
    mask = jnp.asarray(MASK)
    run = jax.jit(
        jax.value_and_grad(
            lambda x, y: mean_cross_entropy(x, y, mask, label_smoothing=0.1).sum(), 0
        )
    )
    value, grad = run(x, y)
    same, other = run(jnp.where(mask[..., None], x, jnp.nan), jnp.where(mask, y, -1))
    assert float(same) == float(value)
    assert np.array_equal(grad, other)
    assert not grad[2].any()
    assert (cross_entropy(x, y, jnp.zeros_like(mask)) == 0).all()


def test_impossible_tokens_and_unknown_targets():
    x, y = drawn(4)
    other = (y[..., None] + 1) % V == jnp.arange(V)  # a token that is not the target
    masked = jnp.where(other, -jnp.inf, x)
    value, grad = jax.value_and_grad(lambda x: cross_entropy(x, y).sum())(masked)
    want = log_softmax(np.where(other, -np.inf, np.asarray(x, np.float64)), -1)
    chosen = np.take_along_axis(want, np.asarray(y)[..., None], -1)
    assert float(value) == pytest.approx(-chosen.sum(), rel=1e-5)
    assert jnp.isfinite(grad).all()
    assert not grad[other].any()
    own = y[..., None] == jnp.arange(V)
    assert jnp.isposinf(cross_entropy(jnp.where(own, -jnp.inf, x), y)).all()
    assert jnp.isposinf(cross_entropy(masked, y, label_smoothing=0.1)).all()
    # A traced smoothing of 0 is none.
    annealed = jax.jit(lambda s: cross_entropy(masked, y, label_smoothing=s))(0.0)
    np.testing.assert_allclose(annealed, cross_entropy(masked, y), rtol=1e-6)
    for bad in (-1, V):
        got = cross_entropy(x, y.at[1, 2].set(bad))
        assert jnp.isnan(got[1, 2])
        assert jnp.isnan(got).sum() == 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_computes_wide(dtype):
    x, y = drawn(5, dtype)
    got = mean_cross_entropy(x, y, label_smoothing=0.1)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, oracle(x, y, 0.1).mean(1), rtol=1e-5)
    grad = jax.grad(lambda x: mean_cross_entropy(x, y).sum())(x)
    assert grad.dtype == dtype
    many = jnp.zeros((1, 70_000, 2), dtype)  # whose sum float16 cannot hold
    total, _ = sum_cross_entropy(many, jnp.zeros((1, 70_000), jnp.int32))
    assert float(total[0]) == pytest.approx(70_000 * np.log(2), rel=1e-4)


def test_large_logits_under_jit_and_vmap():
    x, y = drawn(6)
    x = 1e4 * x
    want = oracle(x, y)
    np.testing.assert_allclose(jax.jit(cross_entropy)(x, y), want, rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(jax.vmap(cross_entropy)(x, y), want, rtol=1e-5, atol=1e-2)
    mean = jax.vmap(mean_cross_entropy)(x, y, jnp.asarray(MASK))
    np.testing.assert_allclose(mean, (want * MASK).sum(1) / [5, 3, 1], rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("bad", [-0.1, 1.0, float("nan")])
def test_bad_smoothing(bad):
    with pytest.raises(ValueError, match="label_smoothing is"):
        cross_entropy(*drawn(), label_smoothing=bad)


def test_no_rows_and_no_tokens():
    x, y = drawn()
    assert mean_cross_entropy(x[:0], y[:0]).shape == (0,)
    assert mean_cross_entropy(x[:, :0], y[:, :0]).tolist() == [0.0] * B


def test_rows_without_a_label_do_not_count():
    """The loss of attribute heads on labels of which some are unknown, by hand."""
    logits, y = jnp.asarray([[2.0, 0.0], [0.0, 1.0], [5.0, 5.0]]), jnp.asarray([0, 1, -1])
    want = -np.mean([jax.nn.log_softmax(logits[i])[y[i]] for i in (0, 1)])
    assert float(mean_cross_entropy(logits, y, y >= 0)) == pytest.approx(want, abs=1e-6)
