"""Guidance against Gaussians, where the guided law is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import guided, samplers, schedule
from jaxgen.diffusion.guidance import gaussian_posterior

CHAIN = schedule.linear(400, beta_min=1e-4, beta_max=0.05)
MEAN, STD = jnp.array([0.5, -1.0, 0.0]), jnp.array([1.0, 0.5, 1.0])


def optimal(z, t):
    """The exact noise predictor of z_0 ~ N(MEAN, STD^2)."""
    signal, rest = jnp.sqrt(CHAIN.alpha_bar[t])[:, None], CHAIN.one_minus_alpha_bar[t][:, None]
    return jnp.sqrt(rest) * (z - signal * MEAN) / (signal**2 * STD**2 + rest)


def test_a_linear_energy_moves_the_mean_by_its_slope(key):
    """p(z) exp(-a.z) of N(m, s^2) is N(m - s^2 a, s^2): the guided score is exact for linear E."""
    slope = jnp.array([1.0, 2.0, -0.5])
    steer = guided(optimal, lambda z: z @ slope, CHAIN)
    noise = jax.random.normal(key, (4000, 3))
    z = samplers.ddim(steer, noise, CHAIN, num_steps=400)
    # The draw is shifted noise: its own mean is off by 1 / sqrt(4000) a standard deviation, twice.
    np.testing.assert_allclose(z.mean(0), MEAN - STD**2 * slope, atol=0.05)
    np.testing.assert_allclose(z.std(0), STD, rtol=0.05)
    again = samplers.ancestral(steer, noise, jax.random.key(1), CHAIN)
    np.testing.assert_allclose(again.mean(0), MEAN - STD**2 * slope, atol=0.06)


C = jnp.array([[1.0, 0.3, 0.0], [0.3, 0.25, -0.1], [0.0, -0.1, 0.09]])


def test_posterior_of_a_gaussian_against_its_joint():
    """Conditioning of the joint law of (z_0, z_t), at four t; moments of 40,000 draws within 4 errors."""
    draw = gaussian_posterior(MEAN, C, CHAIN, jax.random.key(0), draws=40_000)
    z, t = jax.random.normal(jax.random.key(1), (4, 3)), jnp.array([1, 40, 150, 400])
    got = draw(z, t)
    assert got.shape == (40_000, 4, 3)
    for row in range(4):
        kept, rest = CHAIN.alpha_bar[t[row]], CHAIN.one_minus_alpha_bar[t[row]]
        gain = jnp.sqrt(kept) * C @ jnp.linalg.inv(kept * C + rest * jnp.eye(3))
        mean = MEAN + gain @ (z[row] - jnp.sqrt(kept) * MEAN)
        covariance = C - jnp.sqrt(kept) * gain @ C
        error = 4.0 * jnp.sqrt(jnp.diag(covariance) / 40_000) + 1e-4
        assert (jnp.abs(got[:, row].mean(0) - mean) < error).all()
        np.testing.assert_allclose(np.cov(got[:, row].T), covariance, atol=0.03, rtol=0.04)
    twice = draw(z[:1].repeat(2, 0), t[1:2].repeat(2))
    assert not np.allclose(twice[:, 0], twice[:, 1])  # each row has draws of its own


def correlated(z, t):
    """The exact noise predictor of z_0 ~ N(MEAN, C)."""
    kept, rest = CHAIN.alpha_bar[t], CHAIN.one_minus_alpha_bar[t]
    whole = kept[:, None, None] * C + rest[:, None, None] * jnp.eye(3)
    off = z - jnp.sqrt(kept)[:, None] * MEAN
    return jnp.sqrt(rest)[:, None] * jnp.linalg.solve(whole, off[..., None])[..., 0]


def test_a_linear_energy_moves_a_correlated_mean_by_the_covariance(key):
    """p(z) exp(-a.z) of N(m, C) is N(m - C a, C), whatever the draws are."""
    slope = jnp.array([1.0, 2.0, -0.5])
    around = gaussian_posterior(MEAN, C, CHAIN, jax.random.key(2), draws=1)
    steer = guided(correlated, lambda z: z @ slope, CHAIN, posterior=around)
    z = samplers.ddim(steer, jax.random.normal(key, (4000, 3)), CHAIN, num_steps=400)
    np.testing.assert_allclose(z.mean(0), MEAN - C @ slope, atol=0.06)
    np.testing.assert_allclose(np.cov(z.T), C, atol=0.06)


def test_gradient_is_of_the_row_alone_and_of_the_predicted_z0():
    """Against finite differences of E(z_0_hat) in float64-like steps, each row by itself."""
    energy = lambda z: jnp.sin(z).sum(-1) * 2.0  # noqa: E731
    steer = guided(optimal, energy, CHAIN)
    z, t = jnp.array([[0.3, -0.2, 1.0], [2.0, 0.1, -1.0]]), jnp.array([100, 20])
    got = steer(z, t)
    np.testing.assert_allclose(got[1:], steer(z[1:], t[1:]), rtol=1e-5)
    rest, signal = (
        jnp.sqrt(CHAIN.one_minus_alpha_bar[t])[:, None],
        jnp.sqrt(CHAIN.alpha_bar[t])[:, None],
    )
    for d in range(3):
        h = 1e-2 * jnp.eye(3)[d]
        hat = [energy((x - rest * optimal(x, t)) / signal) for x in (z + h, z - h)]
        want = optimal(z, t)[:, d] + rest[:, 0] * (hat[0] - hat[1]) / 2e-2
        np.testing.assert_allclose(got[:, d], want, rtol=2e-3, atol=2e-3)


def test_zero_energy_changes_nothing_and_weights_may_be_traced(key):
    z, t = jax.random.normal(key, (4, 3)), jnp.full(4, 30)

    @jax.jit
    def at(weight):
        return guided(optimal, lambda z: weight * (z**2).sum(-1), CHAIN)(z, t)

    np.testing.assert_allclose(at(0.0), optimal(z, t), rtol=1e-6)
    assert np.isfinite(jax.grad(lambda w: at(w).sum())(1.0))
    half = guided(lambda z, t: optimal(z, t).astype(z.dtype), lambda z: (z**2).sum(-1), CHAIN)
    assert half(z.astype(jnp.bfloat16), t).dtype == jnp.bfloat16


def test_a_step_beyond_the_chain():
    steer = guided(lambda z, t: z, lambda z: z.sum(-1), CHAIN)
    with pytest.raises(ValueError, match="401"):
        steer(jnp.ones((1, 3)), jnp.array([401]))
    with pytest.raises(ValueError, match="draws is 0, allowed: at least 1"):
        gaussian_posterior(MEAN, C, CHAIN, jax.random.key(0), draws=0)
