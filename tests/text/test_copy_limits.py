"""Values are written at most as often as a record has them, whatever the model would rather say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.text import copy_limits, decoding

VALUES = jnp.asarray([[5, 6, 6, 0], [7, 0, 0, 0]])
REAL = VALUES != 0


def start(scores):
    """A language model of the token before alone."""
    return decoding.Start(lambda cache, token: (scores[token], cache), jnp.zeros(2), scores[:2])


def table(**favours):
    """Scores that favour the words of these letters a, b, .. for 0, 1, .."""
    scores = jax.random.normal(jax.random.key(0), (9, 9)).at[:, 2].add(-20.0)
    for letter, by in favours.items():
        scores = scores.at[:, ord(letter) - ord("a")].add(by)
    return scores


@pytest.mark.parametrize("beams", [1, 3])
def test_values_are_said_as_often_as_they_are_there(beams):
    begin = copy_limits.as_often_as_there(start(table(f=16.0, g=12.0, h=8.0)), VALUES, REAL)
    options = {"max_tokens": 8, "eos": 2, "pad": 0}
    if beams == 1:
        found = jax.jit(lambda: decoding.greedy(begin, **options))()
    else:
        found = jax.jit(lambda: decoding.beam(begin, beams=beams, **options))()
    first, second = np.asarray(found.tokens)
    assert [(first == v).sum() for v in (5, 6)] == [1, 2]
    assert (first == 7).sum() == 5
    # What is no value of the row's record is free.
    assert (second == 5).sum() == 8
    assert np.isfinite(found.scores).all()


def test_what_is_left_is_renormalised():
    scores = table()
    begin = copy_limits.as_often_as_there(start(scores), VALUES, REAL)
    np.testing.assert_allclose(begin.logits, jax.nn.log_softmax(scores[:2]), atol=1e-6)
    logits, state = begin.step(begin.cache, jnp.asarray([5, 3]))
    p = jnp.exp(logits)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-6)
    assert p[0, 5] == 0
    whole = jax.nn.softmax(scores[jnp.asarray([5, 3])])
    np.testing.assert_allclose(p[1], whole[1], rtol=1e-5)
    want = whole[0].at[5].set(0.0) / (1 - whole[0, 5])
    np.testing.assert_allclose(p[0], want, rtol=1e-5)
    once, state = begin.step(state, jnp.asarray([6, 7]))
    assert jnp.isfinite(once[0, 6])
    assert jnp.isneginf(once[1, 7])
    twice, _ = begin.step(state, jnp.asarray([6, 7]))
    assert jnp.isneginf(twice[0, 6])


def test_padding_is_no_value():
    every = copy_limits.as_often_as_there(start(table()), VALUES)
    some = copy_limits.as_often_as_there(start(table()), VALUES, REAL)
    token = jnp.asarray([0, 0])
    assert jnp.isfinite(some.step(some.cache, token)[0]).all()
    assert jnp.isneginf(every.step(every.cache, token)[0][0, 0])
