import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import gaussian, schedule

N = 100_000


@pytest.mark.parametrize("t", [1, 50, 100])
def test_q_sample_moments(key, t):
    """Mean and variance over 1e5 draws, within five standard errors of their estimates."""
    s = schedule.linear(100, 1e-3, 0.1)
    eps = jax.random.normal(key, (N, 1))
    z_t = gaussian.q_sample(jnp.full((N, 1), 1.7), jnp.full(N, t), eps, s)
    var = float(s.one_minus_alpha_bar[t])
    assert z_t.mean() == pytest.approx(1.7 * np.sqrt(s.alpha_bar[t]), abs=5 * np.sqrt(var / N))
    assert z_t.var() == pytest.approx(var, rel=5 * np.sqrt(2 / N))


def test_chain_of_single_steps_has_the_same_moments(key):
    s = schedule.linear(20, 1e-3, 0.2)
    z = jnp.full((N,), -0.8)
    for t, k in enumerate(jax.random.split(key, 20), 1):
        z = jnp.sqrt(s.alpha(t)) * z + jnp.sqrt(s.beta[t]) * jax.random.normal(k, (N,))
    var = float(s.one_minus_alpha_bar[20])
    assert z.mean() == pytest.approx(-0.8 * np.sqrt(s.alpha_bar[20]), abs=5 * np.sqrt(var / N))
    assert z.var() == pytest.approx(var, rel=5 * np.sqrt(2 / N))


@pytest.mark.parametrize("t", [1, 2, 17, 50])
def test_posterior_is_bayes_rule_on_a_grid(t):
    """q(z_{t-1}|z_t,z_0) from the product of its two factors, normalised numerically."""
    s = schedule.linear(50, 1e-2, 0.2)
    z_0, z_t = 0.6, -0.3
    grid = np.linspace(-6, 6, 200_001)
    beta, alpha_bar = np.asarray(s.beta, np.float64), np.asarray(s.alpha_bar, np.float64)
    mean, var = gaussian.q_posterior(jnp.array([[z_0]]), jnp.array([[z_t]]), jnp.array([t]), s)
    if t == 1:  # z_0 itself
        assert mean[0, 0] == pytest.approx(z_0, abs=1e-5)
        assert var[0] == 0
        return
    log_p = -((grid - np.sqrt(alpha_bar[t - 1]) * z_0) ** 2) / (2 * (1 - alpha_bar[t - 1]))
    log_p -= (z_t - np.sqrt(1 - beta[t]) * grid) ** 2 / (2 * beta[t])
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    want_mean = (p * grid).sum()
    want_var = (p * (grid - want_mean) ** 2).sum()
    assert mean[0, 0] == pytest.approx(want_mean, abs=1e-5)
    assert var[0] == pytest.approx(want_var, rel=1e-4)


def test_predicted_z0_and_mean_agree_with_the_posterior(key):
    """mu_theta with the true noise is the posterior mean at the true z_0."""
    s = schedule.linear(30, 1e-2, 0.2)
    z_0, eps = jax.random.normal(key, (2, 64, 3))
    t = jnp.arange(64) % 30 + 1
    z_t = gaussian.q_sample(z_0, t, eps, s)
    assert np.allclose(gaussian.predict_z0(z_t, t, eps, s), z_0, atol=1e-4)
    mean, _ = gaussian.q_posterior(z_0, z_t, t, s)
    assert np.allclose(gaussian.p_mean(z_t, t, eps, s), mean, atol=1e-4)


def test_prior_kl_against_numerical_integration():
    s = schedule.linear(10, 0.05, 0.2)
    mean, sigma = 0.9, 0.3
    m = np.sqrt(s.alpha_bar[-1]) * mean
    v = float(s.alpha_bar[-1] * sigma**2 + s.one_minus_alpha_bar[-1])
    grid = np.linspace(-12, 12, 100_001)
    q = np.exp(-((grid - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)
    log_ratio = -((grid - m) ** 2) / (2 * v) - 0.5 * np.log(v) + grid**2 / 2
    want = np.sum(q * log_ratio) * (grid[1] - grid[0])
    got = gaussian.prior_kl(jnp.full((1, 2), mean), sigma, s)
    assert got[0] == pytest.approx(2 * want, rel=1e-4)


def optimal_denoiser(s, variance):
    """E[eps | z_t] for data N(0, variance): linear in z_t."""

    def denoise(z_t, t):
        a, b = s.alpha_bar[t], s.one_minus_alpha_bar[t]
        return gaussian.per_example(jnp.sqrt(b) / (a * variance + b), z_t) * z_t

    return denoise


def exhaustive_elbo(denoise, z_0, key, s):
    """-ELBO of DDPM with every t visited: far less noise than one random t."""

    def chain_term(total, t_and_key):
        t, k = t_and_key
        eps = jax.random.normal(k, z_0.shape)
        ts = jnp.full(z_0.shape[:1], t)
        error = (eps - denoise(gaussian.q_sample(z_0, ts, eps, s), ts)) ** 2
        return total + s.elbo_weight(t) * error.sum(-1).mean(), None

    steps = s.num_steps
    total, _ = jax.lax.scan(
        chain_term, 0.0, (jnp.arange(1, steps + 1), jax.random.split(key, steps))
    )
    dim = z_0.shape[-1]
    total += dim * (0.5 * jnp.log(2 * jnp.pi * s.beta[1]) + gaussian.reverse_variance_kl(s))
    return float(total + gaussian.prior_kl(z_0, 0.0, s).mean())


def test_elbo_of_gaussian_data_is_tight_as_the_chain_grows(key):
    """-ELBO minus the entropy is the gap: never negative, and to 0 as T grows. Noise: each term
    has a standard error of about 0.01 / (2 t), together 0.006."""
    variance, n = 0.25, 20_000
    entropy = 0.5 * np.log(2 * np.pi * np.e * variance)
    z = jnp.sqrt(variance) * jax.random.normal(key, (n, 1))
    gaps = []
    for steps in (10, 100, 2000):
        s = schedule.VPSDE().discretise(steps)
        gaps.append(exhaustive_elbo(optimal_denoiser(s, variance), z, key, s) - entropy)
    assert gaps[0] > 0.05
    assert gaps[0] > 2 * gaps[1]
    assert abs(gaps[2]) < 0.03


@pytest.mark.parametrize("weighting", ["simple", "elbo"])
def test_loss_over_random_t_is_the_exhaustive_value(key, weighting):
    """Fifty independent estimates; five standard errors of their mean."""
    s = schedule.linear(20, 1e-2, 0.3)
    z = 0.5 * jax.random.normal(key, (4_000, 2))
    denoise = optimal_denoiser(s, 0.3)
    draw = jax.jit(lambda k: gaussian.loss(denoise, z, k, s, weighting=weighting)[0])
    values = np.array([draw(k) for k in jax.random.split(key, 50)])
    if weighting == "elbo":
        want = exhaustive_elbo(denoise, z, jax.random.key(8), s)
    else:
        t = jnp.tile(jnp.arange(1, 21), 200)
        eps = jax.random.normal(jax.random.key(8), z.shape)
        want = ((eps - denoise(gaussian.q_sample(z, t, eps, s), t)) ** 2).sum(-1).mean()
    error = values.std() / np.sqrt(50)
    assert values.mean() == pytest.approx(float(want), abs=5 * np.sqrt(2) * error + 0.02)


@pytest.mark.parametrize("t", [-1, 11])
def test_steps_that_the_chain_does_not_have(t):
    chain, z, steps = schedule.linear(10), jnp.ones((2, 3)), jnp.array([10, t])
    for f in (gaussian.q_sample, gaussian.predict_z0, gaussian.p_mean):
        args = (z, steps, z, chain)
        with pytest.raises(ValueError, match=rf"t is \[{t}\], allowed: 0 to 10"):
            f(*args)
        first, second = jax.jit(f)(*args)
        assert np.isfinite(first).all()
        assert np.isnan(second).all()
    with pytest.raises(ValueError, match=rf"t is \[{t}\]"):
        gaussian.q_posterior(z, z, steps, chain)
