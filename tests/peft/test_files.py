"""Adapters of peft: beside peft itself where it is installed, and refusals by name."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from jaxgen.errors import ConfigError
from jaxgen.models import bert, gpt2, hf
from jaxgen.peft import files as peft_files
from jaxgen.peft import lora

V = 23
TOKENS = np.random.default_rng(0).integers(0, V, (3, 9))
QKV = "transformer.h.{}.attn.c_attn"


@pytest.fixture(scope="module")
def model():
    spec = gpt2.config(V, width=16, depth=2, heads=2, max_positions=16, init_std=0.2)
    return gpt2.GPT(spec, rngs=nnx.Rngs(0))


def busy(model, targets=r"attention/qkv", rank=4, alpha=8.0):
    """Adapters that do something."""
    wrapped = lora.wrap(model, rank, alpha, targets, jax.random.key(1))
    for i, (_, _, _, layer) in enumerate(lora.layers(wrapped, lora.LoRALinear)):
        layer.b[...] = 0.2 * jax.random.normal(jax.random.key(i), layer.b.shape)
    return wrapped


@pytest.fixture
def folder(model, tmp_path):
    lora.save_peft(busy(model), tmp_path)
    return tmp_path


def edit(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def run(model):
    tokens = jnp.asarray(TOKENS)
    if isinstance(model, gpt2.GPT):
        return np.asarray(model.hidden(tokens)[0])
    return np.asarray(model(tokens, tokens) if hasattr(model, "decode") else model(tokens))


def scales(model):
    return {path: layer.scale for path, _, _, layer in lora.layers(model, lora.LoRALinear)}


CASES = [
    ("GPT2LMHeadModel", {"target_modules": ["c_attn", "c_proj"], "rank_pattern": {"c_proj": 3}}),
    ("GPT2LMHeadModel", {"target_modules": ["c_attn"], "alpha_pattern": {"h.1.attn.c_attn": 2}}),
    (
        "GPT2LMHeadModel",
        {
            "target_modules": "all-linear", "use_rslora": True, "rank_pattern": {"mlp.c_fc": 2},
            "alpha_pattern": {r"^transformer\.h\.0\..*": 3, "c_proj": 5},
        },
    ),
    ("GPT2LMHeadModel", {"target_modules": r".*h\.1.*c_(attn|proj)", "fan_in_fan_out": True}),
    (
        "GPT2LMHeadModel",
        {"target_modules": ["c_attn", "c_proj"], "exclude_modules": ["mlp.c_proj"]},
    ),
    ("GPT2LMHeadModel", {"target_modules": ["c_attn"], "layers_to_transform": [1]}),
    ("GPT2LMHeadModel", {"target_modules": ["c_attn"], "init_lora_weights": "gaussian"}),
    ("GPT2Model", {"target_modules": ["c_attn"], "rank_pattern": {"h.1.attn.c_attn": 2}}),
    ("GPT2ForSequenceClassification", {"target_modules": ["c_fc"], "task_type": "SEQ_CLS"}),
    ("BertForSequenceClassification", {"target_modules": ["query"], "task_type": "SEQ_CLS"}),
    ("BertModel", {"target_modules": ["dense"], "alpha_pattern": {"output.dense": 3}}),
    (
        "T5ForConditionalGeneration",
        {"target_modules": ["q", "wo"], "layers_to_transform": 1, "layers_pattern": "block"},
    ),
]  # fmt: skip
CONFIGS = {
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, "initializer_range": 0.3},
    "Bert": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": 16, "initializer_range": 0.3,
    },
    "T5": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2},
}  # fmt: skip


@pytest.mark.parametrize(("name", "fields"), CASES, ids=str)
def test_adapters_of_peft_give_what_they_give_in_peft(name, fields, tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch: install the extra `parity`")
    peft = pytest.importorskip("peft", reason="needs peft: install the extra `parity`")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    family = next(f for f in CONFIGS if name.startswith(f))
    config = getattr(transformers, f"{family}Config")(vocab_size=V, **CONFIGS[family])
    cls = getattr(transformers, name)
    cls(config).save_pretrained(tmp_path / "base")
    made = peft.get_peft_model(
        cls.from_pretrained(tmp_path / "base"), peft.LoraConfig(r=4, lora_alpha=6, **fields)
    )
    with torch.no_grad():
        for n, p in made.named_parameters():
            if "lora_" in n:
                p.add_(0.2 * torch.randn_like(p))
    made.save_pretrained(tmp_path / "adapter")
    base = hf.load(tmp_path / "base")
    ours = lora.load_peft(base, tmp_path / "adapter")

    def theirs(folder):
        again = peft.PeftModel.from_pretrained(cls.from_pretrained(tmp_path / "base"), folder)
        inner = again.eval().base_model.model
        ids = torch.tensor(TOKENS)
        with torch.no_grad():
            if family == "T5":
                return inner(input_ids=ids, decoder_input_ids=ids).logits.numpy()
            return inner.base_model(input_ids=ids).last_hidden_state.numpy()

    want = theirs(tmp_path / "adapter")
    assert np.abs(run(base) - want).max() > 0.05
    assert np.abs(run(ours) - want).max() < 1e-5 * max(1, np.abs(want).max())
    assert np.abs(run(lora.merge(ours)) - want).max() < 1e-5 * max(1, np.abs(want).max())
    lora.save_peft(ours, tmp_path / "again")
    assert np.array_equal(run(lora.load_peft(base, tmp_path / "again")), run(ours))
    if "LMHead" in name or "Conditional" in name:
        again = theirs(tmp_path / "again")
        assert np.abs(again - want).max() < 1e-5 * max(1, np.abs(want).max())


def test_scales(model, folder):
    paths = [f"stack/blocks/{i}/attention/qkv" for i in range(2)]
    assert scales(lora.load_peft(model, folder)) == dict.fromkeys(paths, 2.0)
    edit(folder, alpha_pattern={r"h\.1\..*": 2, "c_attn": 6})
    assert scales(lora.load_peft(model, folder)) == {paths[0]: 1.5, paths[1]: 0.5}
    edit(folder, alpha_pattern={}, use_rslora=True, lora_alpha=3)
    got = scales(lora.load_peft(model, folder))
    assert got == {p: pytest.approx(3 / math.sqrt(4)) for p in paths}


def test_ranks_that_differ_are_written_as_patterns(model, tmp_path):
    wrapped = lora.wrap(busy(model), 2, 5.0, "mlp/up", jax.random.key(2))
    lora.save_peft(wrapped, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    names = [rf"transformer\.h\.{i}\.mlp\.c_fc" for i in range(2)]
    assert (config["r"], config["lora_alpha"]) == (4, 8.0)
    assert config["rank_pattern"] == dict.fromkeys(names, 2)
    assert config["alpha_pattern"] == dict.fromkeys(names, 5.0)
    assert config["target_modules"] == ["c_attn", "c_fc"]
    again = lora.load_peft(model, tmp_path)
    assert scales(again) == scales(wrapped)
    assert np.array_equal(run(again), run(wrapped))
    # A last part that means other layers too is no name for these.
    lora.save_peft(busy(model, "attention/out"), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == [f"transformer.h.{i}.attn.c_proj" for i in range(2)]


def test_names_of_other_sources(model, folder):
    """Without a prefix, from a bare backbone, with the adapter's name inside, in bfloat16."""
    want = run(lora.load_peft(model, folder))
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    for rename in (
        lambda n: n.removeprefix("base_model.model."),
        lambda n: n.replace("transformer.", ""),
        lambda n: n.replace(".weight", ".default.weight"),
        lambda n: n.replace("base_model.model.", "base_model.model.model."),
    ):
        save_file({rename(n): t for n, t in tensors.items()}, file)
        assert np.array_equal(run(lora.load_peft(model, folder)), want)
    save_file(tensors | {"base_model.model.score.weight": np.ones((2, 16), np.float32)}, file)
    edit(folder, modules_to_save=["classifier", "score"])
    assert np.array_equal(run(lora.load_peft(model, folder)), want)
    save_file({n: t.astype(jnp.bfloat16) for n, t in tensors.items()}, file)
    assert 0 < np.abs(run(lora.load_peft(model, folder)) - want).max() < 0.1


REFUSED = [
    ("peft_type", "IA3"),
    ("use_dora", True),
    ("bias", "lora_only"),
    ("bias", "all"),
    ("lora_bias", True),
    ("modules_to_save", ["lm_head"]),
    ("modules_to_save", ["classifier", "wte"]),
    ("init_lora_weights", "pissa"),
    ("init_lora_weights", "pissa_niter_4"),
    ("init_lora_weights", "olora"),
    ("init_lora_weights", "loftq"),
    ("init_lora_weights", "something"),
    ("target_parameters", ["h.0.attn.c_attn.weight"]),
    ("trainable_token_indices", [1]),
    ("layer_replication", [[0, 2]]),
    ("alora_invocation_tokens", [1, 2]),
    ("use_qalora", True),
    ("kasa_config", {"beta": 1.0}),
    ("ensure_weight_tying", True),
    ("a_field_of_tomorrow", 3),
    ("r", 0),
    ("r", "8"),
    ("lora_alpha", None),
    ("lora_alpha", float("nan")),
    ("lora_dropout", 1.5),
    ("rank_pattern", {"c_attn": 0}),
    ("alpha_pattern", {"c_attn": "2"}),
    ("alpha_pattern", ["c_attn"]),
    ("target_modules", ["c_proj"]),
    ("target_modules", r".*h\.0.*"),
    ("exclude_modules", ["c_attn"]),
    ("layers_to_transform", [0]),
]


@pytest.mark.parametrize(("field", "value"), REFUSED, ids=str)
def test_a_field_is_refused_by_name(field, value, model, folder):
    edit(folder, **{field: value})
    with pytest.raises(ConfigError) as e:
        lora.load_peft(model, folder)
    assert str(e.value).startswith(f"{field} is {value!r}, allowed: ")
    assert "\n" not in str(e.value)


def test_what_changes_nothing_is_let_through(model, folder):
    want = run(lora.load_peft(model, folder))
    edit(
        folder, task_type="CAUSAL_LM", base_model_name_or_path="gpt2", revision="main",
        peft_version="0.21", auto_mapping={"base_model_class": "GPT2LMHeadModel"}, bias="none",
        fan_in_fan_out=False, megatron_core="megatron.core", qalora_group_size=16, use_dora=False,
        loftq_config={}, eva_config=None, init_lora_weights="eva", modules_to_save=None,
    )  # fmt: skip
    assert np.array_equal(run(lora.load_peft(model, folder)), want)


def test_tensors_that_do_not_fit(model, folder):
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    a, b = (f"base_model.model.{QKV.format(1)}.lora_{x}.weight" for x in "AB")

    def refused(changed):
        save_file({n: np.ascontiguousarray(t) for n, t in changed.items()}, file)
        with pytest.raises(ConfigError) as e:
            lora.load_peft(model, folder)
        return str(e.value)

    without = {n: t for n, t in tensors.items() if n != b}
    assert f"adapter is '{QKV.format(1)} without lora_B'" in refused(without)
    without.pop(a)
    assert f"without {QKV.format(1)}', allowed: adapters of all" in refused(without)
    assert f"lora_A of {QKV.format(1)} is [3, 16], allowed: [4, 16]" in refused(
        tensors | {a: tensors[a][:3]}
    )
    assert f"{a} of type int8" in refused(tensors | {a: tensors[a].astype(np.int8)})
    assert "h.7.attn" in refused(tensors | {a.replace("h.1", "h.7"): tensors[a]})
    wte = "base_model.model.transformer.wte.lora_embedding_A"
    assert wte in refused(tensors | {wte: np.ones((4, V), np.float32)})
    bias = f"base_model.model.{QKV.format(0)}.bias"
    assert bias in refused(tensors | {bias: np.ones(48, np.float32)})
    assert "A and B of layers" in refused({})


def test_files_that_cannot_be_read(model, folder):
    file = folder / "adapter_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    with pytest.raises(ConfigError, match="readable safetensors file"):
        lora.load_peft(model, folder)
    file.unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ConfigError, match=r"adapter_model\.bin is a pickle, which is not read"):
        lora.load_peft(model, folder)
    for text in ("{", "[]"):
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(ConfigError, match=r"adapter_config\.json', allowed: "):
            lora.load_peft(model, folder)


def test_a_bare_encoder_takes_adapters_of_one_with_a_prefix(tmp_path):
    spec = bert.config(V, width=16, depth=1, heads=2, max_positions=16, init_std=0.2)
    model = bert.Bert(spec, rngs=nnx.Rngs(0))
    wrapped = busy(model, "attention/query")
    lora.save_peft(wrapped, tmp_path)
    name = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight"
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    assert name in tensors
    save_file({n.replace("bert.", ""): t for n, t in tensors.items()}, file)
    assert np.array_equal(run(peft_files.load(model, tmp_path)), run(wrapped))
