"""Our loop of Dormand and Prince's method against diffrax's, and what it does where no solve is possible."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import dopri5, ode

RATE = jnp.asarray([[-1.0, 3.0], [-3.0, -0.5]])


def swing(t, y):
    return jnp.tanh(RATE @ y) + jnp.sin(3.0 * t)


def by_diffrax(y, t0, t1, tol, drift=swing):
    """Saved points are what our loop does not have."""
    options = {"points": 1, "rtol": tol, "atol": tol}
    return ode.solve(drift, y, t0, t1, solver=diffrax.Dopri5(), **options)


@pytest.mark.parametrize("span", [(0.0, 4.0), (2.0, -1.0)])
def test_as_near_to_the_truth_as_diffrax_in_as_many_steps(span):
    y = jax.random.normal(jax.random.key(0), (5, 2))
    truth, _ = by_diffrax(y, *span, 1e-7)
    for tol in (1e-3, 1e-5):
        end, stats = ode.solve(swing, y, *span, solver=diffrax.Dopri5(), rtol=tol, atol=tol)
        theirs, they = by_diffrax(y, *span, tol)
        worst = [float(jnp.abs(a - truth).max()) for a in (end, theirs)]
        assert worst[0] < max(2.0 * worst[1], 30 * tol)
        assert not stats.failed.any()
        assert (jnp.abs(stats.num_steps - they.num_steps) <= 5).all()


def test_fifth_order():
    """Steps grow as tolerance to the power -1/5: ten thousand times as sharp, 6.3 times as many."""
    y, t0, t1 = jnp.asarray([1.0, 0.0], jnp.float32), jnp.zeros(()), jnp.asarray(30.0)
    turn = lambda t, y: jnp.stack([-y[1], y[0]])  # noqa: E731
    counts = [
        int(dopri5.solve(turn, y, t0, t1, rtol=tol, atol=tol, max_steps=1000)[2])
        for tol in (1e-2, 1e-6)
    ]
    assert 4.0 < counts[1] / counts[0] < 8.0


def test_gradients_are_those_of_diffrax():
    y = jax.random.normal(jax.random.key(1), (3, 2))

    def loss(solve, rate, y, t1):
        return (solve(lambda t, y: jnp.tanh(rate @ y), y, 0.0, t1) ** 2).sum()

    def ours(drift, y, t0, t1):
        return ode.solve(drift, y, t0, t1, solver=diffrax.Dopri5())[0]

    def theirs(drift, y, t0, t1):
        return by_diffrax(y, t0, t1, 1e-3, drift)[0]

    got, want = (
        jax.jit(jax.grad(loss, (1, 2, 3)), static_argnums=0)(f, RATE, y, 1.5)
        for f in (ours, theirs)
    )
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_rows_that_cannot_be_solved_stop_alone():
    """A state that is not finite ends at once; one that runs away ends after max_steps."""
    y = jnp.asarray([[0.5], [jnp.nan], [jnp.inf], [5.0]])
    burst = lambda t, y: y**2  # noqa: E731
    end, stats = jax.jit(
        lambda y: ode.solve(burst, y, 0.0, 1.0, solver=diffrax.Dopri5(), max_steps=50)
    )(y)
    assert stats.failed.tolist() == [False, True, True, True]
    assert end[0, 0] == pytest.approx(1.0, rel=1e-2)
    assert jnp.isnan(end[1:]).all()
    assert stats.num_steps[1] == 0
    assert stats.num_steps[3] == 50


def test_no_way_to_go():
    y = jnp.ones((2, 2))
    end, stats = ode.solve(swing, y, 1.0, 1.0, solver=diffrax.Dopri5())
    assert jnp.array_equal(end, y)
    assert not stats.failed.any()
    still, _ = ode.solve(lambda t, y: 0.0 * y, y, 0.0, 1.0, solver=diffrax.Dopri5())
    assert jnp.array_equal(still, y)
