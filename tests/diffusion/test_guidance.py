"""Guidance against Gaussians, where the guided law is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import guided, samplers, schedule

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


def test_shortcut_is_exact_for_a_standard_normal():
    unit = lambda z, t: jnp.sqrt(CHAIN.one_minus_alpha_bar[t])[:, None] * z  # noqa: E731
    energy = lambda z: (z**3).sum(-1) + (z[:, 0] - 1.0) ** 2  # noqa: E731
    z, t = jax.random.normal(jax.random.key(0), (6, 3)), jnp.array([1, 5, 50, 200, 399, 400])
    got = [guided(unit, energy, CHAIN, through_network=b)(z, t) for b in (True, False)]
    np.testing.assert_allclose(got[0], got[1], rtol=1e-3, atol=1e-4)
    assert float(jnp.abs(got[0] - unit(z, t)).max()) > 0.1


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
