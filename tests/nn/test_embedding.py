"""Every model reads tokens, or distributions over them: one-hot ones are their tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.models import bert, gpt2, gpt_neo, t5
from jaxgen.nn import textcnn
from jaxgen.nn.embedding import embed

V, T = 11, 5
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, V, (2, T)), jnp.int32)
MASK = jnp.arange(T) < jnp.asarray([[5], [3]])
SHAPE = {"width": 16, "depth": 2, "heads": 2}
POSITIONS = {"max_positions": 8, "init_std": 0.3}
READERS = {
    "gpt2": lambda: gpt2.GPT(gpt2.config(V, **SHAPE, **POSITIONS), rngs=nnx.Rngs(0)),
    "gpt_neo": lambda: gpt2.GPT(
        gpt_neo.config(V, **SHAPE, **POSITIONS, windows=(0, 2)), rngs=nnx.Rngs(0)
    ),
    "bert": lambda: bert.Bert(bert.config(V, **SHAPE, **POSITIONS), rngs=nnx.Rngs(0)),
    "t5": lambda: t5.T5(t5.fresh_config(V, **SHAPE), rngs=nnx.Rngs(0)),
    "textcnn": lambda: textcnn.TextCNN(V, 3, width=8, rngs=nnx.Rngs(0)),
}


def read(kind, model, text):
    if kind == "textcnn":
        return model(text, MASK)
    if kind == "t5":
        return model(text, text, source_mask=MASK, target_mask=MASK)
    out = model(text, mask=MASK)
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("kind", READERS)
def test_one_hot_distributions_are_their_tokens_and_gradients_reach_them(kind):
    model = READERS[kind]()
    one_hot = jax.nn.one_hot(TOKENS, V)
    want, got = read(kind, model, TOKENS), read(kind, model, one_hot)
    real = slice(None) if kind == "textcnn" else np.asarray(MASK)
    np.testing.assert_allclose(np.asarray(got)[real], np.asarray(want)[real], atol=2e-5)
    p = jax.nn.softmax(jax.random.normal(jax.random.key(0), (2, T, V)))
    weight = jax.random.normal(jax.random.key(1), want.shape)
    grad = jax.jit(
        jax.grad(
            lambda m, p: (jnp.where(jnp.isfinite(want), read(kind, m, p), 0) * weight).sum(), 1
        )
    )(model, p)
    size = np.abs(np.asarray(grad)).max(-1)
    assert (size[np.asarray(MASK)] > 1e-6).all()
    if kind in ("textcnn", "bert"):  # no position that is not real is looked at
        assert kind == "bert" or (size[~np.asarray(MASK)] == 0).all()


@pytest.mark.parametrize("kind", READERS)
def test_distributions_over_another_vocabulary_are_refused_in_one_line(kind):
    model = READERS[kind]()
    with pytest.raises(ValueError, match=r"vocabulary of \w+ is 12, allowed: 11"):
        jax.jit(lambda m: read(kind, m, jnp.ones((2, T, V + 1)) / (V + 1)))(model)


def test_decoders_go_on_from_distributions():
    """Step by step, as all at once; the steps take tokens and distributions."""
    p = jax.nn.softmax(3 * jax.random.normal(jax.random.key(0), (2, 4, V)))
    gpt = READERS["gpt2"]()
    start = gpt.start(p[:, :1], max_tokens=3)
    logits, cache, each = start.logits, start.cache, []
    for t in range(1, 4):
        each.append(logits)
        logits, cache = jax.jit(start.step)(cache, p[:, t])
    want = gpt(p)[0]
    np.testing.assert_allclose(jnp.stack([*each, logits], 1), want, atol=1e-5)
    seq2seq = READERS["t5"]()
    start = seq2seq.start(p, max_tokens=3)
    hard, soft = (
        start.step(start.cache, x)[0] for x in (TOKENS[:, 0], jax.nn.one_hot(TOKENS[:, 0], V))
    )
    np.testing.assert_allclose(hard, soft, atol=1e-5)


def test_what_does_not_count_reaches_neither_value_nor_gradient():
    table = jax.random.normal(jax.random.key(0), (V, 4))
    p = jax.nn.softmax(jax.random.normal(jax.random.key(1), (2, T, V)))
    bad = jnp.where(MASK[..., None], p, jnp.nan)
    np.testing.assert_array_equal(embed(table, bad, "p", MASK)[0], (p @ table)[0])
    assert (embed(table, bad, "p", MASK)[1, 3:] == 0).all()
    grad = jax.grad(lambda t: embed(t, bad, "p", MASK).sum())(table)
    assert jnp.isfinite(grad).all()
    mapped = jax.vmap(lambda p: embed(table, p))(p)
    np.testing.assert_allclose(mapped, p @ table, rtol=1e-5)
    assert embed(table.astype(jnp.bfloat16), p).dtype == jnp.bfloat16


def test_ids_that_the_table_lacks():
    table = jnp.ones((V, 2))
    with pytest.raises(ValueError, match=r"tokens is \[11\], allowed: 0 to 10"):
        embed(table, jnp.asarray([11]))
    assert jnp.isnan(jax.jit(embed)(table, jnp.asarray([11]))).all()
