import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.diffusion import schedule


@pytest.mark.parametrize("kind", list(schedule.KINDS))
@pytest.mark.parametrize("steps", [1, 7, 1000])
def test_products_and_bounds(kind, steps):
    if kind == "vp_sde" and steps == 1:
        steps = 2
    s = schedule.make(kind, steps)
    beta = np.asarray(s.beta, np.float64)
    assert s.num_steps == steps
    assert beta[0] == 0
    assert s.alpha_bar[0] == 1
    assert np.all((beta[1:] > 0) & (beta[1:] < 1))
    assert np.allclose(s.alpha_bar, np.cumprod(1 - beta), rtol=2e-4, atol=1e-9)
    assert np.allclose(s.alpha_bar + s.one_minus_alpha_bar, 1, atol=1e-6)
    assert np.all(np.diff(s.alpha_bar) < 0)


def test_published_values():
    linear = schedule.linear(1000)
    assert linear.beta[1] == pytest.approx(1e-4)
    assert linear.beta[-1] == pytest.approx(0.02)
    # Ho et al. (2020), section 4: KL(q(x_T|x_0) || N(0, I)) is about 1e-5 bits per dimension.
    assert linear.alpha_bar[-1] == pytest.approx(4.04e-5, rel=0.01)
    vp = schedule.vp_sde(1000)
    assert vp.alpha_bar[-1] == pytest.approx(np.exp(-10.05), rel=1e-4)
    cosine = schedule.cosine(1000)
    expected = np.cos(1.5 / 2.0 * np.pi / 3) ** 2  # t / T = 0.5 with the offset left out
    assert cosine.alpha_bar[500] == pytest.approx(expected, abs=0.02)
    assert np.allclose(schedule.constant(10, 0.5).alpha_bar, 0.5 ** np.arange(11))


def test_small_betas_keep_their_digits():
    s = schedule.constant(1000, 1e-7)
    assert s.one_minus_alpha_bar[1] == pytest.approx(1e-7, rel=1e-5)
    assert s.elbo_weight(jnp.array(1)) == pytest.approx(0.5, rel=1e-5)


@given(steps=st.integers(2, 300), low=st.floats(1e-4, 0.01), high=st.floats(0.011, 0.3))
@settings(max_examples=20, deadline=None)
def test_elbo_weight_formula(steps, low, high):
    s = schedule.linear(steps, low, high)
    t = jnp.arange(1, steps + 1)
    beta = np.linspace(low, high, steps)
    rest = -np.expm1(np.cumsum(np.log1p(-beta)))
    assert np.allclose(s.elbo_weight(t), beta / (2 * (1 - beta) * rest), rtol=1e-4)


@pytest.mark.parametrize("t", [1, 10, 500, 999])
def test_real_valued_t_agrees_with_the_steps(t):
    s = schedule.linear(1000)
    assert float(s.log_alpha_bar_at(float(t))) == pytest.approx(np.log(s.alpha_bar[t]), rel=1e-3)
    slope = (s.log_alpha_bar_at(t - 0.25) - s.log_alpha_bar_at(t - 0.75)) / 0.5
    assert -slope == pytest.approx(float(s.beta_at(t - 0.5)), rel=0.02)


def test_continuous_rate_is_the_derivative():
    sde = schedule.VPSDE()
    rate = -jax.grad(sde.log_alpha_bar_at)(0.3)
    assert rate == pytest.approx(float(sde.beta_at(0.3)), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedule.linear(0), "num_steps is 0"),
        (lambda: schedule.linear(10, 0.5, 1.0), "beta at step 10 is 1"),
        (lambda: schedule.constant(3, -0.1), "beta at step 1 is -0.1"),
        (lambda: schedule.constant(3, 1 - 1e-12), r"beta at step 1 is 0\.9+, .* in float32"),
        (lambda: schedule.vp_sde(5, 0.1, 200.0), r"beta at step 3 is .* in float32"),
        (lambda: schedule.make("quadratic", 3), "allowed: linear"),
        (lambda: schedule.from_betas([np.nan]), "beta at step 1 is nan"),
    ],
)
def test_bad_schedules(call, message):
    with pytest.raises(ValueError, match=message):
        call()
