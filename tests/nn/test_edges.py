"""Transformers at the edges: positions and ids beyond a model, padding, prefix slots, half precision."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.losses import vae
from jaxgen.models import bert, gpt2, t5, vit
from jaxgen.models.text_autoencoder import SequenceEncoder
from jaxgen.models.text_decoders import LatentGPT
from jaxgen.models.translator import drop_repeats
from jaxgen.nn import attention, textcnn
from jaxgen.text import decoding, masking

V, POSITIONS = 11, 8


@pytest.fixture(scope="module")
def gpt():
    shape = {"width": 16, "depth": 2, "heads": 2, "max_positions": POSITIONS, "init_std": 0.3}
    return gpt2.GPT(gpt2.config(V, **shape), rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def encoder():
    shape = {"width": 16, "depth": 2, "heads": 2, "max_positions": POSITIONS, "init_std": 0.3}
    return bert.Bert(bert.config(V, **shape), rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def seq2seq():
    return t5.T5(t5.config(V, width=16, depth=1, heads=2), rngs=nnx.Rngs(0))


def ids(*shape):
    return jnp.asarray(np.random.default_rng(0).integers(2, V, shape), jnp.int32)


def test_more_tokens_than_positions_are_refused(gpt, encoder):
    for call in (
        lambda: gpt(ids(1, 9)),
        lambda: encoder(ids(1, 9)),
        lambda: jax.jit(gpt)(ids(1, 9)),
    ):
        with pytest.raises(ValueError, match="tokens' length is 9, allowed: at most 8"):
            call()
    with pytest.raises(ValueError, match=r"positions is \[8\], allowed: 0 to 7"):
        gpt(ids(1, 2), positions=jnp.array([[7, 8]]))
    # Step by step it is the cache that says how many there were.
    cache = gpt.make_cache(1, 20)
    _, cache = gpt(ids(1, 7), cache=cache)
    _, cache = gpt(ids(1, 1), cache=cache)
    with pytest.raises(ValueError, match=r"positions is \[8\]"):
        gpt(ids(1, 1), cache=cache)
    logits, _ = jax.jit(lambda c: gpt(ids(1, 1), cache=c))(cache)
    assert jnp.isnan(logits).all()


def test_a_full_cache_is_refused_and_nan_under_jit(gpt):
    cache = gpt.make_cache(1, 4)
    with pytest.raises(ValueError, match="cache size is 4"):
        gpt(ids(1, 5), cache=cache)
    _, cache = gpt(ids(1, 3), cache=cache)
    with pytest.raises(ValueError, match="cache size is 4, allowed: room for 2 more"):
        gpt(ids(1, 2), cache=cache)
    step = jax.jit(lambda c, t: gpt(t, cache=c))
    assert jnp.isfinite(step(cache, ids(1, 1))[0]).all()
    assert jnp.isnan(step(cache, ids(1, 2))[0]).all()


@pytest.mark.parametrize("token", [V, -1])
def test_tokens_beyond_the_vocabulary(gpt, encoder, seq2seq, token):
    bad = ids(2, 4).at[0, 1].set(token)
    cnn = textcnn.TextCNN(V, 3, width=4, rngs=nnx.Rngs(0))
    every = jnp.ones((2, 4), bool)
    calls = {
        "gpt": lambda x, m: gpt(x, mask=m)[0],
        "bert": lambda x, m: encoder(x, mask=m),
        "t5 source": lambda x, m: seq2seq(x, ids(2, 3), source_mask=m),
        "t5 target": lambda x, m: seq2seq(ids(2, 3), x, target_mask=m),
        "cnn": cnn,
    }
    for name, call in calls.items():
        with pytest.raises(
            ValueError, match=rf"(tokens|text) is \[{token}\], allowed: 0 to {V - 1}"
        ):
            call(bad, every)
        out = jax.jit(call)(bad, every)
        assert jnp.isnan(out[0]).any(), name
        assert jnp.isfinite(out[1]).all(), name
        # Padding may be any id.
        mask = every.at[0, 1].set(False)
        np.testing.assert_array_equal(
            call(bad, mask)[1], call(jnp.where(mask, bad, 0), mask)[1], err_msg=name
        )
        assert jnp.isfinite(call(bad, mask)).all(), name


def test_padding_of_inputs_and_memory_may_hold_anything(seq2seq):
    stack = seq2seq.decoder
    h, memory = jax.random.normal(jax.random.key(0), (2, 2, 4, 16))
    mask = jnp.arange(4) < jnp.array([[4], [2]])

    def loss(h, memory, fill):
        h, memory = (jnp.where(mask[..., None], a, fill) for a in (h, memory))
        out = stack(h, mask=mask, memory=memory, memory_mask=mask)[0]
        return jnp.where(mask[..., None], out, 0.0).sum()

    run = jax.jit(jax.value_and_grad(loss, (0, 1)))
    want, grads = run(h, memory, 0.0)
    got, others = run(h, memory, jnp.nan)
    assert got == pytest.approx(float(want), rel=1e-5)
    for a, b in zip(grads, others, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-6)
    pooled = bert.mean_pool(jnp.where(mask[..., None], h, jnp.nan), mask)
    np.testing.assert_allclose(pooled[1], h[1, :2].mean(0), rtol=1e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_windows_do_not_hide_prefix_slots(scan):
    """Every position feels the prefix, and decoding with a cache agrees with the whole text at once."""
    spec = gpt2.config(
        V, width=16, depth=2, heads=2, max_positions=20, windows=(3, 3), init_std=0.5, scan=scan
    )
    model, tokens = gpt2.GPT(spec, rngs=nnx.Rngs(0)), ids(2, 12)
    prefix = jax.random.normal(jax.random.key(0), (2, 2, 1, 16))
    whole = model(tokens, prefix=prefix)[0]
    effect = jnp.abs(whole - model(tokens, prefix=prefix + 1.0)[0]).max((0, 2))
    assert (effect > 0.01).all()
    # Tokens further back than the windows of both layers reach stay hidden.
    far = jnp.abs(whole - model(tokens.at[:, 0].set(1), prefix=prefix)[0]).max((0, 2))
    assert (far[5:] < 1e-5).all()
    assert far[4] > 1e-3
    cache = model.make_cache(2, 13)
    _, cache = model(tokens[:, :2], prefix=prefix, cache=cache)
    for i in range(2, 12):
        logits, cache = model(tokens[:, i : i + 1], cache=cache)
        np.testing.assert_allclose(logits[:, 0], whole[:, i], atol=1e-4)


def test_latents_reach_the_end_of_texts_under_windows():
    spec = gpt2.config(
        V, width=16, depth=2, heads=2, max_positions=20, windows=(3, 3), init_std=0.5
    )
    model = LatentGPT(spec, 4, length=12, begin=0, end=1, rngs=nnx.Rngs(0))
    z = jnp.ones((1, 4))
    model.added.kernel[...] *= 0  # z by its memory slot alone
    found = decoding.greedy(model.start(z, max_tokens=12), max_tokens=12)
    logits = model(found.tokens, z)
    assert (logits.argmax(-1) == found.tokens).all()
    assert (jnp.abs(logits - model(found.tokens, -z)).max(-1) > 1e-4).all()


def test_dropout_in_bfloat16_is_as_exact_as_without(gpt):
    """With a rate next to 0 nothing is dropped, so that both paths should have float32's values."""
    q, k, v = 4.0 * jax.random.normal(jax.random.key(0), (3, 4, 32, 2, 16))
    exact = attention.attend(q, k, v, None, None, scale=0.25)
    half = [a.astype(jnp.bfloat16) for a in (q, k, v)]
    errors = []
    for rate, key in ((0.0, None), (1e-9, jax.random.key(1))):
        out = attention.attend(*half, None, None, scale=0.25, rate=rate, key=key)
        errors.append(float(jnp.sqrt(jnp.mean((out.astype(jnp.float32) - exact) ** 2))))
    assert 0 < errors[1] < 1.3 * errors[0]


def test_no_rows_no_tokens_and_rows_of_padding(gpt, encoder, seq2seq):
    for shape in ((0, 4), (2, 0)):
        tokens = ids(*shape)
        assert gpt(tokens)[0].shape == (*shape, V)
        assert encoder(tokens).shape == (*shape, 16)
        assert seq2seq(tokens, tokens).shape == (*shape, V)
        assert bert.mean_pool(encoder(tokens), tokens > 0).tolist() == [[0.0] * 16] * shape[0]
        cnn = textcnn.TextCNN(V, 3, width=4, kernels=(1,), rngs=nnx.Rngs(0))
        assert jnp.isfinite(cnn(tokens, tokens > 0)).all()
        assert masking.shift_right(tokens, 1).shape == shape
        assert drop_repeats(tokens, 0).shape == shape
    nothing = jnp.zeros((2, 4), bool)
    assert jnp.isfinite(encoder(ids(2, 4), mask=nothing)).all()
    assert jnp.isfinite(gpt(ids(2, 4), mask=nothing)[0]).all()
    embed = lambda m: bert.sentence_embedding(m, ids(2, 4), nothing).sum()  # noqa: E731
    grad = jax.grad(embed)(encoder)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grad))


def test_pictures_and_texts_of_another_size_are_refused():
    stack = dataclasses.replace(
        gpt2.config(V, width=8, depth=1, heads=1, max_positions=4).stack, causal=False
    )
    net = vit.ViT(vit.ViTConfig(4, 2, 1, 3, stack), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="a picture's shape is"):
        net(jnp.zeros((1, 2, 2, 1)))
    spec = bert.config(V, width=8, depth=1, heads=1, max_positions=9)
    placed = SequenceEncoder(spec, 3, pad=0, per_position=6, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="tokens' length is 5, allowed: 6"):
        placed(ids(1, 5))


def test_rates_and_weights_may_be_traced():
    tokens = ids(64, 12)
    drop = lambda r: masking.delete_tokens(tokens, jax.random.key(0), rate=r, pad=0)  # noqa: E731
    assert (jax.jit(drop)(0.4) == drop(0.4)).all()
    with pytest.raises(ValueError, match="rate is nan, allowed: 0 to 1"):
        drop(float("nan"))
    z = jax.random.normal(jax.random.key(0), (5, 3))

    def cost(bits, beta=0.5, rows=5):
        part = z[:rows]
        return vae.loss(
            lambda z: (z, 0.3 * z), lambda x, z: -((x - z) ** 2).sum(-1), part, jax.random.key(1),
            beta=beta, free_bits=bits,
        )  # fmt: skip

    assert jax.jit(cost)(0.4, 0.2)[0] == pytest.approx(float(cost(0.4, 0.2)[0]), rel=1e-6)
    value, aux = cost(0.4, rows=0)
    assert value == 0
    assert all(jnp.isfinite(v) for v in aux.values())
    for bad in (float("nan"), -1.0):
        with pytest.raises(ValueError, match="free_bits is"):
            cost(bad)
