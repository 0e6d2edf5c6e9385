"""Gumbel-softmax: draws of the right frequencies, one-hot values, the softmax's gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.text.gumbel_softmax import gumbel_softmax


def test_hard_draws_are_one_hot_and_have_the_frequencies_of_the_logits(key):
    p = np.array([0.5, 0.3, 0.15, 0.05])
    count = 20_000
    logits = jnp.broadcast_to(jnp.log(p), (count, 4))
    drawn = np.asarray(gumbel_softmax(logits, key, temperature=0.7, hard=True))
    assert set(np.unique(drawn)) == {0.0, 1.0}
    assert (drawn.sum(-1) == 1).all()
    # Four standard deviations of a mean of `count` draws.
    assert (np.abs(drawn.mean(0) - p) < 4 * np.sqrt(p * (1 - p) / count)).all()


def test_the_gradient_is_that_of_the_soft_draw(key):
    logits = jax.random.normal(key, (5, 7))
    weight = jax.random.normal(jax.random.key(1), (5, 7))

    def loss(logits, hard):
        return (weight * gumbel_softmax(logits, key, temperature=0.7, hard=hard)).sum()

    hard, soft = (jax.grad(loss)(logits, h) for h in (True, False))
    assert np.allclose(hard, soft, atol=1e-6)
    assert np.abs(np.asarray(soft)).max() > 1e-2


def test_colder_draws_are_closer_to_one_hot(key):
    logits = jax.random.normal(key, (100, 7))
    top = [
        float(gumbel_softmax(logits, key, temperature=t).max(-1).mean()) for t in (2.0, 1.0, 0.1)
    ]
    assert top[0] < top[1] < top[2]
    assert top[2] > 0.9
    with pytest.raises(ValueError, match="temperature is 0"):
        gumbel_softmax(logits, key, temperature=0.0)


def test_temperature_may_be_traced_tiny_and_must_be_a_number():
    logits = jax.random.normal(jax.random.key(0), (4, 5)).at[:, 2].set(-jnp.inf)
    draw = lambda x, t: gumbel_softmax(x, jax.random.key(1), temperature=t)  # noqa: E731
    np.testing.assert_allclose(jax.jit(draw)(logits, 0.5), draw(logits, 0.5), rtol=1e-5)
    cold = draw(logits, 1e-38)
    assert ((cold == 0) | (cold == 1)).all()
    assert (cold.argmax(-1) == draw(logits, 1.0).argmax(-1)).all()
    for t in (0.5, 1e-38):
        grad = jax.grad(lambda x, t=t: (draw(x, t) * jnp.arange(5)).sum())(logits)
        assert jnp.isfinite(grad).all()
        assert (grad[:, 2] == 0).all()
    for bad in (float("nan"), 0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="temperature is"):
            draw(logits, bad)
