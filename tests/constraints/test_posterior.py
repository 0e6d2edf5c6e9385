"""Ten states, where everything can be enumerated; the estimator's error and bias; rewards at the edges."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.constraints import posterior
from tests.processes import OPTIMIZED

S = 10
RNG = np.random.default_rng(0)
P = RNG.dirichlet(np.ones(S)).astype(np.float32)
F = RNG.normal(size=S).astype(np.float32)
ALPHA = 1.5
# All states as samples of the uniform distribution, corrected to p: expectations are exact.
RATIO = jnp.log(P * S)


def test_q_is_p_exp_alpha_f_over_z_and_no_other_is_better():
    q = P.astype(np.float64) * np.exp(ALPHA * F)
    z, q = q.sum(), q / q.sum()
    got = posterior.weights(jnp.asarray(F), ALPHA, log_ratio=RATIO)
    np.testing.assert_allclose(got, q, rtol=1e-5)
    log_z = posterior.log_partition(jnp.asarray(F), ALPHA, log_ratio=RATIO)
    assert float(log_z) == pytest.approx(math.log(z), abs=1e-5)

    def objective(q):
        return (q * np.log(q / P)).sum(-1) - ALPHA * (q * F).sum(-1)

    assert objective(q) == pytest.approx(-float(log_z), abs=1e-5)
    near = q * np.exp(0.3 * RNG.normal(size=(10_000, S)))
    others = np.concatenate([RNG.dirichlet(np.ones(S), 10_000), near / near.sum(-1, keepdims=True)])
    assert (objective(others.clip(1e-12)) > -float(log_z)).all()


def test_at_alpha_0_it_is_p():
    got = posterior.weights(jnp.asarray(F), 0.0, log_ratio=RATIO)
    np.testing.assert_allclose(got, P, rtol=1e-5)
    np.testing.assert_allclose(posterior.weights(jnp.asarray(F), 0.0), 1 / S, rtol=1e-6)
    assert float(posterior.log_partition(jnp.asarray(F), 0.0)) == pytest.approx(0, abs=1e-6)


def multisets(p, n):
    """(log-probability, counts) of all samples of size n, up to order."""
    for cut in itertools.combinations(range(n + len(p) - 1), len(p) - 1):
        edges = (-1, *cut, n + len(p) - 1)
        counts = [b - a - 1 for a, b in itertools.pairwise(edges)]
        log = math.lgamma(n + 1) - sum(math.lgamma(c + 1) for c in counts)
        yield log + sum(c * math.log(x) for c, x in zip(counts, p, strict=True)), counts


def test_the_bias_falls_as_one_over_n_with_its_known_factor():
    """Exactly, by all samples of three states: n bias -> -E_p[(q/p)^2 (h - E_q h)]."""
    p, f, h = np.array([0.5, 0.3, 0.2]), np.array([0.2, 1.0, -0.7]), np.array([1.0, 3.0, -2.0])
    q = p * np.exp(ALPHA * f)
    q /= q.sum()
    limit = -(p * (q / p) ** 2 * (h - q @ h)).sum()
    scaled = []
    for n in (1, 2, 30, 60):
        log, counts = map(np.array, zip(*multisets(p, n), strict=True))
        states = np.stack([np.repeat(np.arange(3), c) for c in counts])
        w = posterior.weights(jnp.asarray(f[states], jnp.float32), ALPHA)
        estimate = posterior.expect(jnp.asarray(h[states], jnp.float32), w)
        mean = float((np.exp(log) * np.asarray(estimate, np.float64)).sum())
        if n == 1:
            assert mean == pytest.approx(p @ h, abs=1e-5)
        scaled.append(n * (mean - q @ h))
    # The next term of the expansion is again 1/n smaller: the gap halves from 30 to 60.
    assert scaled[-1] == pytest.approx(limit, rel=0.05)
    assert abs(scaled[-1] - limit) == pytest.approx(0.5 * abs(scaled[-2] - limit), rel=0.1)


def test_the_error_falls_as_the_root_of_n():
    h = jnp.asarray(RNG.normal(size=S), jnp.float32)
    q = posterior.weights(jnp.asarray(F), ALPHA, log_ratio=RATIO)
    truth, errors = float(q @ h), []
    for n in (100, 400):
        x = jax.random.categorical(jax.random.key(n), jnp.log(P), shape=(2000, n))
        w = posterior.weights(jnp.asarray(F)[x], ALPHA)
        found = np.asarray(posterior.expect(h[x], w))
        errors.append(np.sqrt(((found - truth) ** 2).mean()))
    # A root mean square of 2000 is known to 1.6 %, a quotient of two to 2.2 %.
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.08)
    expected = float(jnp.sqrt((P * (q / P) ** 2 * (h - truth) ** 2).sum() / 400))
    assert errors[1] == pytest.approx(expected, rel=0.08)


def test_weights_do_not_see_a_shift_and_do_not_overflow():
    f = jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32)
    w = posterior.weights(f, 2.0)
    np.testing.assert_allclose(posterior.weights(f + 8.0, 2.0), w, rtol=1e-5)
    far = posterior.weights(jnp.asarray([1e3, -1e3, 1e3]), 1e3)
    np.testing.assert_array_equal(far, [0.5, 0.0, 0.5])
    assert float(posterior.log_partition(jnp.asarray([1e3, 1e3]), 10.0)) == 1e4
    np.testing.assert_array_equal(
        posterior.weights(jnp.asarray([0.0, -jnp.inf, 0.0]), 1.0), [0.5, 0, 0.5]
    )
    assert posterior.weights(f.astype(jnp.bfloat16), 2.0).dtype == jnp.float32


def test_forbidden_samples_have_no_gradient_and_no_nan():
    f = jnp.asarray([0.3, -jnp.inf, 1.0])
    for alpha in (0.0, 2.0):
        grads = jax.grad(posterior.log_partition, (0, 1))(f, alpha)
        assert all(jnp.isfinite(g).all() for g in grads)
        assert grads[0][1] == 0
    np.testing.assert_allclose(grads[0], 2.0 * posterior.weights(f, 2.0), rtol=1e-5)
    assert posterior.expect(jnp.asarray([1.0, jnp.nan, 1.0]), posterior.weights(f, 2.0)) == 1.0


def test_rewards_that_make_no_weights_raise_or_are_flagged():
    good = [0.0, 1.0]
    for bad in ([jnp.nan, 0.0], [-jnp.inf, -jnp.inf], [jnp.inf, 0.0]):
        f = jnp.asarray([good, bad])
        for call in (
            lambda f: posterior.weights(f, 1.0),
            lambda f: posterior.log_partition(f, 1.0),
            lambda f: posterior.solve_alpha(f, 1.5),
        ):
            with pytest.raises(ValueError, match="rewards' maximum is"):
                call(f)
        for options in (None, OPTIMIZED):  # XLA's fused exp loses a NaN that is selected before it
            w = jax.jit(posterior.weights, compiler_options=options)(f, 1.0)
            assert jnp.isnan(w[1]).all()
            np.testing.assert_allclose(w[0].sum(), 1.0, rtol=1e-6)
            log_z = jax.jit(posterior.log_partition, compiler_options=options)(f, 1.0)
            np.testing.assert_allclose(log_z, [np.log((1 + np.e) / 2), np.nan], rtol=1e-6)
    for alpha in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"alpha is .*, allowed: 0 or more"):
            posterior.weights(jnp.asarray(good), alpha)
    with pytest.raises(ValueError, match="samples a condition is 0"):
        posterior.weights(jnp.zeros((3, 0)), 1.0)


def test_effective_sample_sizes():
    w = jnp.asarray([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    np.testing.assert_allclose(posterior.effective_sample_size(w), [4, 1, 2], rtol=1e-6)
    f = jnp.asarray(RNG.normal(size=(200, 8)) * 5, jnp.float32)
    ess = posterior.effective_sample_size(posterior.weights(f, 1.0))
    assert ((ess >= 1 - 1e-6) & (ess <= 8 + 1e-5)).all()


def test_weights_are_of_each_condition_not_of_the_batch():
    """Two conditions, one of them easy: over the batch it would have nearly all the weight."""
    f = jnp.asarray([[5.0, 5.0 + math.log(3)], [0.0, math.log(3)]])
    w = posterior.weights(f, 1.0)
    np.testing.assert_allclose(w, [[0.25, 0.75], [0.25, 0.75]], rtol=1e-5)
    batch = posterior.weights(f.reshape(-1), 1.0).reshape(2, 2) * 2
    easy = 2 / (1 + math.exp(-5))
    np.testing.assert_allclose(batch.sum(1), [easy, 2 - easy], rtol=1e-4)


@pytest.mark.parametrize("target", [1.5, 3.0, 7.0])
def test_alpha_of_a_size_that_is_asked_for(target):
    f = jnp.asarray(RNG.normal(size=(5, 8)), jnp.float32)
    alpha = jax.jit(posterior.solve_alpha)(f, target)
    got = posterior.effective_sample_size(posterior.weights(f, alpha)).mean()
    assert float(got) == pytest.approx(target, rel=1e-4)


def test_alpha_at_its_ends():
    f = jnp.asarray(RNG.normal(size=(5, 8)), jnp.float32)
    assert float(posterior.solve_alpha(f, 8)) < 1e-2
    assert float(posterior.solve_alpha(jnp.zeros((5, 8)), 2.0, most=50.0)) == 50.0
    for bad in (1.0, 9.0):
        with pytest.raises(
            ValueError, match=r"target_ess is .*, allowed: above 1 and at most 8 samples"
        ):
            posterior.solve_alpha(f, bad)
