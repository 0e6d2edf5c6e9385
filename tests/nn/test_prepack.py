import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.nn import prepack
from jaxgen.peft import lora
from jaxgen.text import decoding
from tests.families import DECODERS, FAMILIES

V = 31


def packed_layers(model):
    return [p for p, m in nnx.iter_modules(model) if isinstance(m, prepack.PrepackedLinear)]


@pytest.mark.parametrize("rows", [(), (1,), (0,), (3, 5), (64,), (65,), (2, 1, 4)])
def test_thin_products_are_products(rows):
    x = jax.random.normal(jax.random.key(0), (*rows, 7))
    w = jax.random.normal(jax.random.key(1), (5, 7))
    want = np.einsum("...d,fd->...f", x, w)
    for f in (prepack.thin_matmul, jax.jit(prepack.thin_matmul)):
        np.testing.assert_allclose(f(x, w), want, atol=1e-5)
    d = jax.grad(lambda x, w: (prepack.thin_matmul(x, w) ** 2).sum(), (0, 1))(x, w)
    d_plain = jax.grad(lambda x, w: ((x @ w.T) ** 2).sum(), (0, 1))(x, w)
    for a, b in zip(d, d_plain, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_thin_products_under_vmap_and_in_half_precision():
    x = jax.random.normal(jax.random.key(0), (4, 3, 7))
    w = jax.random.normal(jax.random.key(1), (4, 5, 7))
    np.testing.assert_allclose(
        jax.vmap(prepack.thin_matmul)(x, w), np.einsum("bnd,bfd->bnf", x, w), atol=1e-5
    )
    half, w16 = x.astype(jnp.bfloat16), w[0].astype(jnp.bfloat16)
    assert prepack.thin_matmul(half, w16).dtype == jnp.bfloat16
    wide = prepack.thin_matmul(half, w16, jnp.float32)
    assert wide.dtype == jnp.float32
    np.testing.assert_allclose(
        wide, half.astype(jnp.float32) @ w16.astype(jnp.float32).T, atol=1e-5
    )


@pytest.mark.parametrize("name", DECODERS)
def test_packed_models_decode_the_same_tokens(name):
    model = DECODERS[name](V)
    packed = prepack.prepack(model)
    assert packed_layers(packed)
    assert not packed_layers(model)
    assert not [m for _, m in nnx.iter_modules(packed) if type(m) is nnx.Linear]
    prompt = jax.random.randint(jax.random.key(0), (3, 4), 0, V)

    @jax.jit
    def run(model, prompt):
        out = decoding.greedy(model.start(prompt, max_tokens=8), max_tokens=8)
        return out.tokens, model(prompt)[0]

    (tokens, logits), (want, wanted) = run(packed, prompt), run(model, prompt)
    assert np.array_equal(tokens, want)
    np.testing.assert_allclose(logits, wanted, atol=2e-5)


def test_other_layers_and_layers_with_updates():
    net = FAMILIES["t5"](V)
    source, target = (jax.random.randint(jax.random.key(i), (2, 5), 0, V) for i in (0, 1))
    np.testing.assert_allclose(prepack.prepack(net)(source, target), net(source, target), atol=2e-5)
    model = lora.wrap(DECODERS["gpt2"](V), 2, 4.0, r"attention/", jax.random.key(0))
    for *_, layer in lora.layers(model, lora.LoRALinear):
        layer.b[...] = jnp.ones_like(layer.b[...])
    np.testing.assert_allclose(prepack.prepack(model)(source)[0], model(source)[0], atol=2e-5)
    mixed = nnx.List([nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.Linear(4, 2, rngs=nnx.Rngs(1))])
    packed = prepack.prepack(mixed)
    x = jnp.ones((2, 3))
    np.testing.assert_allclose(packed[1](packed[0](x)), mixed[1](mixed[0](x)), atol=1e-6)
    bare = prepack.PrepackedLinear(
        nnx.Linear(3, 4, use_bias=False, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    )
    assert bare(x).dtype == jnp.bfloat16


def test_inside_jit_is_refused():
    with pytest.raises(ValueError, match="model is traced, allowed: one outside jit"):
        jax.jit(lambda m: prepack.prepack(m)(jnp.ones((1, 2), jnp.int32))[0])(DECODERS["gpt2"](V))
