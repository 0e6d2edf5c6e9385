"""The steps' gradients against closed forms, and that no gradient goes where it would be wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.constraints import posterior, steps

S, ALPHA = 10, 1.5
RNG = np.random.default_rng(0)
P = RNG.dirichlet(np.ones(S)).astype(np.float32)
F = jnp.asarray(RNG.normal(size=S), jnp.float32)
THETA = jnp.log(P)
STATES = jnp.repeat(jnp.arange(S), jnp.asarray([4, 3, 3, 2, 2, 2, 1, 1, 1, 1]))
DATA = jnp.bincount(STATES, length=S) / len(STATES)


def ratio(theta):
    """All states once, as samples of the uniform distribution, corrected to p."""
    return jax.nn.log_softmax(theta) + jnp.log(float(S))


def q_of(f, theta=THETA, alpha=ALPHA):
    return jax.nn.softmax(theta + alpha * f)


def phi_loss(f, theta=THETA, alpha=ALPHA):
    return steps.constraint_loss(f[STATES], f, alpha, log_ratio=ratio(theta))[0]


def test_the_phi_gradient_is_data_less_q():
    got = jax.grad(phi_loss)(F)
    np.testing.assert_allclose(got, -ALPHA * (DATA - q_of(F)), atol=1e-5)
    # And so is that of the likelihood of data under q, by enumeration.
    likelihood = jax.grad(lambda f: -(DATA * jnp.log(q_of(f))).sum())(F)
    np.testing.assert_allclose(got, likelihood, atol=1e-5)
    at_data = (jnp.log(DATA) - THETA) / ALPHA
    np.testing.assert_allclose(jax.grad(phi_loss)(at_data), 0, atol=1e-6)
    np.testing.assert_array_equal(jax.grad(lambda f: phi_loss(f, alpha=0.0))(F), 0)


def test_the_forward_gradient_is_p_less_q():
    def loss(theta):
        logprob = jax.nn.log_softmax(theta)
        return steps.explicit_model_loss(logprob, F, ALPHA, log_ratio=ratio(theta))

    got = jax.grad(loss)(THETA)
    np.testing.assert_allclose(got, P - q_of(F), atol=1e-5)
    q = q_of(F)
    kl = jax.grad(lambda t: (q * (jnp.log(q) - jax.nn.log_softmax(t))).sum())(THETA)
    np.testing.assert_allclose(got, kl, atol=1e-5)


def test_the_reverse_gradient_is_that_of_the_expected_reward():
    """-alpha p (f - E_p f), which autodiff of KL(p || q) gives at the theta that q was made from."""
    q = q_of(F)
    kl = jax.grad(lambda t: (jax.nn.softmax(t) * (jax.nn.log_softmax(t) - jnp.log(q))).sum())(THETA)
    want = -ALPHA * P * (F - P @ F)
    np.testing.assert_allclose(kl, want, atol=1e-5)
    got = jax.grad(lambda t: -ALPHA * posterior.expect(F, jax.nn.softmax(t)))(THETA)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_tabular_constraint_learns_what_the_model_lacks():
    """alpha f = log p_data / p, but for a constant."""

    def step(f, _):
        return f - 2.0 * jax.grad(phi_loss)(f), None

    f, _ = jax.lax.scan(step, jnp.zeros(S), length=4000)
    left = ALPHA * f - (jnp.log(DATA) - THETA)
    assert float(left.std()) < 1e-3
    np.testing.assert_allclose(q_of(f), DATA, atol=1e-4)


def test_sampled_rewards_weigh_by_condition():
    """Without a proposal: K samples of each condition, weights softmax(alpha f) over them."""
    f = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
    w = np.exp(ALPHA * f) / np.exp(ALPHA * f).sum(-1, keepdims=True)
    logprob = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
    got = steps.explicit_model_loss(logprob, f, ALPHA)
    np.testing.assert_allclose(got, -(w * logprob).sum(-1), rtol=1e-5)
    loss, aux = steps.constraint_loss(jnp.ones(5), f, ALPHA)
    under_q = (w * f).sum(-1).mean()
    assert float(loss) == pytest.approx(float(ALPHA * (under_q - 1)), rel=1e-5)
    want = {"ess": (1 / (w**2).sum(-1)).mean(), "f_q": under_q, "f_p": f.mean(), "f_data": 1.0}
    want["log_partition"] = np.log(np.exp(ALPHA * f).mean(-1)).mean()
    assert aux.keys() == want.keys()
    for name, value in want.items():
        assert float(aux[name]) == pytest.approx(float(value), rel=1e-5), name
    np.testing.assert_allclose(steps.m_step_loss(f, ALPHA), -ALPHA * (w * f).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(steps.implicit_model_loss(f, ALPHA), -ALPHA * f.mean(-1), rtol=1e-5)


def test_weights_carry_no_gradient():
    """The M-step ascends E_q f with q fixed: the gradient is alpha w, not that of a softmax."""
    f = jnp.asarray(RNG.normal(size=(1, 4)), jnp.float32)
    grad = jax.grad(lambda f: steps.m_step_loss(f, ALPHA).sum())(f)
    np.testing.assert_allclose(grad, -ALPHA * posterior.weights(f, ALPHA), rtol=1e-5)
    grad = jax.grad(lambda f: steps.explicit_model_loss(f, f, ALPHA).sum())(f)
    np.testing.assert_allclose(grad, -posterior.weights(f, ALPHA), rtol=1e-5)


C, K = 3, 4


def sampler(theta):
    """x = theta_c + noise [C, K]."""
    return lambda key: theta[:, None] + jax.random.normal(key, (C, K))


def log_prob(theta):
    return lambda x: -0.5 * (x - theta[:, None]) ** 2


def reward(phi):
    return lambda x: -((x - phi) ** 2)


def test_an_explicit_step_moves_theta_alone_and_by_the_likelihood_alone():
    theta, phi, key = jnp.arange(3.0), jnp.asarray(0.5), jax.random.key(0)

    def loss(both, f):
        step = steps.explicit_theta_step(sampler(both[0]), log_prob(both[0]), f(both), key, ALPHA)
        return step[0]

    plain = jax.grad(loss)((theta, phi), lambda both: reward(both[1]))

    def leak(both):
        """The same value, with a path to theta that differs from sample to sample."""
        path = both[0].sum() - jax.lax.stop_gradient(both[0].sum())
        return lambda x: reward(both[1])(x) + x * path

    leaking = jax.grad(loss)((theta, phi), leak)
    np.testing.assert_allclose(plain[0], leaking[0], rtol=1e-6)
    assert plain[1] == 0
    x = sampler(theta)(key)
    w = posterior.weights(reward(phi)(x), ALPHA)
    np.testing.assert_allclose(plain[0], -(w * (x - theta[:, None])).sum(-1) / C, atol=1e-5)


def test_a_constraint_step_moves_phi_alone():
    theta, phi = jnp.arange(3.0), jnp.asarray(0.5)
    data = jnp.asarray(RNG.normal(size=20), jnp.float32)

    def loss(both):
        return steps.phi_step(reward(both[1]), data, sampler(both[0])(jax.random.key(0)), ALPHA)[0]

    of_theta, of_phi = jax.grad(loss)((theta, phi))
    np.testing.assert_array_equal(of_theta, 0)
    x = sampler(theta)(jax.random.key(0))
    w = posterior.weights(reward(phi)(x), ALPHA)
    slope = lambda x: 2 * (x - phi)  # noqa: E731
    want = ALPHA * ((w * slope(x)).sum(-1).mean() - slope(data).mean())
    assert float(of_phi) == pytest.approx(float(want), rel=1e-5)


def test_steps_with_two_optimisers_leave_the_other_side_bit_for_bit():
    both = {"theta": jnp.arange(3.0), "phi": jnp.asarray(0.5)}
    data = jnp.asarray(RNG.normal(size=20), jnp.float32)

    def model(b):
        draw, f = sampler(b["theta"]), reward(b["phi"])
        return steps.implicit_theta_step(draw, f, jax.random.key(0), ALPHA)[0]

    def teach(b):
        samples = sampler(b["theta"])(jax.random.key(1))
        return steps.phi_step(reward(b["phi"]), data, samples, ALPHA)[0]

    for loss, moves, stays in ((model, "theta", "phi"), (teach, "phi", "theta")):
        labels = {moves: "adam", stays: "none"}
        tx = optax.multi_transform({"adam": optax.adam(0.1), "none": optax.set_to_zero()}, labels)
        updates, _ = tx.update(jax.grad(loss)(both), tx.init(both), both)
        after = optax.apply_updates(both, updates)
        np.testing.assert_array_equal(after[stays], both[stays])
        assert np.abs(after[moves] - both[moves]).min() > 0.01


def test_an_implicit_model_follows_the_rewards_slope():
    """x = mu + sigma eps and f = a x - b x^2 / 2: the gradient is -alpha E[f'(x)], in closed form."""
    a, b, mu, sigma, n = 0.7, 1.3, 0.4, 0.8, 40_000

    def loss(mu):
        draw = lambda key: mu + sigma * jax.random.normal(key, (1, n))  # noqa: E731
        f = lambda x: a * x - 0.5 * b * x**2  # noqa: E731
        return steps.implicit_theta_step(draw, f, jax.random.key(0), ALPHA)[0]

    got = float(jax.jit(jax.grad(loss))(mu))
    error = ALPHA * b * sigma / np.sqrt(n)
    assert abs(got + ALPHA * (a - b * mu)) < 4 * error


def test_bad_arguments_and_nan_rewards():
    f = jnp.zeros((2, 3))
    for call in (
        lambda a: steps.constraint_loss(jnp.zeros(2), f, a),
        lambda a: steps.explicit_model_loss(f, f, a),
        lambda a: steps.implicit_model_loss(f, a),
        lambda a: steps.m_step_loss(f, a),
    ):
        with pytest.raises(ValueError, match=r"alpha is -1.*, allowed: 0 or more"):
            call(-1.0)
    with pytest.raises(ValueError, match="samples a condition is 1, allowed: at least 2"):
        steps.explicit_model_loss(f[:, :1], f[:, :1], 1.0)
    bad = f.at[0, 0].set(jnp.nan)
    with pytest.raises(ValueError, match=r"rewards' maximum is .*nan"):
        steps.explicit_model_loss(f, bad, 1.0)
    jitted = jax.jit(
        lambda f: (steps.explicit_model_loss(f, f, 1.0), steps.constraint_loss(f[0], f, 1.0)[0])
    )
    explicit, constraint = jitted(bad)
    assert jnp.isnan(explicit[0])
    assert jnp.isnan(constraint)  # a train loop stops at these
    assert jnp.isfinite(explicit[1])


def test_under_vmap_with_an_alpha_of_each_and_in_half_precision():
    f = jnp.asarray(RNG.normal(size=(2, 3, 4)), jnp.float32)
    alphas = jnp.asarray([0.5, 2.0])
    got = jax.jit(jax.vmap(lambda f, a: steps.explicit_model_loss(f, f, a)))(f, alphas)
    np.testing.assert_allclose(got[1], steps.explicit_model_loss(f[1], f[1], 2.0), rtol=1e-5)
    half = steps.implicit_model_loss(f[0].astype(jnp.bfloat16), 2.0)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, steps.implicit_model_loss(f[0], 2.0), rtol=2e-2, atol=1e-2)
