"""One solver for latents, images and paths: what comes back, and what of a row that cannot be solved."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import ode


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 4, 4, 1)])
def test_decay_both_ways_in_any_shape(batched, shape):
    y = jax.random.normal(jax.random.key(0), shape)
    decay = lambda t, y: -t * y  # noqa: E731
    run = jax.jit(lambda y, *t: ode.solve(decay, y, *t, batched=batched, rtol=1e-6, atol=1e-6))
    end, stats = run(y, 0.0, 2.0)
    np.testing.assert_allclose(end, y * np.exp(-2.0), atol=1e-5)
    np.testing.assert_allclose(run(end, 2.0, 0.0)[0], y, atol=1e-4)
    assert stats.trajectory is None
    assert stats.num_steps.shape == stats.nfe.shape == stats.failed.shape == (3,)
    assert not stats.failed.any()


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(("rows", "block"), [(7, 3), (6, 3), (2, 3), (1, 1)])
def test_blocks_of_rows(batched, rows, block):
    """A row with step sizes of its own is the same in any block; with one step size, within the tolerance."""
    y = jnp.linspace(0.1, 1.5, 2 * rows).reshape(rows, 2)
    swing = lambda t, y: jnp.sin(3 * t) * y - y**3  # noqa: E731
    run = lambda block: ode.solve(swing, y, 0.0, 2.0, batched=batched, block=block, points=3)  # noqa: E731
    (end, stats), (want, whole) = run(block), run(0)
    np.testing.assert_allclose(end, want, rtol=1e-2 if batched else 1e-6)
    assert stats.trajectory.shape == whole.trajectory.shape == (rows, 3, 2)
    assert jnp.array_equal(stats.trajectory[:, -1], end)
    if not batched:
        assert jnp.array_equal(stats.num_steps, whole.num_steps)


def test_one_step_size_is_of_a_block():
    """The last rows need small steps, and only their block takes them; its filling is the last row."""
    rate = lambda t, y: -(y**2) * 50 * y  # noqa: E731
    y = jnp.asarray([0.01] * 4 + [2.0] * 3)[:, None]
    _, stats = ode.solve(rate, y, 0.0, 1.0, batched=True, block=4, rtol=1e-6, atol=1e-6)
    assert len(set(stats.num_steps.tolist())) == 2
    assert stats.num_steps[0] < stats.num_steps[4] / 2
    _, failing = ode.solve(
        rate, y, 0.0, 1.0, batched=True, block=4, max_steps=20, rtol=1e-6, atol=1e-6
    )
    assert failing.failed.tolist() == [False] * 4 + [True] * 3


def test_gradients_through_blocks():
    y = jnp.linspace(0.5, 1.5, 5)[:, None]
    end = lambda rate, block: ode.solve(lambda t, y: rate * y, y, 0.0, 1.0, block=block)[0].sum()  # noqa: E731
    got, want = (jax.grad(end)(0.5, block) for block in (2, 0))
    assert got == pytest.approx(float(want), rel=1e-5)


def test_states_along_the_way():
    y = jnp.ones((2, 3))
    end, stats = ode.solve(lambda t, y: 0 * y + 1, y, 1.0, 3.0, points=4)
    assert stats.trajectory.shape == (2, 4, 3)
    np.testing.assert_allclose(stats.trajectory[0, :, 0], [1.5, 2.0, 2.5, 3.0], rtol=1e-6)
    assert np.array_equal(stats.trajectory[:, -1], end)


@pytest.mark.parametrize("steps", [None, 5])
@pytest.mark.parametrize("batched", [False, True])
def test_a_row_that_fails_is_nan_and_marked(steps, batched):
    """dy/dt = y^3 from 2 blows up at t = 1 / 8."""
    y = jnp.array([[0.1, 1.0], [2.0, 1.0]])
    cube = lambda t, y: y**3 * jnp.array([1.0, 0.0])  # noqa: E731
    end, stats = ode.solve(
        cube, y, 0.0, 8.0, solver=diffrax.Heun(), steps=steps, batched=batched, max_steps=50
    )
    together = batched and steps is None  # equal steps do not depend on the other rows
    assert stats.failed.tolist() == [together, True]
    assert np.isnan(end).all(1).tolist() == [together, True]


@pytest.mark.parametrize(
    "adjoint", [None, diffrax.RecursiveCheckpointAdjoint(), diffrax.BacksolveAdjoint()]
)
def test_gradients_reach_what_the_drift_closes_over(adjoint):
    def end(rate):
        got, _ = ode.solve(
            lambda t, y: rate * y,
            jnp.ones((1, 1)),
            0.0,
            1.0,
            rtol=1e-6,
            atol=1e-6,
            adjoint=adjoint,
            max_steps=64,
        )
        return got.sum()

    assert float(jax.grad(end)(0.5)) == pytest.approx(np.exp(0.5), rel=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_solved_in_float32(dtype):
    seen = []

    def drift(t, y):
        seen.append(y.dtype)
        return -y

    end, _ = ode.solve(drift, jnp.ones((2, 3), dtype), 0.0, 1.0)
    assert end.dtype == dtype
    assert set(seen) == {jnp.dtype("float32")}
    assert float(end[0, 0]) == pytest.approx(np.exp(-1), rel=float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("batched", [False, True])
def test_no_rows(batched):
    end, stats = ode.solve(lambda t, y: -y, jnp.zeros((0, 3)), 0.0, 1.0, batched=batched)
    assert end.shape == (0, 3)
    assert stats.failed.shape == (0,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": float("nan")}, "rtol, atol are nan"),
        ({"steps": 0}, "steps is 0"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"points": -1}, "points is -1"),
        ({"block": -1}, "block is -1"),
        ({"solver": diffrax.Euler()}, "steps is None, allowed with Euler: a number"),
        ({"solver": diffrax.ReversibleHeun()}, "solver is ReversibleHeun"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        ode.solve(lambda t, y: -y, jnp.zeros((1, 3)), 0.0, 1.0, **options)
