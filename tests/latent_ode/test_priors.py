import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from jaxgen.latent_ode import priors


def latents(n=3000):
    mix = jnp.asarray([[1.0, 0.0], [0.8, 0.3]])
    return jax.random.normal(jax.random.key(0), (n, 2)) @ mix.T + jnp.asarray([1.0, -2.0])


def test_gaussian_whitens_and_scores():
    z = latents()
    fit = priors.Gaussian.fit(z, floor=0.0)
    u = fit.whiten(z)
    assert np.allclose(u.mean(0), 0, atol=1e-5)
    assert np.allclose(np.cov(u.T, bias=True), np.eye(2), atol=1e-4)
    assert np.allclose(fit.unwhiten(u), z, atol=1e-5)
    want = multivariate_normal(z.mean(0), np.cov(z.T, bias=True)).logpdf(z[:50])
    assert np.allclose(fit.log_prob(z[:50]), want, atol=1e-3)


def test_gaussian_samples_have_its_moments():
    fit = priors.Gaussian.fit(latents())
    draws = fit.sample(jax.random.key(1), 20_000)
    # Standard error of a covariance entry is below 1.2 sqrt(2 / 20,000) = 0.012.
    assert np.allclose(draws.mean(0), fit.mean, atol=0.04)
    assert np.allclose(np.cov(draws.T), fit.root @ fit.root.T, atol=0.05)


@pytest.mark.slow
def test_gan_finds_modes_that_a_gaussian_misses():
    key = jax.random.key(2)
    side = jnp.where(jax.random.bernoulli(key, 0.5, (4000, 1)), 1.0, -1.0)
    z = 0.2 * jax.random.normal(jax.random.key(3), (4000, 2)) + side * jnp.asarray([1.0, 0.0])
    generator, losses = jax.jit(lambda z, k: priors.fit_gan(z, k, steps=1500))(z, jax.random.key(4))
    draws = priors.generate(generator, jax.random.key(5), 4000)
    gaussian = priors.Gaussian.fit(z).sample(jax.random.key(6), 4000)

    def between(x):  # share in the gap, where there are no data
        return float((jnp.abs(x[:, 0]) < 0.4).mean())

    assert between(gaussian) > 0.25
    assert between(draws) < 0.5 * between(gaussian)
    assert 0.3 < float((draws[:, 0] > 0).mean()) < 0.7
    assert losses["generator"].shape == (1500,)


def test_one_row_is_not_enough():
    with pytest.raises(ValueError, match="1 rows, allowed: at least 2"):
        priors.Gaussian.fit(jnp.zeros((1, 3)))
