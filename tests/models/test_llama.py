"""Llama models as they are used: folders as found, LoRA, experts, latent prefix; rotary positions."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from jaxgen.errors import ConfigError
from jaxgen.models import gptj, hf, llama, opt, text_autoencoder, text_decoders
from jaxgen.moe import gates
from jaxgen.moe.layer import MoEContext
from jaxgen.nn.rotary import Rotary, frequencies, rotate
from jaxgen.peft import lora
from tests.models import decoders

V = 23
SIZES = {"width": 16, "depth": 2, "heads": 4, "max_positions": 24}
LLAMA = {"kv_heads": 2, "mlp_width": 24}
CONFIGS = {
    "llama": llama.config(V, **SIZES, **LLAMA),
    "tied": llama.config(V, **SIZES, **LLAMA, tied=True),
    "gptj": gptj.config(V, **SIZES, rotary_dim=2),
    "opt": opt.config(V, **SIZES),
}


def random(spec, seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: hf.make(spec, rngs=nnx.Rngs(0)))
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), shapes)


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    out = {}
    for kind, spec in CONFIGS.items():
        folder = tmp_path_factory.mktemp(kind)
        hf.save(random(spec), folder)
        out[kind] = folder, random(spec), load_file(folder / "model.safetensors")
    return out


def write(folder, source, tensors, **fields):
    folder.mkdir(exist_ok=True)
    raw = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | fields))
    whole = {n: np.ascontiguousarray(t) for n, t in tensors.items()}
    save_file(whole, folder / "model.safetensors")


# (kind, change of names, tensors beside): what loads as if nothing had been done.
CHANGES = {
    "bare": ("llama", lambda n: n.removeprefix("model."), {}),
    "wrapped": ("llama", lambda n: f"module.{n}", {}),
    "compiled": ("tied", lambda n: "_orig_mod." + n, {}),
    "buffers": (
        "llama",
        lambda n: n,
        {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(2, "f4") for i in (0, 1)},
    ),
    "classifier": ("tied", lambda n: n, {"score.weight": np.ones((3, 16), "f4")}),
    "gptj_buffers": (
        "gptj",
        lambda n: n,
        {
            "transformer.h.0.attn.bias": np.ones((1, 1, 24, 24), bool),
            "transformer.h.1.attn.masked_bias": np.float32(-1e9).reshape(()),
        },
    ),
    "bare_gptj": ("gptj", lambda n: n.removeprefix("transformer."), {}),
    "bare_opt": ("opt", lambda n: n.removeprefix("model.decoder."), {}),
    "old_opt": ("opt", lambda n: n.removeprefix("model."), {}),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_names_of_real_files(name, folders, tmp_path):
    kind, rename, beside = CHANGES[name]
    source, model, tensors = folders[kind]
    changed = {rename(n): t for n, t in tensors.items()} | beside
    assert changed.keys() != tensors.keys()
    write(tmp_path, source, changed)
    loaded = hf.load(tmp_path)
    assert loaded.config == model.config
    assert same(loaded, model)


def test_a_tied_head_may_be_there_or_not(folders, tmp_path):
    source, model, tensors = folders["tied"]
    table = tensors["model.embed_tokens.weight"]
    write(tmp_path, source, tensors | {"lm_head.weight": table})
    assert same(hf.load(tmp_path), model)
    rest = {n: t for n, t in tensors.items() if n != "model.embed_tokens.weight"}
    write(tmp_path, source, rest | {"lm_head.weight": table})
    assert same(hf.load(tmp_path), model)
    write(tmp_path, source, tensors | {"lm_head.weight": table + 1})
    with pytest.raises(ConfigError, match=r"tie_word_embeddings\): lm_head.weight from model"):
        hf.load(tmp_path)
    source, _, tensors = folders["llama"]
    write(tmp_path, source, {n: t for n, t in tensors.items() if n != "lm_head.weight"})
    with pytest.raises(ConfigError, match=r"missing: lm_head\.weight"):
        hf.load(tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_in_shards(dtype, folders, tmp_path):
    source, model, tensors = folders["llama"]
    halves = {n: np.asarray(jnp.asarray(t, dtype)) for n, t in tensors.items()}
    names = sorted(halves)
    files = {n: f"model-{i % 3}.safetensors" for i, n in enumerate(names)}
    for file in set(files.values()):
        save_file({n: halves[n] for n in names if files[n] == file}, tmp_path / file)
    index = {"metadata": {}, "weight_map": files}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    loaded = hf.load(tmp_path)
    want = jax.tree.map(lambda a: a.astype(dtype).astype(jnp.float32), model)
    assert same(loaded, want)


def test_pickles_are_named_and_how_to_convert_them(folders, tmp_path):
    source, _, _ = folders["llama"]
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    for name in ("pytorch_model-00001-of-00002.bin", "consolidated.00.pth"):
        (tmp_path / name).write_bytes(b"\x80\x04.")
        with pytest.raises(ConfigError, match=rf"{name} is a pickle.*save_pretrained\(new_folder"):
            hf.load(tmp_path)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_products_depend_on_the_distance_alone(interleaved):
    rotary = Rotary(100.0, dim=6, interleaved=interleaved, scaling="llama3", factor=3.0)
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def product(i, j):
        turn = lambda x, p: rotate(x, jnp.asarray([[p]]), rotary)  # noqa: E731
        return float((turn(q, i) * turn(k, j)).sum())

    assert product(9, 4) == pytest.approx(product(25, 20), abs=1e-5)
    assert product(9, 4) != pytest.approx(product(9, 5), abs=1e-3)
    assert np.array_equal(rotate(q, jnp.asarray([[7]]), rotary)[..., 6:], q[..., 6:])
    assert rotate(q.astype(jnp.bfloat16), jnp.asarray([[7]]), rotary).dtype == jnp.bfloat16


def test_llama3_frequencies():
    """Fast pairs stay, slow ones are divided by the factor, and those between pass smoothly."""
    rotary = Rotary(5e5, scaling="llama3", factor=8.0)
    plain, got = frequencies(Rotary(5e5), 128), frequencies(rotary, 128)
    ratio, wavelength = got / plain, 2 * np.pi / plain
    assert np.allclose(ratio[wavelength < 8192 / 4], 1.0)
    assert np.allclose(ratio[wavelength > 8192], 1 / 8)
    between = ratio[(wavelength >= 8192 / 4) & (wavelength <= 8192)]
    assert 3 < len(between) < 12
    assert (np.diff(ratio) <= 0).all()


def test_lora_and_its_files(folders, tmp_path):
    _, model, _ = folders["llama"]
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, V, (2, 9)))
    wrapped = lora.wrap(model, 2, 4.0, (r"attention/(query|value)", "mlp/gate"), jax.random.key(0))
    adapters, put = lora.split(wrapped)
    assert len(jax.tree.leaves(adapters)) == 2 * 3 * 2
    call = jax.jit(lambda m: m(tokens)[0])
    assert np.array_equal(call(wrapped), call(model))
    grads = jax.jit(jax.grad(lambda a: (put(a)(tokens)[0] ** 2).mean()))(adapters)
    tuned = put(jax.tree.map(lambda a, g: a - 0.01 * jnp.sign(g), adapters, grads))
    want = call(tuned)
    assert np.abs(want - call(model)).max() > 1e-2
    merged = lora.unwrap(lora.merge(tuned))
    assert np.abs(call(merged) - want).max() < 1e-4 * np.abs(want).max()
    lora.save_peft(tuned, tmp_path / "adapter")
    assert np.array_equal(call(lora.load_peft(model, tmp_path / "adapter")), want)
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in names


@pytest.mark.parametrize("kind", ["gptj", "opt"])
def test_adapters_of_other_families_come_back(kind, folders, tmp_path):
    _, model, _ = folders[kind]
    wrapped = lora.wrap(model, 2, 4.0, "attention/query", jax.random.key(0))
    lora.save_peft(wrapped, tmp_path)
    assert same(lora.load_peft(model, tmp_path), wrapped)


def test_peft_reads_the_adapters(tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch: install the extra `parity`")
    peft = pytest.importorskip("peft", reason="needs peft: install the extra `parity`")
    theirs = decoders.make("llama", tmp_path / "base")
    wrapped = lora.wrap(hf.load(tmp_path / "base"), 2, 4.0, "attention", jax.random.key(0))
    for _, _, _, layer in lora.layers(wrapped, lora.LoRALinear):
        layer.b[...] = 0.1 * jax.random.normal(jax.random.key(1), layer.b.shape)
    lora.save_peft(wrapped, tmp_path / "adapter")
    tokens = np.random.default_rng(0).integers(3, V, (2, 9))
    with torch.no_grad():
        tuned = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
        want = tuned(torch.tensor(tokens)).logits.numpy()
    got = jax.jit(lambda m, x: m(x)[0])(wrapped, jnp.asarray(tokens))
    assert np.abs(got - want).max() < 1e-4


def test_experts_with_a_gate():
    """Each expert a copy of the dense layer: any routing with weight 1 gives the dense model."""
    dense = random(CONFIGS["llama"])
    spec = llama.config(V, **SIZES, **LLAMA, experts=3, expert_every=1)
    mixed = hf.make(spec, rngs=nnx.Rngs(0))
    assert mixed.stack.blocks[0].moe.experts.gate.shape == (3, 16, 24)
    mixed.tokens, mixed.head, mixed.stack.norm = dense.tokens, dense.head, dense.stack.norm
    for ours, theirs in zip(mixed.stack.blocks, dense.stack.blocks, strict=True):
        ours.norm1, ours.norm2, ours.attention = theirs.norm1, theirs.norm2, theirs.attention
        for part in ("up", "gate", "down"):
            kernel = getattr(theirs.mlp, part).kernel[...]
            getattr(ours.moe.experts, part)[...] = jnp.broadcast_to(kernel, (3, *kernel.shape))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, V, (2, 9)))
    # Of two experts the weights sum to 1; Switch's one weight is a probability below 1.
    route = MoEContext(gate=lambda logits, key: gates.top_k(logits, 2, normalise=True))
    call = jax.jit(lambda m: m.hidden(tokens, route=route))
    want = dense.hidden(tokens)[0]
    for capacity in (0.0, 3.0):
        for block in mixed.stack.blocks:
            block.moe.capacity_factor = capacity
        got, _, loads = call(mixed)
        assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
        assert loads.counts.sum(-1).tolist() == [36, 36]
    assert np.abs(mixed.hidden(tokens)[0] - want).max() > 1e-3


def test_a_latent_decoder_with_grouped_queries():
    spec = llama.config(V, **{**SIZES, "max_positions": 12}, **LLAMA)
    decoder = text_decoders.LatentGPT(
        spec, 6, length=8, begin=1, end=2, unknown=3, rngs=nnx.Rngs(0)
    )
    assert decoder.memory.kernel.shape == (6, 2 * 8)  # two layers, two heads of four
    model = text_autoencoder.TextAutoencoder(V, 8, 6, decoder=decoder, rngs=nnx.Rngs(1))
    z = 3.0 * jax.random.normal(jax.random.key(0), (3, 6))
    tokens = jnp.asarray(np.random.default_rng(0).integers(4, V, (3, 8)))
    call = jax.jit(jax.grad(lambda m: -m.decode_logprob(tokens, z).mean()))
    grads = call(model).decoder
    for part in (
        grads.memory.kernel,
        grads.added.kernel,
        grads.gpt.stack.blocks[0].mlp.gate.kernel,
    ):
        assert float(jnp.abs(part[...]).max()) > 0
    # Greedy decoding, cached, agrees with one pass over what it wrote.
    written = jax.jit(lambda m: m.decode(z))(model)
    ended = np.cumsum(np.asarray(written) == 2, 1) > 0
    again = np.asarray(jax.jit(lambda d: d(written, z).argmax(-1))(decoder))
    assert ((again == np.asarray(written)) | ended).all()
