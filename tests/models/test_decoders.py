"""Llama, Mistral, Qwen2, Qwen3, GPT-J and OPT: parity with transformers on its own checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.models import hf
from jaxgen.nn.stacked import unstack
from jaxgen.text import decoding
from tests.models import decoders
from tests.models.decoders import EOS, PAD, V


@pytest.fixture(params=list(decoders.KINDS), scope="module")
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return decoders.make(request.param, folder), hf.load(folder), folder


def batch(seed=0, rows=4, length=19):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, V, (rows, length))
    mask = np.arange(length) < rng.integers(length // 2, length + 1, (rows, 1))
    return tokens, mask


@jax.jit
def our_logits(model, tokens, mask):
    return model(tokens, mask=mask)[0]


def test_logits(pair):
    theirs, ours, _ = pair
    tokens, mask = batch()
    want = decoders.logits(theirs, tokens, mask).detach().numpy()
    got = np.asarray(our_logits(ours, tokens, mask))
    assert np.abs(want).max() > 0.5
    assert np.abs(got - want)[mask].max() < 1e-4


def test_gradients_of_the_loss(pair):
    import torch

    theirs, ours, _ = pair
    tokens, _ = batch()

    @jax.jit
    @jax.value_and_grad
    def loss(model):
        logp = jax.nn.log_softmax(model(jnp.asarray(tokens))[0])
        return -jnp.take_along_axis(logp, jnp.asarray(tokens)[..., None], -1).mean()

    value, grads = loss(ours)
    theirs.zero_grad()
    out = decoders.logits(theirs, tokens).reshape(-1, V)
    their_loss = torch.nn.functional.cross_entropy(out, torch.tensor(tokens).reshape(-1))
    their_loss.backward()
    assert float(value) == pytest.approx(their_loss.item(), abs=1e-4)
    want = {n: p.grad.numpy() for n, p in theirs.named_parameters()}
    got = hf.tensors_of(grads)
    assert got.keys() == want.keys()
    for name, g in got.items():
        assert np.abs(g - want[name]).max() < 1e-3 * max(1.0, np.abs(want[name]).max()), name


def test_round_trip(pair, tmp_path):
    theirs, ours, _ = pair
    tokens, mask = batch(1)
    want = decoders.logits(theirs, tokens, mask).detach().numpy()
    for name, options in (("one", {}), ("shards", {"shard_bytes": 20_000})):
        hf.save(ours, tmp_path / name, **options)
        again = type(theirs).from_pretrained(tmp_path / name).eval()
        got = decoders.logits(again, tokens, mask).detach().numpy()
        assert np.abs(got - want).max() < 1e-6 * np.abs(want).max()
        reloaded = hf.load(tmp_path / name)
        assert reloaded.config == ours.config
        same = jax.tree.map(lambda a, b: bool((a == b).all()), reloaded, ours)
        assert all(jax.tree.leaves(same))
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2


@pytest.mark.parametrize("pair", ["llama3", "qwen2", "gptj"], indirect=True)
def test_scan_and_remat_change_nothing(pair):
    _, ours, folder = pair
    tokens, mask = batch(2)

    @jax.jit
    @jax.value_and_grad
    def loss(model):
        return (model(jnp.asarray(tokens), mask=jnp.asarray(mask))[0] ** 2).mean()

    want, grads = loss(ours)
    other = hf.load(folder, scan=True, remat=True)
    got, other_grads = loss(other)
    assert got == pytest.approx(float(want), rel=1e-5)
    listed = jax.tree.leaves(unstack(other_grads))
    for a, b in zip(jax.tree.leaves(grads), listed, strict=True):
        assert np.allclose(a, b, atol=2e-4 * (1 + np.abs(a).max()))


def test_cached_steps_equal_one_pass_with_prefix_slots(pair):
    _, ours, _ = pair
    s = ours.config.stack
    tokens, keys = jnp.asarray(batch(3)[0]), jax.random.split(jax.random.key(0))
    prefix = jax.random.normal(keys[0], (4, s.depth, 2, s.kv_width))
    added = 0.1 * jax.random.normal(keys[1], (4, s.width))
    call = jax.jit(lambda model, x, **given: model(x, added=added, **given))
    want = call(ours, tokens, prefix=prefix)[0]
    part, cache = call(ours, tokens[:, :10], prefix=prefix, cache=ours.make_cache(4, 21))
    parts = [part]
    for i in range(10, 19):
        part, cache = call(ours, tokens[:, i : i + 1], cache=cache)
        parts.append(part)
    assert np.allclose(np.concatenate(parts, 1), want, atol=2e-5 * np.abs(want).max())
    assert np.abs(call(ours, tokens)[0] - want).max() > 0.1  # the prefix is read


def prompts(rows=64, length=9, seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, V, (rows, length))
    mask = np.arange(length) >= rng.integers(0, length // 2, (rows, 1))  # padded on the left
    return np.where(mask, tokens, PAD), mask


def test_greedy_equals_transformers(pair):
    theirs, ours, _ = pair
    tokens, mask = prompts()

    @jax.jit
    def run(model):
        start = model.start(jnp.asarray(tokens), mask=jnp.asarray(mask), max_tokens=20)
        return decoding.greedy(start, max_tokens=20, eos=EOS, pad=PAD).tokens

    assert np.array_equal(run(ours), decoders.generate(theirs, tokens, mask, 20))


def test_beam_equals_transformers(pair):
    theirs, ours, _ = pair
    tokens, mask = prompts(seed=2)

    @jax.jit
    def run(model):
        start = model.start(jnp.asarray(tokens), mask=jnp.asarray(mask), max_tokens=12)
        return decoding.beam(start, beams=3, max_tokens=12, eos=EOS, pad=PAD).tokens

    want = decoders.generate(theirs, tokens, mask, 12, num_beams=3, length_penalty=1.0)
    assert np.array_equal(run(ours), want)
