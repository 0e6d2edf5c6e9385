"""Stacked blocks against the same blocks in a list: outputs, files, adapters, decoding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.models import gpt2, hf, t5
from jaxgen.moe import gates
from jaxgen.moe.layer import MoEContext
from jaxgen.moe.placement import migrate
from jaxgen.nn import stacked
from jaxgen.nn.transformer import Transformer
from jaxgen.nn.transformer_config import TransformerConfig
from jaxgen.peft import lora
from jaxgen.text import decoding

V = 29


def gpt(**options):
    sizes = {"width": 16, "depth": 4, "heads": 2, "max_positions": 24, "init_std": 0.3}
    return gpt2.GPT(gpt2.config(V, **sizes, **options), rngs=nnx.Rngs(0))


def same(a, b, atol=0.0):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=atol)


def test_layers_are_born_alike_and_come_back():
    plain, model = gpt(), gpt(scan=True)
    blocks = model.stack.blocks
    assert isinstance(blocks, stacked.Stacked)
    assert blocks.turn[0].attention.qkv.kernel.shape == (4, 16, 48)
    assert len(blocks) == 4
    for a, b in zip(blocks, plain.stack.blocks, strict=True):
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_array_equal(x, y)
    same(blocks[-1], blocks[3])
    with pytest.raises(IndexError):
        blocks[4]
    again = stacked.unstack(model)
    assert isinstance(again.stack.blocks, nnx.List)
    same(stacked.stack(again), model)
    same(stacked.stack(plain), plain)  # without `scan` there is nothing to do


def test_forms_that_differ_cannot_be_stacked():
    blocks = list(gpt().stack.blocks)
    with pytest.raises(ValueError, match="layers are 4, allowed: a multiple of 3"):
        stacked.Stacked(blocks, 3)
    with pytest.raises(ValueError, match="layers are of several forms"):
        stacked.Stacked([*blocks[:3], gpt(qkv_bias=False).stack.blocks[3]])


def test_a_list_of_blocks_computes_what_the_scan_does():
    """Also with mixtures in every second block, windows, a prefix, and in its gradients."""
    spec = TransformerConfig(
        8, 4, 2, mlp_bias=False, experts=3, windows=(0, 3, 0, 2), init_std=0.3, scan=True
    )
    model = Transformer(spec, rngs=nnx.Rngs(0))
    assert [len(a) for a in jax.tree.leaves(model.blocks.turn)] == [2] * len(
        jax.tree.leaves(model.blocks.turn)
    )
    h = jax.random.normal(jax.random.key(1), (2, 6, 8))
    prefix = jax.random.normal(jax.random.key(2), (2, 4, 1, 8))
    route = MoEContext(lambda logits, _: gates.top_k(logits, 2))

    def loss(m):
        out, _, loads = m(h, prefix=prefix, route=route)
        return (out**2).sum() + loads.balance.sum()

    both = jax.jit(jax.value_and_grad(loss))
    want, grads = both(stacked.unstack(model))
    got, ours = both(model)
    assert got == pytest.approx(float(want), rel=1e-5)
    same(stacked.unstack(ours), grads, atol=1e-4)


@pytest.mark.parametrize("jit", [False, True])
def test_decoding_with_a_cache(jit):
    def write(model, prompt):
        start = model.start(prompt, max_tokens=8)
        return decoding.greedy(start, max_tokens=8, eos=-1, pad=0).tokens

    run = jax.jit(write) if jit else write
    prompt = jax.random.randint(jax.random.key(3), (3, 5), 0, V)
    np.testing.assert_array_equal(run(gpt(scan=True), prompt), run(gpt(), prompt))


def test_an_encoder_and_a_decoder_with_a_cache():
    def build(scan):
        spec = t5.config(
            V, width=16, depth=2, heads=2, head_dim=8, mlp_width=24, relative_buckets=8
        )
        stacks = {
            n: dataclasses.replace(getattr(spec, n), scan=scan) for n in ("encoder", "decoder")
        }
        return t5.T5(dataclasses.replace(spec, **stacks), rngs=nnx.Rngs(0))

    def write(model, source):
        start = model.start(source, max_tokens=6)
        return decoding.greedy(start, max_tokens=6, eos=-1, pad=0).tokens

    source = jax.random.randint(jax.random.key(3), (3, 5), 0, V)
    assert isinstance(build(True).decoder.blocks, stacked.Stacked)
    np.testing.assert_array_equal(write(build(True), source), write(build(False), source))


def test_files_know_nothing_of_it(tmp_path):
    model = gpt(scan=True)
    hf.save(model, tmp_path)
    same(hf.load(tmp_path, scan=True, init_std=0.3), model)
    ours, theirs = stacked.unstack(hf.load(tmp_path, scan=True)), hf.load(tmp_path)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(x, y)


def test_adapters_of_all_blocks_at_once(tmp_path):
    model = lora.wrap(gpt(scan=True), 2, 4.0, "attention/qkv", jax.random.key(1))
    adapters, put = lora.split(model)
    adapters = jax.tree.map(lambda a: a + 0.1, adapters)
    model = put(adapters)
    (delta,) = lora.delta(model).values()
    assert delta.shape == (4, 16, 48)
    tokens = jax.random.randint(jax.random.key(3), (2, 7), 0, V)
    want = model(tokens)[0]
    assert np.abs(want - gpt()(tokens)[0]).max() > 1e-2
    np.testing.assert_allclose(stacked.unstack(model)(tokens)[0], want, atol=1e-4)
    np.testing.assert_allclose(lora.unwrap(lora.merge(model))(tokens)[0], want, atol=1e-4)
    lora.save_peft(model, tmp_path)
    for scan in (True, False):
        again = lora.load_peft(gpt(scan=scan), tmp_path)
        assert isinstance(again.stack.blocks, stacked.Stacked) == scan
        np.testing.assert_allclose(again(tokens)[0], want, atol=1e-4)


def test_adapters_of_some_blocks_leave_a_list(tmp_path):
    model = lora.wrap(
        stacked.unstack(gpt(scan=True)), 2, 4.0, r"blocks/[13]/.*qkv", jax.random.key(1)
    )
    lora.save_peft(model, tmp_path)
    again = lora.load_peft(gpt(scan=True), tmp_path)
    assert isinstance(again.stack.blocks, nnx.List)
    tokens = jax.random.randint(jax.random.key(3), (2, 7), 0, V)
    np.testing.assert_allclose(again(tokens)[0], gpt()(tokens)[0], atol=1e-5)


def test_experts_move_in_stacked_blocks_as_in_a_list():
    model = gpt(scan=True, experts=3, expert_slots=6, mlp_bias=False)
    source = np.stack([np.random.default_rng(i).permutation(6) for i in range(2)])
    moved = migrate.move(model, source)
    same(stacked.unstack(moved), migrate.move(stacked.unstack(model), source))
    with pytest.raises(ValueError, match="source has 1 rows, allowed: 2"):
        migrate.move(model, source[:1])


def test_under_vmap_and_in_half_precision():
    models = [
        gpt2.GPT(
            gpt2.config(V, width=16, depth=2, heads=2, max_positions=8, scan=True), rngs=nnx.Rngs(i)
        )
        for i in range(2)
    ]
    tokens = jnp.arange(6)[None]
    both = jax.tree.map(lambda *a: jnp.stack(a), *models)
    out = jax.vmap(lambda m: m(tokens)[0])(both)
    np.testing.assert_allclose(out[1], models[1](tokens)[0], atol=1e-5)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), models[0])
    assert jnp.isfinite(half(tokens)[0]).all()
