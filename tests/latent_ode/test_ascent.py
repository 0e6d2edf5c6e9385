import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.latent_ode import ascent

A = jnp.asarray([1.0, -2.0, 0.5])


def linear(z):
    return z @ A


def test_ode_of_a_linear_property_has_a_closed_form():
    """dz/ds = a - p z, so z(s) = a/p + (z_0 - a/p) exp(-p s); the error shrinks with tolerance."""
    z = jax.random.normal(jax.random.key(0), (5, 3))
    p, time = 0.7, 2.0
    want = A / p + (z - A / p) * np.exp(-p * time)
    errors = []
    for tol in (1e-2, 1e-4, 1e-6):
        got, stats = ascent.ascent_ode(linear, z, time=time, penalty=p, rtol=tol, atol=tol)
        errors.append(float(jnp.abs(got - want).max()))
        assert stats.num_steps.shape == (5,)
    assert errors[2] < 1e-5
    assert errors[0] >= errors[1] >= errors[2]


def test_small_steps_follow_the_ode():
    z = jax.random.normal(jax.random.key(1), (4, 3))

    def score(z):
        return jnp.sin(z).sum() + z[0] * z[1]

    want, _ = ascent.ascent_ode(score, z, time=1.0, penalty=0.3, rtol=1e-6, atol=1e-6)
    for steps, bound in ((10, 0.2), (1000, 2e-3)):
        got = ascent.gradient_ascent(score, z, steps=steps, rate=1.0 / steps, penalty=0.3)
        assert float(jnp.abs(got - want).max()) < bound


def test_both_raise_the_objective_and_rows_are_independent():
    z = jax.random.normal(jax.random.key(2), (6, 3))

    def objective(z, p=0.2):
        return jax.vmap(lambda z: linear(z) - 0.5 * p * (z**2).sum())(z)

    up = ascent.gradient_ascent(linear, z, steps=5, rate=0.1, penalty=0.2)
    flow, _ = jax.jit(lambda z: ascent.ascent_ode(linear, z, time=0.5, penalty=0.2))(z)
    assert (objective(up) > objective(z)).all()
    assert (objective(flow) > objective(z)).all()
    alone, _ = ascent.ascent_ode(linear, z[2:3], time=0.5, penalty=0.2)
    assert np.allclose(alone[0], flow[2], atol=1e-6)
    assert np.array_equal(ascent.gradient_ascent(linear, z, steps=0, rate=0.1), z)


def test_a_row_whose_solver_gives_up_is_marked():
    z = jnp.asarray([[0.1, 0.0, 0.0], [9.0, 0.0, 0.0]])
    got, stats = ascent.ascent_ode(
        lambda z: z[0] ** 4, z, time=1.0, max_steps=64, solver=diffrax.Tsit5()
    )
    assert stats.failed.tolist() == [False, True]
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": -1, "rate": 0.1}, "steps is -1"), ({"steps": 1, "rate": 0.0}, "rate is 0")],
)
def test_bad_steps(options, message):
    with pytest.raises(ValueError, match=message):
        ascent.gradient_ascent(linear, jnp.zeros((1, 3)), **options)


@pytest.mark.parametrize("options", [{"time": 0.0}, {"time": 1.0, "rtol": 0.0}])
def test_bad_times_and_tolerances(options):
    with pytest.raises(ValueError, match="above 0"):
        ascent.ascent_ode(linear, jnp.zeros((1, 3)), **options)
