import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import gaussian, samplers, schedule
from jaxgen.diffusion.gaussian import per_example
from tests.diffusion.test_gaussian import optimal_denoiser
from tests.processes import RUNS_LONG

S = schedule.linear(1000)
MEAN = jnp.array([0.5, -1.0])
CHOL = jnp.array([[0.8, 0.0], [0.3, 0.4]])
COV = CHOL @ CHOL.T
AXES = jnp.linalg.eigh(COV)


def gaussian_denoiser(log_alpha_bar):
    """eps_theta of data N(MEAN, COV): -sqrt(1 - abar) times the analytic score."""

    def denoise(z, t):
        a = jnp.exp(log_alpha_bar(t.astype(jnp.float32)))[:, None]
        # cov = a COV + (1 - a) I has the axes of COV: solving by LU, row by row, took most of the time.
        along = (z - jnp.sqrt(a) * MEAN) @ AXES.eigenvectors
        along = along / (a * AXES.eigenvalues + 1 - a)
        return jnp.sqrt(1 - a) * (along @ AXES.eigenvectors.T)

    return denoise


DENOISE = gaussian_denoiser(S.log_alpha_bar_at)


def assert_target_moments(z, n, slack=0.01):
    """Five standard errors of mean and covariance, plus the sampler's own bias."""
    scale = float(jnp.sqrt(jnp.diag(COV)).max())
    assert np.allclose(z.mean(0), MEAN, atol=5 * scale / np.sqrt(n) + slack)
    assert np.allclose(np.cov(z.T), COV, atol=5 * np.sqrt(2 / n) * scale**2 + slack)


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_ancestral_reaches_the_target(key, variance):
    n = 20_000
    noise = jax.random.normal(key, (n, 2))
    run = lambda z, key: samplers.ancestral(DENOISE, z, key, S, variance=variance)  # noqa: E731
    z = jax.jit(run, compiler_options=RUNS_LONG)(noise, jax.random.key(1))
    assert_target_moments(z, n)


@pytest.mark.parametrize(("steps", "eta"), [(100, 0.0), (250, 0.5), (1000, 1.0)])
def test_ddim_reaches_the_target(key, steps, eta):
    n = 20_000
    noise = jax.random.normal(key, (n, 2))
    run = lambda z, key: samplers.ddim(DENOISE, z, S, num_steps=steps, eta=eta, key=key)  # noqa: E731
    z = jax.jit(run, compiler_options=RUNS_LONG)(noise, jax.random.key(1))
    assert_target_moments(z, n, slack=0.02)


@pytest.mark.parametrize("chain", [S, schedule.VPSDE()])
def test_flow_ode_transports_noise_to_the_target(key, chain):
    n = 20_000
    noise = jax.random.normal(key, (n, 2))
    denoise = gaussian_denoiser(chain.log_alpha_bar_at)
    z, stats = samplers.flow_ode(denoise, noise, chain)
    assert_target_moments(z, n)
    assert 5 < stats.num_steps[0] < 500
    # As every solve counts them: the two calls that choose the first step size are left out.
    assert (stats.nfe == 6 * stats.num_steps + 1).all()
    assert stats.nfe.shape == stats.failed.shape == (n,)
    assert not stats.failed.any()


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_flow_ode_marks_what_it_cannot_solve(bad):
    """One step size for the batch: a row that is no number ends the others too, and nothing is raised."""
    run = jax.jit(lambda z: samplers.flow_ode(DENOISE, z, S, max_steps=20))
    z, stats = run(jnp.array([[1.0, 0.0], [bad, 0.0]]))
    assert stats.failed.all()
    assert jnp.isnan(z).all()


def test_flow_ode_is_the_closed_form_for_a_gaussian():
    """For N(0, v) the flow only scales: z_0 = z_1 sqrt(v_0 / v_1), v_t = abar_t v + 1 - abar_t."""
    sde = schedule.VPSDE()
    variance = 0.09

    def denoise(z, t):
        a = jnp.exp(sde.log_alpha_bar_at(t))[:, None]
        return jnp.sqrt(1 - a) * z / (a * variance + 1 - a)

    def v(t):
        a = np.exp(float(sde.log_alpha_bar_at(jnp.float32(t))))
        return a * variance + 1 - a

    z_1 = jnp.linspace(-2, 2, 9)[:, None]
    errors = []
    for tol in (1e-2, 1e-4, 1e-6):
        z_0, _ = samplers.flow_ode(denoise, z_1, sde, t_min=1e-3, rtol=tol, atol=tol)
        errors.append(float(jnp.abs(z_0 - z_1 * np.sqrt(v(1e-3) / v(1.0))).max()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-5
    back, _ = samplers.flow_ode(denoise, z_0, sde, forward=True, t_min=1e-3, rtol=1e-6, atol=1e-6)
    assert np.allclose(back, z_1, atol=1e-4)


def test_flow_ode_solvers_agree(key):
    noise = jax.random.normal(key, (16, 2))
    sde = schedule.VPSDE()
    denoise = gaussian_denoiser(sde.log_alpha_bar_at)
    a, _ = samplers.flow_ode(denoise, noise, sde, rtol=1e-6, atol=1e-6)
    b, _ = samplers.flow_ode(denoise, noise, sde, solver=diffrax.Dopri5(), rtol=1e-6, atol=1e-6)
    assert np.allclose(a, b, atol=1e-4)


def test_ddim_encode_then_decode_returns(key):
    """The round trip's error shrinks with more steps, about in proportion."""
    z_0 = MEAN + jax.random.normal(key, (256, 2)) @ CHOL.T
    errors = []
    for steps in (20, 100, 1000):
        z_T = samplers.ddim_encode(DENOISE, z_0, S, num_steps=steps)
        back = samplers.ddim(DENOISE, z_T, S, num_steps=steps)
        errors.append(float(jnp.sqrt(jnp.mean((back - z_0) ** 2))))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.02
    assert abs(float(z_T.std()) - 1.0) < 0.1


def test_refined_encoding_inverts_each_step(key):
    z_0 = MEAN + jax.random.normal(key, (64, 2)) @ CHOL.T

    def error(refinements):
        z_T = samplers.ddim_encode(DENOISE, z_0, S, num_steps=50, refinements=refinements)
        back = samplers.ddim(DENOISE, z_T, S, num_steps=50)
        return float(jnp.abs(back - z_0).max())

    assert error(6) < 0.1 * error(0)


def test_ddim_with_all_steps_and_eta_1_has_ancestral_posterior_steps(key):
    """eta = 1 over all steps draws from q's posterior with the predicted z_0."""
    s = schedule.linear(4, 0.05, 0.3)
    z = jax.random.normal(key, (3, 2))
    denoise = optimal_denoiser(s, 0.5)
    got = samplers.ddim(denoise, z, s, num_steps=4, eta=1.0, key=key, trajectory=True)
    t = jnp.full(3, 4)
    mean, var = gaussian.q_posterior(gaussian.predict_z0(z, t, denoise(z, t), s), z, t, s)
    draw = jax.random.normal(jax.random.split(key, 4)[0], z.shape)
    assert np.allclose(got[1], mean + jnp.sqrt(var)[:, None] * draw, atol=1e-5)


def test_trajectory_and_steps():
    taus = samplers.ddim_steps(1000, 7)
    assert taus[0] == 0
    assert taus[-1] == 1000
    assert np.all(np.diff(taus) > 100)
    z = jnp.ones((2, 2))
    path = samplers.ddim(DENOISE, z, S, num_steps=7, trajectory=True)
    assert path.shape == (8, 2, 2)
    assert np.array_equal(path[0], z)
    assert np.allclose(path[-1], samplers.ddim(DENOISE, z, S, num_steps=7))


def test_samplers_under_jit_vmap_and_grad(key):
    z = jax.random.normal(key, (4, 3, 2))
    run = jax.jit(jax.vmap(lambda z: samplers.ddim(DENOISE, z, S, num_steps=10)))
    assert np.allclose(run(z)[1], samplers.ddim(DENOISE, z[1], S, num_steps=10), atol=1e-5)
    g = jax.grad(lambda z: samplers.flow_ode(DENOISE, z, S)[0].sum())(z[0])
    assert jnp.isfinite(g).all()
    assert jnp.abs(g).max() > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: samplers.ddim(DENOISE, z, S, num_steps=0), "DDIM steps is 0"),
        (lambda z: samplers.ddim(DENOISE, z, S, num_steps=1001), "1 to 1000"),
        (lambda z: samplers.ddim(DENOISE, z, S, num_steps=5, eta=0.5), "eta is 0.5"),
        (lambda z: samplers.ancestral(DENOISE, z, jax.random.key(0), S, variance="x"), "variance"),
        (lambda z: samplers.flow_ode(DENOISE, z, S, rtol=0.0), "rtol"),
        (lambda z: samplers.flow_ode(DENOISE, z, S, t_min=0.0), "t_min"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones((2, 2)))


@pytest.mark.parametrize("chain", [schedule.constant(1000, 0.1), schedule.linear(12000)])
@pytest.mark.parametrize("steps", [7, 100])
def test_long_chains_follow_the_recursion_in_float64(chain, steps):
    """alpha_bar is 0 at their end in float32, and a quotient of two such is no number."""
    log = np.concatenate([[0.0], np.cumsum(np.log1p(-np.asarray(chain.beta[1:], np.float64)))])
    assert np.allclose(chain.log_alpha_bar, log, rtol=1e-5)
    assert np.allclose(chain.log_alpha_bar_at(chain.num_steps - 0.5), log[-2:].mean(), rtol=1e-5)
    taus = np.asarray(samplers.ddim_steps(chain.num_steps, steps))
    z = want = np.array([[1.0, -0.5], [0.3, 2.0]])
    for t, s in zip(taus[:0:-1], taus[-2::-1], strict=True):
        eps = 0.9 * want * np.sqrt(-np.expm1(log[t]))
        want = (want - np.sqrt(-np.expm1(log[t])) * eps) * np.exp((log[s] - log[t]) / 2)
        want = want + np.sqrt(-np.expm1(log[s])) * eps

    def denoise(z, t):
        return 0.9 * z * per_example(jnp.sqrt(chain.one_minus_alpha_bar[t]), z)

    start = jnp.asarray(z, jnp.float32)
    run = jax.jit(lambda z: samplers.ddim(denoise, z, chain, num_steps=steps))
    got = np.asarray(run(start), np.float64)
    if want.max() < 1e30:  # beyond, float32 has no such number: it is large, and finite
        np.testing.assert_allclose(got, want, rtol=2e-2)
    assert np.isfinite(got).all()
    encoded, grad = jax.value_and_grad(
        lambda z: samplers.ddim_encode(denoise, z, chain, num_steps=steps).sum()
    )(start)
    assert jnp.isfinite(encoded)
    assert jnp.isfinite(grad).all()
    assert jnp.isfinite(
        samplers.flow_ode(denoise_real, start, chain, rtol=1e-2, atol=1e-2)[0]
    ).all()


def denoise_real(z, t):
    return z * per_example(jnp.minimum(t, 1.0), z)


def test_eta_and_t_min_may_be_traced_and_nan_is_refused(key):
    z = jax.random.normal(key, (2, 2))
    ddim = lambda eta: samplers.ddim(DENOISE, z, S, num_steps=5, eta=eta, key=key)  # noqa: E731
    assert jnp.allclose(jax.jit(ddim)(0.5), ddim(0.5), atol=1e-4)
    for bad in (float("nan"), -1.0):
        with pytest.raises(ValueError, match="eta is"):
            ddim(bad)
        with pytest.raises(ValueError, match="t_min is"):
            samplers.flow_ode(DENOISE, z, S, t_min=bad)
    assert samplers.ancestral(DENOISE, z[:0], key, S).shape == (0, 2)
    assert samplers.ddim(DENOISE, z[:0], S, num_steps=5).shape == (0, 2)


def test_gradients_pass_through_the_last_steps_alone(key):
    """As if what came before were a constant; the samples are those of all steps."""
    chain, z = schedule.linear(20, 0.01, 0.3), jax.random.normal(key, (4, 2))

    def run(w, z, last=None, trajectory=False):
        net = lambda x, t: w * jnp.tanh(x)  # noqa: E731
        more = {"gradient_steps": last, "trajectory": trajectory}
        return samplers.ddim(net, z, chain, num_steps=5, **more)

    w = jnp.asarray(0.7)
    path = run(w, z, trajectory=True)
    np.testing.assert_allclose(run(w, z, 2, trajectory=True), path, rtol=1e-5)
    of_w, of_z = jax.grad(lambda w, z: run(w, z, 2).sum(), (0, 1))(w, z)
    np.testing.assert_array_equal(of_z, 0)
    taus = samplers.ddim_steps(20, 5)

    def tail(w):
        x = path[3]
        for t, s in ((taus[2], taus[1]), (taus[1], taus[0])):
            eps = w * jnp.tanh(x)
            rest = chain.one_minus_alpha_bar
            x = (x - jnp.sqrt(rest[t]) * eps) / jnp.sqrt(chain.ratio(t, s))
            x += jnp.sqrt(rest[s]) * eps
        return x.sum()

    assert float(of_w) == pytest.approx(float(jax.grad(tail)(w)), rel=1e-3)
    whole = jax.grad(lambda w: run(w, z).sum())(w)
    assert abs(float(whole - of_w)) > 1e-2
    with pytest.raises(ValueError, match="gradient_steps is 6, allowed: 1 to 5"):
        run(w, z, 6)


def test_gradient_with_respect_to_eta(key):
    """The last step has no noise to share out, whatever eta is."""
    chain, z = schedule.linear(20, 0.01, 0.3), jnp.ones((2, 3))

    def end(eta):
        noise = lambda z, t: 0.1 * z  # noqa: E731
        return samplers.ddim(noise, z, chain, num_steps=5, eta=eta, key=key).sum()

    slope = (end(0.5 + 1e-2) - end(0.5 - 1e-2)) / 2e-2
    assert float(jax.grad(end)(0.5)) == pytest.approx(float(slope), rel=1e-3)
    assert np.isfinite(jax.grad(end)(0.0))
