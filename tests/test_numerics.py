import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen import numerics
from jaxgen.errors import require


def test_require_names_what_is_wrong_and_lets_traced_values_pass():
    def check(x):
        require("rate", (x > 0) & (x < 1), x, "above 0 and below 1")
        return x

    assert check(0.5) == 0.5
    assert (check(jnp.array([0.5, 0.1])) == jnp.array([0.5, 0.1])).all()
    assert jax.jit(check)(7.0) == 7.0
    assert jax.vmap(check)(jnp.array([7.0])) == 7.0
    for bad, shown in (
        (2.0, "2.0"),
        (float("nan"), "nan"),
        (jnp.float32(2), "2.0"),
        (np.array([0.5, 2]), r"\[0.5, 2.0\]"),
    ):
        with pytest.raises(ValueError, match=f"^rate is {shown}, allowed: above 0 and below 1$"):
            check(bad)


def test_over_temperature_keeps_the_order_at_any_temperature():
    x = jnp.array([[1.0, 3.0, -jnp.inf], [-jnp.inf] * 3])
    for t in (1e-45, 1e-38, 1e-6, 1.0):
        y = numerics.over_temperature(x, t)
        assert y[0, 1] == 0
        assert y[0, 0] < 0
        assert (y[1] == -jnp.inf).all()
    np.testing.assert_allclose(numerics.over_temperature(x, 0.5)[0, :2], [-4.0, 0.0])
    half = jnp.array([1.0, 3.0], jnp.float16)
    assert numerics.over_temperature(half, 1e-5).tolist() == pytest.approx([-2e5, 0.0])


def test_lookup_never_gives_a_neighbours_row():
    table = jnp.arange(6.0).reshape(3, 2)
    assert numerics.lookup(table, jnp.array([2, 0]), "ids").tolist() == [[4, 5], [0, 1]]
    with pytest.raises(ValueError, match=r"ids is \[3, -1\], allowed: 0 to 2"):
        numerics.lookup(table, jnp.array([3, 0, -1]), "ids")
    found = jax.jit(lambda i: numerics.lookup(table, i, "ids"))(jnp.array([3, 1, -1]))
    assert jnp.isnan(found).tolist() == [[True] * 2, [False] * 2, [True] * 2]
    padded = numerics.lookup(table, jnp.array([3, 1]), "ids", jnp.array([False, True]))
    assert padded.tolist() == [[0, 1], [2, 3]]
    grad = jax.grad(lambda e: numerics.lookup(e, jnp.array([1, 1]), "ids").sum())(table)
    assert grad.tolist() == [[0, 0], [2, 2], [0, 0]]


def test_means_and_padding():
    assert numerics.mean(jnp.zeros((0, 3))) == 0
    assert numerics.mean(jnp.zeros((0, 3)), 0).tolist() == [0, 0, 0]
    assert numerics.mean(jnp.array([1.0, 3.0])) == 2
    real = jnp.array([True, False, False])
    x = jnp.array([[1.0, jnp.nan], [jnp.inf, 1.0], [1.0, 2.0]])
    kept = numerics.finite_padding(x, real)
    assert jnp.isnan(kept[0, 1])
    assert kept[1:].tolist() == [[0, 0], [1, 2]]
