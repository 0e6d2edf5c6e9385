"""Attention's kernels: who may ask for them, and what they are asked for."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.models import gpt2
from jaxgen.nn import attention, kernels
from jaxgen.nn.transformer_config import TransformerConfig


def qkv(dtype, heads=4, groups=2):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((2, 6, heads, 8), (2, 6, groups, 8), (2, 6, groups, 8))
    return [jax.random.normal(k, s).astype(dtype) for k, s in zip(keys, shapes, strict=True)]


def gpt(attention, dtype="bfloat16"):
    shape = {"width": 16, "depth": 2, "heads": 2, "max_positions": 8, "init_std": 0.3}
    config = gpt2.config(11, **shape, dtype=dtype, attention=attention)
    return gpt2.GPT(config, rngs=nnx.Rngs(0))


def test_what_is_not_there_is_refused_in_one_line(monkeypatch):
    half, full = qkv(jnp.bfloat16), qkv(jnp.float32)
    run = lambda q, k, v, **more: attention.attend(q, k, v, None, None, scale=0.3, **more)  # noqa: E731
    with pytest.raises(
        ValueError, match="implementation is 'flash', allowed: None, xla, cudnn, splash"
    ):
        run(*half, implementation="flash")
    for name in ("cudnn", "splash"):
        with pytest.raises(
            ValueError, match=f"implementation is '{name}', allowed: None or xla, on"
        ):
            run(*half, implementation=name)
    with pytest.raises(ValueError, match="implementation is 'cudnn', allowed: None or xla, on cpu"):
        jax.jit(gpt("cudnn"))(jnp.ones((1, 4), jnp.int32))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match="'cudnn', allowed: None or xla, in float32"):
        run(*full, implementation="cudnn")
    with pytest.raises(ValueError, match="attention is 'flash', allowed: None, xla, cudnn, splash"):
        TransformerConfig(8, 1, 2, attention="flash")


def test_xla_by_name_is_the_default():
    q, k, v = qkv(jnp.float32)
    mask = jnp.tril(jnp.ones((6, 6), bool))[None, None]
    got, want = (
        attention.attend(q, k, v, mask, None, scale=0.3, implementation=name)
        for name in ("xla", None)
    )
    np.testing.assert_array_equal(got, want)


@pytest.fixture
def asked(monkeypatch):
    """What cuDNN's kernel is asked for, answered by XLA with the same arguments."""
    calls, real = [], jax.nn.dot_product_attention

    def answer(*args, implementation=None, **options):
        if implementation == "cudnn":
            calls.append((args[4], options["is_causal"]))
        return real(*args, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", answer)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    return calls


def test_a_decoder_asks_for_the_causal_kernel_and_reads_no_mask(asked):
    tokens = jnp.arange(6)[None] + jnp.zeros((2, 1), jnp.int32)
    got, want = (gpt(name)(tokens)[0] for name in ("cudnn", None))
    assert asked == [(None, True)] * 2
    np.testing.assert_allclose(got, want, atol=0.05)
    first = gpt("cudnn")(tokens.at[:, 3:].set(9))[0]
    np.testing.assert_array_equal(first[:, :3], got[:, :3])  # nothing later is seen


def test_padding_goes_to_the_kernel_as_a_mask_and_a_cache_to_xla(asked):
    tokens, real = jnp.ones((2, 6), jnp.int32), jnp.array([[True] * 6, [False] * 2 + [True] * 4])
    got, want = (gpt(name)(tokens, mask=real)[0] for name in ("cudnn", None))
    assert [causal for _, causal in asked] == [False] * 2
    seen = np.asarray(jnp.broadcast_to(asked[0][0], (2, 1, 6, 6)))[1, 0]
    np.testing.assert_array_equal(seen, np.tril(np.ones((6, 6), bool)) & np.asarray(real[1]))
    np.testing.assert_allclose(got[real], want[real], atol=0.05)
    asked.clear()
    model = gpt("cudnn")
    model(tokens, cache=model.make_cache(2, 8))
    assert not asked


def test_windows_hide_more_than_a_causal_mask(asked):
    model = gpt("cudnn")
    config = dataclasses.replace(
        model.config, stack=dataclasses.replace(model.config.stack, windows=(0, 2))
    )
    gpt2.GPT(config, rngs=nnx.Rngs(0))(jnp.ones((1, 6), jnp.int32))
    assert [causal for _, causal in asked] == [True, False]


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
def test_the_kernel_agrees_with_xla_in_value_and_gradient():
    q, k, v = qkv(jnp.bfloat16)
    mask = jnp.tril(jnp.ones((6, 6), bool))[None, None]

    def loss(name, q, k, v):
        y = attention.attend(q, k, v, mask, None, scale=0.3, implementation=name, causal=True)
        return (y.astype(jnp.float32) ** 2).sum()

    got, want = (
        jax.value_and_grad(lambda *a, n=n: loss(n, *a), (0, 1, 2))(q, k, v) for n in ("cudnn", None)
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("causal", [True, False])
def test_splash_agrees_with_xla_in_value_and_gradient(causal):
    """The kernel's own steps, on a CPU: two query heads on each key-value head, lengths of one block."""
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((1, 128, 4, 16), (1, 128, 2, 16), (1, 128, 2, 16))
    arrays = [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]
    mask = jnp.tril(jnp.ones((128, 128), bool))[None, None] if causal else None

    def loss(f, q, k, v):
        return (f(q, k, v, mask, None, scale=0.3) ** 2).sum()

    kernel = functools.partial(kernels.splash, causal=causal, interpret=True)
    got, want = (
        jax.jit(jax.value_and_grad(functools.partial(loss, f), (0, 1, 2)))(*arrays)
        for f in (kernel, attention.attend)
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_splash_refuses_what_it_cannot_do():
    q, k, v = qkv(jnp.float32)
    mask = jnp.ones((1, 1, 6, 6), bool)
    with pytest.raises(ValueError, match="given a mask, allowed: the causal mask alone, or none"):
        kernels.splash(q, k, v, mask, None, scale=1.0)
    with pytest.raises(ValueError, match="given a bias"):
        kernels.splash(q, k, v, None, jnp.zeros((1, 4, 6, 6)), scale=1.0)
    with pytest.raises(ValueError, match=r"splash's T, S is \[6, 6\], allowed: multiples of 128"):
        kernels.splash(q, k, v, None, None, scale=1.0)


def test_the_names_are_those_of_the_config():
    for name in (None, *kernels.IMPLEMENTATIONS):
        assert TransformerConfig(8, 1, 2, attention=name).attention == name
