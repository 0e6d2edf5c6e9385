"""Gumbel-softmax: draws of the right frequencies, one-hot values, the softmax's gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.text import relaxed


def test_hard_draws_are_one_hot_and_have_the_frequencies_of_the_logits(key):
    p = np.array([0.5, 0.3, 0.15, 0.05])
    count = 20_000
    logits = jnp.broadcast_to(jnp.log(p), (count, 4))
    drawn = np.asarray(relaxed.gumbel_softmax(logits, key, temperature=0.7, hard=True))
    assert set(np.unique(drawn)) == {0.0, 1.0}
    assert (drawn.sum(-1) == 1).all()
    # Four standard deviations of a mean of `count` draws.
    assert (np.abs(drawn.mean(0) - p) < 4 * np.sqrt(p * (1 - p) / count)).all()


def test_the_gradient_is_that_of_the_soft_draw(key):
    logits = jax.random.normal(key, (5, 7))
    weight = jax.random.normal(jax.random.key(1), (5, 7))

    def loss(logits, hard):
        return (weight * relaxed.gumbel_softmax(logits, key, temperature=0.7, hard=hard)).sum()

    hard, soft = (jax.grad(loss)(logits, h) for h in (True, False))
    assert np.allclose(hard, soft, atol=1e-6)
    assert np.abs(np.asarray(soft)).max() > 1e-2


def test_colder_draws_are_closer_to_one_hot(key):
    logits = jax.random.normal(key, (100, 7))
    top = [
        float(relaxed.gumbel_softmax(logits, key, temperature=t).max(-1).mean())
        for t in (2.0, 1.0, 0.1)
    ]
    assert top[0] < top[1] < top[2]
    assert top[2] > 0.9
    with pytest.raises(ValueError, match="temperature is 0"):
        relaxed.gumbel_softmax(logits, key, temperature=0.0)
