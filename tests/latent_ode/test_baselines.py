"""Against a Gaussian: prior N(0, 1), energy (z - b)^2 / 2, so the target is N(b / 2, 1 / 2)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.latent_ode import ascent, baselines

B = 2.0


def energy(z):
    return 0.5 * jnp.sum((z - B) ** 2)


def test_sgld_draws_from_the_posterior():
    z = jax.random.normal(jax.random.key(0), (4000, 1))
    got = baselines.sgld(energy, z, jax.random.key(1), steps=400, rate=0.02)
    # Stationary variance of the discretised chain: rate / (1 - (1 - rate)^2) = 0.505. Standard
    # errors over 4,000 rows: 0.011 of the mean, 0.011 of the variance.
    assert float(got.mean()) == pytest.approx(B / 2, abs=0.05)
    assert float(got.var()) == pytest.approx(0.505, abs=0.05)
    still = baselines.sgld(energy, z, jax.random.key(1), steps=400, rate=0.02, noise=0.0)
    assert np.allclose(still, B / 2, atol=2e-3)


def test_predictor_corrector_draws_near_the_guided_target():
    """The SDE with the energy of clean latents at every t; its stationary law is the posterior."""
    z = jax.random.normal(jax.random.key(0), (4000, 1))
    got = baselines.predictor_corrector(energy, z, jax.random.key(1), steps=500)
    assert float(got.mean()) == pytest.approx(B / 2, abs=0.08)
    assert 0.35 < float(got.var()) < 0.65
    again = baselines.predictor_corrector(energy, z, jax.random.key(1), steps=500)
    assert np.array_equal(got, again)


def test_zero_steps_and_shift():
    z = jnp.ones((2, 3))
    assert np.array_equal(baselines.sgld(energy, z, jax.random.key(0), steps=0, rate=0.1), z)
    moved = baselines.linear_shift(z, jnp.asarray([1.0, 0.0, -1.0]), 2.0)
    assert np.array_equal(moved, [[3.0, 1.0, -1.0]] * 2)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (baselines.sgld, {"steps": -1, "rate": 0.1}, "steps, noise are -1"),
        (baselines.sgld, {"steps": 1, "rate": 0.0}, "rate is 0"),
        (baselines.predictor_corrector, {"steps": 0}, "steps, corrections are 0"),
        (baselines.predictor_corrector, {"steps": 1, "snr": 0.0}, "snr is 0"),
        (baselines.predictor_corrector, {"steps": 1, "t_start": 2.0}, "t_start is 2"),
    ],
)
def test_bad_settings(function, options, message):
    with pytest.raises(ValueError, match=message):
        function(energy, jnp.zeros((1, 1)), jax.random.key(0), **options)


def test_options_may_be_traced_and_are_checked_where_they_are_known():
    z, key = jnp.ones((2, 3)), jax.random.key(0)
    energy = lambda z: jnp.sum((z - 1) ** 2)  # noqa: E731

    def walk(rate, noise):
        return baselines.sgld(energy, z, key, steps=3, rate=rate, noise=noise)

    def correct(t, snr):
        return baselines.predictor_corrector(energy, z, key, steps=3, t_start=t, snr=snr)

    def climb(rate, penalty):
        return ascent.gradient_ascent(energy, z, steps=3, rate=rate, penalty=penalty)

    for f, values in ((walk, (0.1, 0.5)), (correct, (0.5, 0.2)), (climb, (0.1, 0.3))):
        np.testing.assert_allclose(jax.jit(f)(*values), f(*values), rtol=1e-5)
        with pytest.raises(ValueError, match="is nan, allowed: "):
            f(float("nan"), values[1])
        with pytest.raises(ValueError, match="nan, allowed: "):
            f(values[0], float("nan"))
        with pytest.raises(ValueError, match=r"is -0\.1, allowed: above 0"):
            f(-0.1, values[1])
