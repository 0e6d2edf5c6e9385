"""The style-transfer model: its steps and its parallel pass are one, it reads distributions, padding is nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.losses.cross_entropy import mean_cross_entropy
from jaxgen.models.style_transfer import StyleTransfer, hidden_words
from jaxgen.text import decoding
from jaxgen.text.gumbel_softmax import unroll
from jaxgen.text.masking import eos_mask

V, T, BEGIN, END = 11, 6, 1, 2
X = jnp.asarray([[3, 4, 5, 2, 0, 0], [6, 7, 8, 3, 4, 2]], jnp.int32)
REAL, STYLE = eos_mask(X, END), jnp.asarray([0, 1])


def build(**options):
    return StyleTransfer(V, 2, **{"width": 16, "begin": BEGIN} | options, rngs=nnx.Rngs(0))


@jax.jit
def write(model, x=X, real=REAL, style=STYLE):
    return unroll(
        model.start(x, real, style), jax.random.key(0), length=T, temperature=0.7, hard=True,
        end=END, forced_end=real.sum(-1) - 1,
    )  # fmt: skip


@jax.jit
def forced(model, x, real, style, target):
    return model(x, real, style, target)


def test_hard_draws_have_the_logits_of_teacher_forcing_and_the_length_of_the_source():
    model = build(embedding=10)
    text, logits = write(model)
    tokens = text.argmax(-1)
    np.testing.assert_array_equal(eos_mask(tokens, END), REAL)
    want = forced(model, X, REAL, STYLE, tokens)
    words = np.asarray(jnp.arange(V) != END)
    for row, last in enumerate(np.asarray(REAL.sum(-1)) - 1):
        np.testing.assert_allclose(logits[row, :last, words], want[row, :last, words], atol=1e-4)
    start = decoding.force_ends(model.start(X, REAL, STYLE), REAL.sum(-1) - 1, end=END)
    assert decoding.greedy(start, max_tokens=T, eos=END).lengths.tolist() == [4, 6]


def test_one_hot_distributions_are_their_tokens_and_padding_is_nothing():
    model = build()
    want = forced(model, X, REAL, STYLE, X)
    hot = jax.nn.one_hot(X, V)
    np.testing.assert_allclose(forced(model, hot, REAL, STYLE, hot), want, atol=1e-5)
    other = jnp.where(REAL, X, 9)
    np.testing.assert_allclose(forced(model, other, REAL, STYLE, X), want, atol=1e-6)
    broken = jnp.where(REAL[..., None], hot, jnp.nan)
    np.testing.assert_allclose(forced(model, broken, REAL, STYLE, X), want, atol=1e-5)
    memory, last = model.encode(X[:1, :4], REAL[:1, :4])
    padded = model.encode(X[:1], REAL[:1])
    np.testing.assert_allclose(padded[0][:, :4], memory, atol=1e-6)
    np.testing.assert_allclose(padded[1], last, atol=1e-6)


def test_the_style_is_told_and_the_source_is_read():
    model = build()
    want = forced(model, X, REAL, STYLE, X)
    assert np.abs(forced(model, X, REAL, 1 - STYLE, X) - want).max() > 1e-3
    assert np.abs(forced(model, X[::-1], REAL[::-1], STYLE, X) - want).max() > 1e-3
    hidden = model(X, REAL, STYLE, X, hidden=REAL)
    blank = model(jnp.zeros((2, T, V)), REAL, STYLE, X)  # no word is seen: any texts are alike
    np.testing.assert_allclose(hidden, blank, atol=1e-6)


def test_the_last_tokens_loss_reaches_the_encoders_embeddings():
    """Through the whole chain of draws: the decoder's first logits come from what was read."""
    model = build()

    def loss(text):
        out, _ = unroll(
            model.start(text, REAL, STYLE), jax.random.key(0), length=T, temperature=1.0
        )
        return (out[:, -1] * jnp.arange(V)).sum()

    grad = jax.jit(jax.grad(loss))(jax.nn.one_hot(X, V))
    size = np.abs(np.asarray(grad)).max(-1)
    assert (size[np.asarray(REAL)] > 1e-8).all()
    assert (size[~np.asarray(REAL)] == 0).all()


def test_it_learns_to_repeat():
    model, rng = build(width=32), np.random.default_rng(0)
    x = jnp.asarray(rng.integers(3, V, (64, T)), jnp.int32).at[:, -1].set(END)
    real, style = jnp.ones(x.shape, bool), jnp.zeros(64, jnp.int32)
    import optax

    tx = optax.adam(1e-2)

    def step(carry, _):
        model, state = carry
        loss = lambda m: mean_cross_entropy(m(x, real, style, x), x, real).mean()  # noqa: E731
        value, grad = jax.value_and_grad(loss)(model)
        updates, state = tx.update(grad, state)
        return (optax.apply_updates(model, updates), state), value

    run = jax.jit(lambda m: jax.lax.scan(step, (m, tx.init(m)), length=150)[1])
    losses = run(model)
    assert losses[0] > 2.0
    assert losses[-1] < 0.5


def test_words_are_hidden_at_their_rate_and_dropout_needs_a_key():
    mask = jnp.ones((1000, 10), bool).at[:, 7:].set(False)
    hidden = hidden_words(jax.random.key(0), mask, 0.2)
    assert not hidden[:, 7:].any()
    assert abs(float(hidden[:, :7].mean()) - 0.2) < 4 * np.sqrt(0.16 / 7000)
    model = build(dropout=0.5)
    a, b = model(X, REAL, STYLE, X), model(X, REAL, STYLE, X, key=jax.random.key(0))
    np.testing.assert_allclose(a, forced(model, X, REAL, STYLE, X), atol=1e-6)
    assert np.abs(a - b).max() > 1e-3


def test_bad_arguments():
    with pytest.raises(ValueError, match="width is 7, allowed: an even number"):
        build(width=7)
    with pytest.raises(ValueError, match=r"rate is 1\.5"):
        hidden_words(jax.random.key(0), REAL, 1.5)
    with pytest.raises(ValueError, match="vocabulary of text is 12, allowed: 11"):
        build().encode(jnp.ones((2, T, 12)), REAL)
