import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

from jaxgen.diffusion import schedule
from jaxgen.latent_ode import energy, priors, sample

SDE = schedule.VPSDE()
A = jnp.asarray([[0.6, 0.2, -0.1], [0.0, 0.5, 0.3]])
B = jnp.asarray([0.5, -1.0])


def quadratic(z):
    return 0.5 * jnp.sum((A @ z - B) ** 2)


def closed_form(z, length):
    """dz/ds = -A'(Az - b): z(s) = z* + exp(-A'A s)(z - z*) for any z* with Az* = b."""
    a, b = np.asarray(A, np.float64), np.asarray(B, np.float64)
    fixed = np.linalg.pinv(a) @ b
    return fixed + (np.asarray(z, np.float64) - fixed) @ expm(-a.T @ a * length).T


def classifier_energy(scale=1.0):
    w = jax.random.normal(jax.random.key(7), (3, 2))
    op = energy.classifier(lambda z: jnp.tanh(z @ w) * scale, ("a", "b"))
    return energy.compose([(op, "b", 1.0)])


def test_the_clock_and_its_inverse():
    t = jnp.linspace(0.0, 1.0, 11)
    s = sample.clock(SDE, t)
    assert float(s[0]) == pytest.approx(0.5 * (0.1 + 0.5 * 19.9), abs=1e-5)
    assert float(s[-1]) == 0.0
    assert np.allclose(sample.time_of(SDE, s), t, atol=1e-4)
    # ds/dt = -beta/2.
    slope = jax.vmap(jax.grad(lambda t: sample.clock(SDE, t)))(t)
    assert np.allclose(slope, -0.5 * SDE.beta_at(t), rtol=1e-4)
    flat = schedule.VPSDE(2.0, 2.0)
    assert np.allclose(sample.time_of(flat, sample.clock(flat, t)), t, atol=1e-6)


@pytest.mark.parametrize("batched", [False, True])
def test_linear_gaussian_has_a_closed_form(batched):
    z = jax.random.normal(jax.random.key(0), (6, 3))
    want = closed_form(z, float(sample.clock(SDE, jnp.zeros(()))))
    errors = []
    for tol in (1e-2, 1e-4, 1e-6):
        got, stats = sample.solve(quadratic, z, rtol=tol, atol=tol, batched=batched)
        errors.append(float(np.abs(got - want).max()))
        assert not stats.failed.any()
    assert errors[2] < 1e-5
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize(
    "solver", [diffrax.Dopri5(), diffrax.Tsit5(), diffrax.Heun(), diffrax.Bosh3()]
)
def test_solvers_agree(solver):
    z = jax.random.normal(jax.random.key(1), (3, 3))
    want = closed_form(z, float(sample.clock(SDE, jnp.zeros(()))))
    got, _ = sample.solve(quadratic, z, solver=solver, rtol=1e-5, atol=1e-5)
    assert np.allclose(got, want, atol=1e-3)


def test_euler_is_first_order():
    z = jax.random.normal(jax.random.key(1), (3, 3))
    want = closed_form(z, float(sample.clock(SDE, jnp.zeros(()))))
    errors = [
        float(np.abs(sample.solve(quadratic, z, solver=diffrax.Euler(), steps=n)[0] - want).max())
        for n in (100, 200)
    ]
    assert errors[0] / errors[1] == pytest.approx(2.0, abs=0.2)


def test_no_operator_leaves_latents_exactly_as_they_are():
    z = jax.random.normal(jax.random.key(2), (5, 3))
    got, stats = sample.solve(energy.compose([]), z)
    assert np.array_equal(got, z)
    assert not stats.failed.any()


def test_energy_never_rises_along_the_way():
    z = jax.random.normal(jax.random.key(3), (8, 3))
    e = classifier_energy(3.0)
    end, stats = sample.solve(e, z, points=20, rtol=1e-5, atol=1e-5)
    path = jnp.concatenate([z[:, None], stats.trajectory], 1)
    values = jax.vmap(jax.vmap(e))(path)
    assert (jnp.diff(values, axis=1) <= 1e-5).all()
    assert (values[:, -1] < values[:, 0] - 0.05).all()
    assert np.array_equal(path[:, -1], end)


def test_rows_do_not_depend_on_their_neighbours():
    z = jax.random.normal(jax.random.key(4), (6, 3))
    e = classifier_energy()
    together, _ = jax.jit(lambda z: sample.solve(e, z))(z)
    alone, _ = sample.solve(e, z[2:3])
    assert np.allclose(together[2], alone[0], atol=1e-6)
    far, _ = sample.solve(e, z.at[0].mul(50.0))
    assert np.allclose(far[1:], together[1:], atol=1e-6)


def test_weight_zero_is_no_operator():
    z = jax.random.normal(jax.random.key(5), (4, 3))
    op = energy.classifier(lambda z: z[:2], ("a", "b"))
    other = energy.regression(lambda z: z[2])
    one, _ = sample.solve(energy.compose([(op, "a", 1.5)]), z)
    two, _ = sample.solve(energy.compose([(op, "a", 1.5), (other, 3.0, 0.0)]), z)
    assert np.array_equal(one, two)


def test_the_normal_prior_cancels():
    z = jax.random.normal(jax.random.key(6), (4, 3))
    e = classifier_energy()
    reduced, _ = sample.solve(e, z, rtol=1e-6, atol=1e-6)
    full, _ = sample.solve(e, z, prior_score=lambda z, t: -z, rtol=1e-6, atol=1e-6)
    assert np.allclose(reduced, full, atol=1e-5)


def test_a_diffusion_trained_on_a_gaussian_is_that_prior():
    """On N(0, I) the best noise predictor is sqrt(1 - alpha_bar_t) z: both modes give one answer."""
    z = jax.random.normal(jax.random.key(6), (4, 3))
    chain = schedule.linear(1000)

    def denoise(z, t):
        return jnp.sqrt(-jnp.expm1(chain.log_alpha_bar_at(t)))[:, None] * z

    e = classifier_energy()
    reduced, _ = sample.solve(e, z, rtol=1e-5, atol=1e-5)
    score = priors.diffusion_score(denoise, chain, SDE)
    full, _ = sample.solve(e, z, prior_score=score, rtol=1e-5, atol=1e-5)
    assert np.allclose(reduced, full, atol=2e-3)


def test_full_drift_transports_to_a_gaussian_prior_times_a_gaussian_likelihood():
    """Without operators, another prior N(m, v) is reached from N(0, 1) along its own flow."""
    m, v = 2.0, 0.25

    def score(z, t):
        a = jnp.exp(SDE.log_alpha_bar_at(t))
        return -(z - jnp.sqrt(a) * m) / (a * v + 1 - a)

    z = jax.random.normal(jax.random.key(8), (4000, 1))
    got, _ = sample.solve(energy.compose([]), z, prior_score=score, rtol=1e-5, atol=1e-5)
    # Standard errors: sd / sqrt(n) = 0.008 and v sqrt(2 / n) = 0.006; at t = 1 alpha_bar = 4e-5.
    assert float(got.mean()) == pytest.approx(m, abs=0.04)
    assert float(got.var()) == pytest.approx(v, abs=0.03)


@pytest.mark.parametrize(
    "adjoint", [diffrax.RecursiveCheckpointAdjoint(), diffrax.BacksolveAdjoint()]
)
def test_gradient_through_the_solve(adjoint):
    z = jnp.asarray([[0.4, -0.3, 0.8]])

    @jax.jit
    def end(strength):
        e = classifier_energy()
        got, _ = sample.solve(
            lambda z: strength * e(z), z, rtol=1e-7, atol=1e-7, adjoint=adjoint, max_steps=256
        )
        return got.sum()

    got = float(jax.grad(end)(1.0))
    h = 1e-2
    want = float(end(1.0 + h) - end(1.0 - h)) / (2 * h)
    # Ends of about 1 are rounded to 1e-7, and differ by 5e-5.
    assert got == pytest.approx(want, rel=2e-2)


@pytest.mark.parametrize(
    "solver",
    [
        getattr(diffrax, name)()
        for name in ("Dopri5", "Tsit5", "Bosh3", "Dopri8", "Ralston", "Midpoint")
    ],
)
@pytest.mark.parametrize("steps", [None, 7])
def test_evaluations_are_those_that_ran(solver, steps):
    count = []

    def counted(z):
        jax.debug.callback(lambda: count.append(1))
        return quadratic(z)

    # An unbatched solve: under vmap a callback runs once for each row.
    _, stats = sample.solve(counted, jnp.ones((1, 3)), solver=solver, steps=steps)
    jax.effects_barrier()
    # Our own loop asks once more, for its first step size; diffrax asks where no callback runs.
    asked = isinstance(solver, diffrax.Dopri5) and steps is None
    assert len(count) == int(stats.nfe[0]) + asked


def test_a_row_that_diverges_is_marked_and_left_out():
    # dz/ds = 4 z^3 blows up at s = 1 / (8 z^2): before the end (s = 5) for z above 0.16.
    z = jnp.asarray([[0.1, 0.0, 0.0], [3.0, 0.0, 0.0], [0.12, 0.0, 0.0]])
    got, stats = sample.solve(lambda z: -(z[0] ** 4), z, max_steps=100, points=3)
    assert stats.failed.tolist() == [False, True, False]
    assert np.isnan(got[1]).all()
    assert np.isnan(stats.trajectory[1]).all()
    kept, index = sample.keep_finished(got, stats.failed)
    assert index.tolist() == [0, 2]
    assert np.isfinite(kept).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": 0.0}, "rtol, atol are 0.0"),
        ({"atol": -1.0}, "-1.0, allowed: above 0"),
        ({"t_start": 0.0}, "t_start is 0.0"),
        ({"steps": 0}, "steps is 0"),
        ({"max_steps": 0}, "max_steps"),
        ({"rtol": float("nan")}, "rtol, atol are nan"),
        ({"t_start": float("nan")}, "t_start is nan"),
        ({"solver": diffrax.ReversibleHeun()}, "solver is ReversibleHeun"),
        ({"solver": diffrax.Euler()}, "steps is None, allowed with Euler"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        sample.solve(quadratic, jnp.zeros((1, 3)), **options)


def test_an_operator_of_another_latent_size():
    op = energy.classifier(lambda z: z[:2], ("a", "b"), name="mood", dim=8)
    with pytest.raises(ValueError, match="'mood': latent size is 3, allowed: 8"):
        sample.solve(energy.compose([(op, "a", 1.0)]), jnp.zeros((2, 3)))


def test_an_implicit_solver_and_a_traced_start():
    z = jnp.ones((2, 3))
    want, _ = sample.solve(quadratic, z, t_start=0.5, rtol=1e-5, atol=1e-5)
    start = jax.jit(lambda t: sample.solve(quadratic, z, t_start=t, rtol=1e-5, atol=1e-5)[0])
    np.testing.assert_allclose(start(0.5), want, atol=1e-5)
    got, stats = sample.solve(
        quadratic, z, t_start=0.5, solver=diffrax.Kvaerno3(), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(got, want, atol=1e-3)
    assert (stats.nfe == 3 * stats.num_steps + 1).all()
    assert sample.solve(quadratic, z[:0])[0].shape == (0, 3)
