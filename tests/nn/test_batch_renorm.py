import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.nn import batch_renorm


def test_value_uses_running_moments_only(key):
    h = 3.0 + 2.0 * jax.random.normal(key, (64, 4))
    moments = batch_renorm.Moments(jnp.full(4, 3.0), jnp.full(4, 4.0), jnp.float32(1e6))
    z, new = batch_renorm.standardise(h, moments, momentum=1.0)
    assert np.allclose(z, (h - 3.0) / 2.0, atol=1e-4)
    assert np.allclose(new.mean, moments.mean)
    alone, _ = batch_renorm.standardise(h.at[1:].mul(5.0), moments, momentum=1.0)
    assert np.allclose(alone[0], z[0], atol=1e-4)  # no dependence on the neighbours


def test_first_batch_is_standardised_exactly_and_moments_converge(key):
    moments = batch_renorm.init(3)
    z, moments = batch_renorm.standardise(5.0 + jax.random.normal(key, (512, 3)), moments)
    assert np.allclose(z.mean(0), 0, atol=1e-4)
    assert np.allclose(z.std(0), 1, atol=1e-3)
    for k in jax.random.split(key, 300):
        _, moments = batch_renorm.standardise(-1.0 + 0.5 * jax.random.normal(k, (512, 3)), moments)
    assert np.allclose(moments.mean, -1.0, atol=0.02)
    assert np.allclose(moments.var, 0.25, atol=0.02)


def test_no_loss_can_shrink_or_shift_the_latents(key):
    """The gradient is orthogonal to scaling and to shifting h."""
    h = jax.random.normal(key, (32, 2))
    moments = batch_renorm.Moments(jnp.zeros(2), jnp.full(2, 0.5), jnp.float32(1e6))
    g = jax.grad(lambda h: (batch_renorm.standardise(h, moments)[0] ** 2).sum())(h)
    w = jax.random.normal(jax.random.key(1), (32, 2))
    g = g + jax.grad(lambda h: (batch_renorm.standardise(h, moments)[0] * w).sum())(h)
    assert np.allclose((g * (h - h.mean(0))).sum(0), 0, atol=1e-3)
    assert np.allclose(g.sum(0), 0, atol=1e-3)
    assert jnp.abs(g).max() > 1e-2


def test_a_batch_without_rows_changes_nothing_and_one_row_is_finite():
    moments = batch_renorm.standardise(jnp.arange(6.0).reshape(3, 2), batch_renorm.init(2))[1]
    empty, same = batch_renorm.standardise(jnp.zeros((0, 2)), moments)
    assert empty.shape == (0, 2)
    assert same == moments
    z, _ = batch_renorm.standardise(jnp.ones((1, 2)), moments)
    grad = jax.grad(lambda h: batch_renorm.standardise(h, moments)[0].sum())(jnp.ones((1, 2)))
    assert jnp.isfinite(z).all()
    assert jnp.isfinite(grad).all()
