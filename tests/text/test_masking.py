import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.text import masking

V, T = 11, 7


def tokens(rows=4, seed=0):
    return jax.random.randint(jax.random.key(seed), (rows, T), 4, V)


def test_positions_until_the_end():
    x = jnp.asarray([[5, 3, 3, 0], [3, 5, 5, 5], [5, 5, 5, 5]])
    want = [[True, True, False, False], [True, False, False, False], [True] * 4]
    assert masking.eos_mask(x, 3).tolist() == want


def test_deleted_tokens_close_up_and_are_as_many_as_asked():
    rows = jnp.where(jnp.arange(T) < 5, tokens(4000), 0)
    out = np.asarray(masking.delete_tokens(rows, jax.random.key(0), rate=0.3, pad=0))
    left = (out != 0).sum(1)
    assert abs(left.mean() - 3.5) < 4 * np.sqrt(5 * 0.3 * 0.7 / 4000)
    assert ((out != 0) == (np.arange(T) < left[:, None])).all()
    for before, after in zip(np.asarray(rows)[:50].tolist(), out[:50].tolist(), strict=True):
        rest = iter(before)
        assert all(token in rest for token in after if token)  # in the order they had
    assert (masking.delete_tokens(rows, jax.random.key(0), rate=0.0, pad=0) == rows).all()


def test_shifted_distributions_are_shifted_tokens():
    x = tokens()
    hot = masking.shift_right(jax.nn.one_hot(x, V), 1)
    np.testing.assert_array_equal(hot, jax.nn.one_hot(masking.shift_right(x, 1), V))
    assert masking.shift_right(jnp.zeros((2, 0, V)), 1).shape == (2, 0, V)
    assert masking.shift_right(x.astype(jnp.int8), 1).dtype == jnp.int8
