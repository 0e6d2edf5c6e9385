"""Files as they are found: old names, wrappers, heads, copies, types, shards, damage."""

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from jaxgen.errors import ConfigError
from jaxgen.models import bert, gpt2, gpt_neo, hf, t5

V = 23
SIZES = {"width": 8, "depth": 2, "heads": 2}
CONFIGS = {
    "gpt2": gpt2.config(V, **SIZES, max_positions=16),
    "untied": gpt2.config(V, **SIZES, max_positions=16, tied=False),
    "gpt_neo": gpt_neo.config(V, **SIZES, max_positions=16, windows=(0, 3)),
    "bert": bert.config(V, **SIZES, max_positions=16, pooler=True, mlm=True),
    "t5": t5.config(V, **SIZES),
    "t5_untied": t5.config(V, **SIZES, tied=False, gated=True),
}


def random(spec, seed=0):
    """A model whose every parameter is random, so that no mix-up is hidden."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: hf.make(spec, rngs=nnx.Rngs(0)))
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{kind: (a folder, its model, its tensors)}."""
    out = {}
    for kind, spec in CONFIGS.items():
        folder = tmp_path_factory.mktemp(kind)
        model = random(spec)
        hf.save(model, folder)
        out[kind] = folder, model, load_file(folder / "model.safetensors")
    return out


def write(folder, source, tensors):
    """A folder with the config of another and these tensors."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text((source / "config.json").read_text())
    save_file(
        {n: np.ascontiguousarray(t) for n, t in tensors.items()}, folder / "model.safetensors"
    )


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


def refused(folder):
    """The one line by which a folder is refused."""
    with pytest.raises(ConfigError) as e:
        hf.load(folder)
    assert "\n" not in str(e.value)
    return str(e.value)


def z(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_a_round_trip_needs_no_other_library(kind, folders):
    folder, model, tensors = folders[kind]
    loaded = hf.load(folder)
    assert loaded.config == model.config == hf.read_config(folder)
    assert type(loaded.config) is type(CONFIGS[kind])
    assert same(loaded, model)
    assert len(tensors) == len(jax.tree.leaves(model))


# (kind, change of names, tensors beside): what loads as if nothing had been done.
CHANGES = {
    "gamma_beta": (
        "bert",
        lambda n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ),
        {},
    ),
    "bert_heads": (
        "bert",
        lambda n: n,
        {
            "classifier.weight": z(3, 8), "classifier.bias": z(3), "qa_outputs.weight": z(2, 8),
            "cls.seq_relationship.weight": z(2, 8), "cls.seq_relationship.bias": z(2),
            "bert.embeddings.position_ids": np.arange(16)[None],
            "bert.embeddings.token_type_ids": np.zeros((1, 16), np.int64),
        },
    ),
    "bare_bert": (
        "bert",
        lambda n: n.removeprefix("bert."),
        {"embeddings.position_ids": np.arange(16)[None], "score.weight": z(2, 8)},
    ),
    "wrapped_bert": ("bert", lambda n: f"module.{n}", {"module.classifier.weight": z(3, 8)}),
    "inner_bert": ("bert", lambda n: f"model.encoder.{n}", {}),
    "gpt_buffers": (
        "gpt2",
        lambda n: n,
        {
            "transformer.h.0.attn.bias": np.tril(np.ones((1, 1, 16, 16), bool)),
            "transformer.h.1.attn.masked_bias": np.float32(-1e4).reshape(()),
            "score.weight": z(2, 8), "multiple_choice_head.summary.weight": z(1, 8),
            "v_head.summary.bias": z(1),
        },
    ),
    "bare_gpt": (
        "gpt2",
        lambda n: n.removeprefix("transformer."),
        {"h.0.attn.bias": np.tril(np.ones((1, 1, 16, 16), bool)), "score.weight": z(2, 8)},
    ),
    "wrapped_gpt": ("untied", lambda n: f"model.{n}", {}),
    "compiled_gpt": ("untied", lambda n: "_orig_mod." + n.replace("attn.", "attn._orig_mod."), {}),
    "fsdp_gpt": ("gpt2", lambda n: n.replace("h.0.", "h.0._fsdp_wrapped_module."), {}),
    "old_t5_bias": (
        "t5",
        lambda n: n,
        {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": z(32, 2)},
    ),
    "t5_heads": (
        "t5",
        lambda n: f"transformer.{n}",
        {"classification_head.dense.weight": z(8, 8), "qa_outputs.weight": z(2, 8)},
    ),
    "wrapped_t5": ("t5_untied", lambda n: f"module.{n}", {}),
}  # fmt: skip


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


def test_copies_of_tied_weights_may_stand_beside_them_or_for_them(folders, tmp_path):
    cases = [
        ("gpt2", "transformer.wte.weight", ["lm_head.weight"]),
        ("t5", "shared.weight", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]),
        ("bert", "bert.embeddings.word_embeddings.weight", ["cls.predictions.decoder.weight"]),
        ("bert", "cls.predictions.bias", ["cls.predictions.decoder.bias"]),
    ]
    for kind, original, copies in cases:
        source, model, tensors = folders[kind]
        beside = tensors | {copy: tensors[original] for copy in copies}
        write(tmp_path, source, beside)
        assert same(hf.load(tmp_path), model)
        write(tmp_path, source, {n: t for n, t in beside.items() if n != original})
        assert same(hf.load(tmp_path), model)
        write(tmp_path, source, beside | {copies[0]: tensors[original] + 1})
        text = refused(tmp_path)
        assert f"tie_word_embeddings): {copies[0]} from {original}" in text
    # An output layer of its own is no copy.
    source, _, tensors = folders["untied"]
    write(tmp_path, source, {n: t for n, t in tensors.items() if n != "transformer.wte.weight"})
    assert "missing: transformer.wte.weight" in refused(tmp_path)
    source, model, tensors = folders["t5_untied"]
    rest = {n: t for n, t in tensors.items() if n != "shared.weight"}
    write(tmp_path, source, rest | {"encoder.embed_tokens.weight": tensors["shared.weight"]})
    assert same(hf.load(tmp_path), model)


def test_names_that_do_not_belong_are_refused(folders, tmp_path):
    source, _, tensors = folders["gpt2"]
    beside = {
        "transformer.h.2.ln_1.weight": z(8),
        "transformer.h.0.attn.c_attn.lora_A.weight": z(2, 8),
        "extra.thing": z(1),
        "decoder.block.1.layer.1.EncDecAttention.relative_attention_bias.weight": z(32, 2),
    }
    for name, value in beside.items():
        write(tmp_path, source, tensors | {name: value})
        assert f"unexpected: {name}" in refused(tmp_path)
    write(tmp_path, source, tensors | {f"teacher.{n}": t for n, t in tensors.items()})
    assert "several models: ['teacher.transformer.', 'transformer.']" in refused(tmp_path)
    source, _, tensors = folders["bert"]
    write(tmp_path, source, tensors | {"bert.embeddings.LayerNorm.gamma": z(8)})
    text = refused(tmp_path)
    assert "bert.embeddings.LayerNorm.gamma and bert.embeddings.LayerNorm.weight" in text


def test_half_precision_is_read_as_it_is(folders, tmp_path):
    source, model, tensors = folders["gpt2"]
    for dtype in (np.float16, jnp.bfloat16, np.float64):
        write(tmp_path, source, {n: t.astype(dtype) for n, t in tensors.items()})
        loaded = hf.load(tmp_path)
        want = jax.tree.map(lambda a, d=dtype: np.asarray(a).astype(d).astype(np.float32), model)
        assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(loaded))
        assert same(loaded, want)


def raw_file(path, name, kind, shape, size):
    """A safetensors file with one tensor of any type."""
    header = json.dumps({name: {"dtype": kind, "shape": shape, "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))


def test_integers_are_no_weights(folders, tmp_path):
    source, _, tensors = folders["gpt2"]
    name = "transformer.h.1.mlp.c_fc.weight"
    for dtype in (np.int8, np.uint8, np.int32, np.bool_):
        write(tmp_path, source, tensors | {name: (10 * tensors[name]).astype(dtype)})
        text = refused(tmp_path)
        assert f"no floats: {name} {np.dtype(dtype).name}" in text
        assert "allowed: floats of 16, 32 or 64 bits" in text
    for kind in ("F8_E4M3", "F8_E5M2"):
        raw_file(tmp_path / "model.safetensors", name, kind, [8, 32], 256)
        with pytest.raises(ConfigError, match="floats of 16, 32 or 64 bits") as e:
            hf.fill(folders["gpt2"][1], hf.read_tensors(tmp_path))
        assert name in str(e.value)
        assert f"of type {kind}" in str(e.value)


def test_files_that_are_no_safetensors(folders, tmp_path):
    source, _, tensors = folders["gpt2"]
    write(tmp_path, source, tensors)
    file = tmp_path / "model.safetensors"
    good = file.read_bytes()
    for content in (b"", good[:-40], good[:100], b"version https://git-lfs.github.com/spec/v1\n"):
        file.write_bytes(content)
        text = refused(tmp_path)
        assert str(file) in text
        assert "allowed: a readable safetensors file" in text
    file.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    text = refused(tmp_path)
    assert "pytorch_model.bin is a pickle, which is not read: convert it to safetensors" in text


def test_shards(folders, tmp_path):
    _, model, _ = folders["gpt2"]
    hf.save(model, tmp_path, shard_bytes=3000)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    files = sorted(set(content["weight_map"].values()))
    assert len(files) > 2
    assert same(hf.load(tmp_path), model)
    for bad in (
        "../model.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "model.bin",
        3,
        "..",
    ):
        changed = content["weight_map"] | {"transformer.wte.weight": bad}
        index.write_text(json.dumps({"weight_map": changed}))
        assert f"names of files in this folder, not {bad!r}" in refused(tmp_path)
    for bad in ("{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'):
        index.write_text(bad)
        assert str(index) in refused(tmp_path)
    index.write_text(json.dumps(content))
    kept = (tmp_path / files[1]).read_bytes()
    (tmp_path / files[1]).unlink()
    text = refused(tmp_path)
    assert files[1] in text
    assert "allowed: all shards of model.safetensors.index.json" in text
    (tmp_path / files[1]).write_bytes((tmp_path / files[0]).read_bytes())
    assert "in one of the shards only" in refused(tmp_path)
    (tmp_path / files[1]).write_bytes(kept)
    # Saving again in another number of files leaves nothing old to be read.
    other = random(CONFIGS["gpt2"], 5)
    hf.save(other, tmp_path)
    assert same(hf.load(tmp_path), other)
    hf.save(model, tmp_path, shard_bytes=3000)
    assert same(hf.load(tmp_path), model)


def test_canonical_names():
    names = ["model.wte.weight", "model.wpe.weight", "model.h.0.ln_1.bias", "lm_head.weight"]
    want = ["transformer.wte.weight", "transformer.wpe.weight", "transformer.h.0.ln_1.bias"]
    assert gpt2.FAMILY.canonical(names) == dict(zip(names, [*want, "lm_head.weight"], strict=True))
    names = ["shared.weight", "encoder.final_layer_norm.weight", "lm_head.weight"]
    assert t5.FAMILY.canonical(names) == dict(zip(names, names, strict=True))
