"""Gradients through unrolled steps from one cache: the same as from all of them, in memory linear in length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.models import gpt2, t5
from jaxgen.models.style_transfer import StyleTransfer
from jaxgen.text.gumbel_softmax import unroll

V, T, M = 11, 5, 4
SOURCE = jax.random.randint(jax.random.key(0), (3, M), 3, V)
MASK = jnp.arange(M) < jnp.asarray([[4], [2], [3]])
SIZES = {"width": 16, "depth": 2, "heads": 2}
GPT = {"max_positions": 80, "init_std": 0.4}
MODELS = {
    "gpt2": lambda: gpt2.GPT(gpt2.config(V, **SIZES, **GPT, windows=(0, 2)), rngs=nnx.Rngs(0)),
    "t5": lambda: t5.T5(t5.fresh_config(V, **SIZES), rngs=nnx.Rngs(0)),
    "style_transfer": lambda: StyleTransfer(V, 2, width=16, begin=1, rngs=nnx.Rngs(0)),
}


def start_of(kind, model, source, length):
    if kind == "style_transfer":
        return model.start(source, MASK, jnp.asarray([0, 1, 0]))
    if kind == "t5":
        return model.start(source, max_tokens=length, mask=MASK)
    return model.start(source[:, ::-1], max_tokens=length, mask=MASK[:, ::-1])


def loss(kind, length, rewound, forced):
    """Of a model, of what it reads, and of a temperature."""
    weight = jax.random.normal(jax.random.key(3), (2, 3, length, V))

    def value(model, source, temperature, key):
        start = start_of(kind, model, source, length)
        start = start if rewound else start._replace(rewind=None)
        ends = {"end": 2, "forced_end": jnp.asarray([4, 2, 9]), "early_end": True} if forced else {}
        text, logits = unroll(start, key, length=length, temperature=temperature, **ends)
        seen = jnp.where(logits > -1e9, jax.nn.log_softmax(logits), 0)
        return (weight[0] * text + 0.1 * weight[1] * seen).sum()

    return value


@pytest.mark.parametrize(
    "kind", ["gpt2", pytest.param("t5", marks=pytest.mark.slow), "style_transfer"]
)
def test_the_gradients_are_those_of_a_plain_scan(kind):
    model, source = MODELS[kind](), jax.nn.one_hot(SOURCE, V)
    args = model, source, jnp.asarray(0.7), jax.random.key(1)
    (value, grads), (want, want_grads) = (
        jax.jit(jax.value_and_grad(loss(kind, T, rewound, True), (0, 1, 2)))(*args)
        for rewound in (True, False)
    )
    assert float(value) == pytest.approx(float(want), rel=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (grads, want_grads)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, np.abs(b).max()))
    assert np.abs(grads[1]).max() > 1e-4
    assert np.abs(grads[2]) > 1e-4


def temporary_bytes(kind, length, rewound):
    model = jax.eval_shape(MODELS[kind])
    shapes = model, jax.ShapeDtypeStruct((3, M, V), jnp.float32), 0.7, jax.random.key(1)
    grad = jax.jit(jax.grad(loss(kind, length, rewound, False)))
    return grad.lower(*shapes).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_grows_as_the_length():
    """Four times the text, at most about four times the memory; a plain scan needs more than eight times."""
    short, long = (temporary_bytes("gpt2", n, True) for n in (16, 64))
    plain_short, plain_long = (temporary_bytes("gpt2", n, False) for n in (16, 64))
    assert long < 4.4 * short
    assert plain_long > 6 * plain_short
    assert long < 0.5 * plain_long


@pytest.mark.slow
def test_under_vmap_over_keys_and_temperatures():
    model, source = MODELS["gpt2"](), jax.nn.one_hot(SOURCE, V)
    grad = jax.grad(loss("gpt2", T, True, True), 1)
    keys, temperatures = jax.random.split(jax.random.key(0), 2), jnp.asarray([0.5, 1.0])
    many = jax.jit(jax.vmap(grad, (None, None, 0, 0)))(model, source, temperatures, keys)
    one = jax.jit(grad)(model, source, temperatures[1], keys[1])
    np.testing.assert_allclose(many[1], one, atol=1e-5)
