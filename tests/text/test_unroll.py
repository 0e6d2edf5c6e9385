"""Unrolled texts: one model with the parallel pass, gradients from each token to all later ones, ends."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.models import gpt2, t5
from jaxgen.text import decoding
from jaxgen.text.gumbel_softmax import gumbel_softmax, soft_eos_mask, temperature_at, unroll
from jaxgen.text.masking import shift_right

V, T, BEGIN, END = 11, 6, 1, 2


@pytest.fixture(scope="module")
def gpt():
    shape = {"width": 16, "depth": 2, "heads": 2, "max_positions": T + 1, "init_std": 0.4}
    return gpt2.GPT(gpt2.config(V, **shape), rngs=nnx.Rngs(0))


@functools.partial(jax.jit, static_argnames=("hard", "early_end"))
def _write(model, key, temperature, forced_end, hard, early_end):
    start = model.start(jnp.full((3, 1), BEGIN), max_tokens=T)
    options = {"temperature": temperature, "forced_end": forced_end, "end": END}
    return unroll(start, key, length=T, hard=hard, early_end=early_end, **options)


def write(model, key=None, *, temperature=0.8, forced_end=None, hard=False, early_end=False):
    key = jax.random.key(7) if key is None else key
    return _write(model, key, temperature, forced_end, hard, early_end)


def test_hard_draws_have_the_logits_of_teacher_forcing(gpt):
    """The loop and the parallel pass are one model; of soft draws too."""
    for hard in (True, False):
        text, logits = write(gpt, hard=hard)
        assert text.shape == logits.shape == (3, T, V)
        if hard:
            assert set(np.unique(np.round(text, 6))) == {0.0, 1.0}
            np.testing.assert_allclose(
                logits, gpt(shift_right(text.argmax(-1), BEGIN))[0], atol=1e-4
            )
        np.testing.assert_allclose(logits, gpt(shift_right(text, BEGIN))[0], atol=1e-4)


def test_each_position_has_noise_of_its_own_and_is_drawn_from_its_logits(gpt):
    text, logits = write(gpt, hard=True)
    keys = jax.random.split(jax.random.key(7), T)
    for t in range(T):
        want = gumbel_softmax(logits[:, t], keys[t], temperature=0.8, hard=True)
        np.testing.assert_array_equal(text[:, t], want)


def test_an_encoder_decoder_unrolls_too():
    model = t5.T5(t5.fresh_config(V, width=16, depth=1, heads=2), rngs=nnx.Rngs(0))
    source = jax.random.randint(jax.random.key(0), (3, 4), 3, V)

    def both(model, source):
        start = model.start(source, max_tokens=T, start=BEGIN)
        text, logits = unroll(start, jax.random.key(1), length=T, temperature=0.5, hard=True)
        return logits, model(source, shift_right(text.argmax(-1), BEGIN))

    np.testing.assert_allclose(*jax.jit(both)(model, source), atol=1e-4)


def test_the_gradient_of_the_last_token_reaches_what_wrote_the_first(gpt):
    """By the draws alone: first logits are an input, and all weights are constants."""
    start = gpt.start(jnp.full((3, 1), BEGIN), max_tokens=T)

    def last(first, hard):
        begin = start._replace(logits=first)
        text, _ = unroll(begin, jax.random.key(7), length=T, temperature=0.8, hard=hard)
        return (text[:, -1] * jnp.arange(V)).sum()

    both = jax.jit(jax.value_and_grad(last), static_argnums=1)
    for hard in (True, False):
        grad = both(start.logits, hard)[1]
        assert (np.abs(np.asarray(grad)).max(-1) > 1e-6).all()
    # It is the derivative: central differences in float32.
    soft, step, at = lambda x, hard: both(x, hard)[0], 1e-2, start.logits
    way = grad / jnp.linalg.norm(grad)
    found = (soft(at + step * way, False) - soft(at - step * way, False)) / (2 * step)
    assert float(found) == pytest.approx(float(jnp.linalg.norm(grad)), rel=2e-2)


def test_the_parallel_trick_has_no_such_gradient(gpt):
    """Greedy text first, one teacher-forced pass, independent draws: nothing passes between tokens."""
    own = write(gpt, hard=True)[0].argmax(-1)

    def last(model, noise):
        logits = model(shift_right(own, BEGIN))[0] + noise
        text = gumbel_softmax(logits, jax.random.key(1), temperature=0.8)
        return (text[:, -1] * jnp.arange(V)).sum()

    grad = np.asarray(jax.jit(jax.grad(last, 1))(gpt, jnp.zeros((3, T, V))))
    assert (grad[:, :-1] == 0).all()
    assert np.abs(grad[:, -1]).max() > 1e-3


def test_colder_draws_become_the_hard_ones(gpt):
    hard, _ = write(gpt, hard=True)
    cold, _ = write(gpt, temperature=1e-4)
    np.testing.assert_allclose(cold, hard, atol=1e-5)


def test_forced_ends_make_the_length_and_what_is_forced_has_no_gradient(gpt):
    ends = jnp.asarray([0, 2, T - 1])
    for options in ({}, {"hard": True}):
        text, logits = write(gpt, forced_end=ends, **options)
        mask = soft_eos_mask(text, END)
        assert mask.sum(1).tolist() == (ends + 1).tolist()
        after = np.asarray(jnp.arange(T) >= ends[:, None])
        assert (np.asarray(text)[after] == np.eye(V)[END]).all()
        assert (np.asarray(text)[~after][:, END] == 0).all()
        assert jnp.isfinite(logits).all()
    weights = jax.random.normal(jax.random.key(3), (3, T, V))
    grads = jax.grad(lambda m: (write(m, forced_end=jnp.zeros(3, int))[0] * weights).sum())(gpt)
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))


def test_ends_may_come_early(gpt):
    """Then rows are as long as they are, up to the forced end."""
    start = gpt.start(jnp.full((3, 1), BEGIN), max_tokens=T)
    begin = start._replace(logits=start.logits.at[0, END].set(50.0))
    ends = jnp.asarray([4, 4, 4])
    text, _ = unroll(
        begin,
        jax.random.key(0),
        length=T,
        temperature=1.0,
        end=END,
        forced_end=ends,
        early_end=True,
    )
    mask = soft_eos_mask(text, END)
    assert mask[0].sum() == 1
    assert (mask.sum(1) <= 5).all()
    free, _ = unroll(begin, jax.random.key(0), length=T, temperature=1.0)
    assert free[0, 0].argmax() == END


def test_greedy_decoding_ends_where_it_is_told(gpt):
    ends = jnp.asarray([0, 2, T - 1])
    start = decoding.force_ends(gpt.start(jnp.full((3, 1), BEGIN), max_tokens=T), ends, end=END)
    found = decoding.greedy(start, max_tokens=T, eos=END)
    assert found.lengths.tolist() == (ends + 1).tolist()
    best = decoding.beam(start, beams=3, max_tokens=T, eos=END)  # the counters move with their rows
    assert best.lengths.tolist() == (ends + 1).tolist()
    assert (best.scores * best.lengths + 1e-4 >= found.scores).all()


def test_vmap_grad_jit_and_a_traced_temperature(gpt):
    keys = jax.random.split(jax.random.key(0), 2)
    many = jax.jit(jax.vmap(lambda k, t: write(gpt, k, temperature=t)[0]))(
        keys, jnp.asarray([0.5, 2.0])
    )
    np.testing.assert_allclose(many[1], write(gpt, keys[1], temperature=2.0)[0], atol=1e-5)


def test_bad_arguments():
    model = gpt2.GPT(
        gpt2.config(V, width=8, depth=1, heads=2, max_positions=T + 1), rngs=nnx.Rngs(0)
    )
    start = model.start(jnp.full((3, 1), BEGIN), max_tokens=T)
    go = lambda **o: unroll(start, jax.random.key(0), **{"length": T, "temperature": 1.0} | o)  # noqa: E731
    for options, message in (
        ({"length": T + 1}, "length is 7, allowed: 1 to 6"),
        ({"length": 0}, "length is 0"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"forced_end": jnp.zeros(3, int)}, "end is -1, allowed: 0 to 10"),
    ):
        with pytest.raises(ValueError, match=message):
            go(**options)


def test_the_schedule_halves_to_its_floor():
    at = [float(temperature_at(s, start=1.0, floor=0.2, half_life=10)) for s in (0, 10, 20, 1000)]
    np.testing.assert_allclose(at, [1.0, 0.5, 0.25, 0.2], rtol=1e-6)
    traced = jax.jit(lambda s, h: temperature_at(s, half_life=h))(10, 10.0)
    assert float(traced) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="half_life is 0"):
        temperature_at(1, half_life=0)
