"""config.json: each field that changes the result is honoured as transformers does, or refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.errors import ConfigError
from jaxgen.models import bert, gpt2, hf, t5
from jaxgen.models.hf_fields import UNSAID
from jaxgen.nn.rotary import Rotary

V = 50
SIZES = {
    "GPT2": {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32, "initializer_range": 0.3},
    "GPTNeo": {
        "hidden_size": 16, "num_layers": 3, "num_heads": 2, "max_position_embeddings": 32,
        "attention_types": [[["global", "local", "local"], 1]], "window_size": 4,
        "initializer_range": 0.2,
    },
    "Bert": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": 32, "initializer_range": 0.3,
    },
    "T5": {"d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 2},
}  # fmt: skip
# (family, fields that are not the class's defaults)
HONOURED = [
    ("GPT2", {"scale_attn_weights": False}),
    ("GPT2", {"scale_attn_by_inverse_layer_idx": True}),
    ("GPT2", {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True}),
    ("GPT2", {"reorder_and_upcast_attn": True, "attn_implementation": "eager"}),
    ("GPT2", {"n_inner": 20, "layer_norm_epsilon": 1e-2, "tie_word_embeddings": False}),
    *(
        ("GPT2", {"activation_function": name})
        for name in ("gelu", "gelu_pytorch_tanh", "gelu_fast", "gelu_python", "relu", "silu")
    ),
    ("GPTNeo", {"attention_types": [[["local"], 3]], "window_size": 2, "intermediate_size": 20}),
    ("GPTNeo", {"activation_function": "relu", "layer_norm_epsilon": 1e-2}),
    ("Bert", {"is_decoder": True}),
    ("Bert", {"hidden_act": "gelu_new", "type_vocab_size": 1, "layer_norm_eps": 1e-2}),
    ("T5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    ("T5", {"feed_forward_proj": "gated-gelu_python"}),
    ("T5", {"feed_forward_proj": "gated-silu", "num_decoder_layers": 1}),
    ("T5", {"feed_forward_proj": "relu", "dense_act_fn": "silu"}),
    ("T5", {"relative_attention_num_buckets": 6, "relative_attention_max_distance": 5}),
    ("T5", {"layer_norm_epsilon": 1e-2, "tie_word_embeddings": True, "scale_decoder_outputs": False}),
]  # fmt: skip
HEADS = {"GPT2": "LMHeadModel", "GPTNeo": "ForCausalLM", "Bert": "LMHeadModel"}
TOKENS = np.random.default_rng(0).integers(3, V, (3, 11))


def saved(family, fields, folder):
    """A random model of transformers in a folder, and its logits."""
    torch = pytest.importorskip("torch", reason="needs PyTorch: install the extra `parity`")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(vocab_size=V, **{**SIZES[family], **fields})
    head = HEADS.get(family, "ForConditionalGeneration")
    if family == "Bert" and not config.is_decoder:
        head = "ForMaskedLM"
    model = getattr(transformers, family + head)(config).eval()
    with torch.no_grad():  # biases and norms start at 0 and 1, which would hide a mix-up
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(folder)
    return model, logits(model)


def logits(model):
    import torch

    ids = torch.tensor(TOKENS)
    inputs = {"decoder_input_ids": ids} if model.config.model_type == "t5" else {}
    with torch.no_grad():
        return model(input_ids=ids, **inputs).logits.numpy()


def config_of(raw, names=frozenset()):
    """The config that the fields of a config.json describe."""
    return hf.FAMILIES[raw["model_type"]].read(raw, names)


def ours(model):
    tokens = jnp.asarray(TOKENS)
    if isinstance(model, t5.T5):
        return np.asarray(model(tokens, tokens))
    if isinstance(model, bert.Bert):
        return np.asarray(model.mlm_logits(model(tokens)))
    return np.asarray(model(tokens)[0])


@pytest.mark.parametrize(("family", "fields"), HONOURED, ids=str)
def test_a_field_is_honoured_and_kept_by_a_round_trip(family, fields, tmp_path):
    theirs, want = saved(family, fields, tmp_path)
    model = hf.load(tmp_path)
    assert np.abs(want).max() > 0.5
    assert np.abs(ours(model) - want).max() < 1e-5 * np.abs(want).max()
    hf.save(model, tmp_path / "again")
    assert hf.load(tmp_path / "again").config == model.config
    again = logits(type(theirs).from_pretrained(tmp_path / "again").eval())
    assert np.abs(again - want).max() < 1e-5 * np.abs(want).max()


def test_scales_of_layers_hold_when_scanned_recomputed_or_cached(tmp_path):
    _, want = saved("GPT2", {"scale_attn_by_inverse_layer_idx": True}, tmp_path)
    for options in ({"scan": True}, {"remat": True}):
        assert np.abs(ours(hf.load(tmp_path, **options)) - want).max() < 1e-5 * np.abs(want).max()
    model, tokens = hf.load(tmp_path), jnp.asarray(TOKENS)
    first, cache = model(tokens[:, :6], cache=model.make_cache(3, 11))
    last, _ = model(tokens[:, 6:], cache=cache)
    got = np.concatenate([first, last], 1)
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


def test_layer_i_divides_its_logits_by_i():
    """Halving the queries of layer 2 by hand gives what the field gives."""
    options = {"width": 8, "depth": 2, "heads": 2, "max_positions": 16, "init_std": 0.5}
    plain = gpt2.GPT(gpt2.config(V, **options), rngs=nnx.Rngs(0))
    scaled = gpt2.GPT(gpt2.config(V, **options, scale_by_layer=True), rngs=nnx.Rngs(0))
    want = scaled(jnp.asarray(TOKENS))[0]
    assert np.abs(plain(jnp.asarray(TOKENS))[0] - want).max() > 1e-2
    qkv = plain.stack.blocks[1].attention.qkv
    qkv.kernel[...] = qkv.kernel[...].at[:, :8].multiply(0.5)
    qkv.bias[...] = qkv.bias[...].at[:8].multiply(0.5)
    assert np.abs(plain(jnp.asarray(TOKENS))[0] - want).max() < 1e-5


def test_class_defaults_and_other_names_of_fields():
    raw = {
        "model_type": "gpt2",
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
    }
    spec = config_of(raw, set())
    assert (spec.vocab_size, spec.max_positions, spec.tied) == (50257, 1024, True)
    stack = spec.stack
    assert (stack.width, stack.depth, stack.heads, stack.mlp_width) == (24, 2, 3, 96)
    assert (stack.norm_eps, stack.activation, stack.scale) == (1e-5, "gelu_tanh", None)
    with pytest.raises(ConfigError, match="hidden_size is 24, allowed: n_embd's value, 16"):
        config_of(raw | {"n_embd": 16}, set())
    # GPT-2's first config.json, of 2019, said nothing of the activation.
    assert config_of({"model_type": "bert"}, set()).stack.activation == "gelu"
    assert config_of({"model_type": "t5"}, set()).decoder.depth == 6


def test_fields_are_those_of_the_classes():
    """Every field of the installed classes is read, harmless, or refused unless it is off."""
    transformers = pytest.importorskip("transformers")
    for family, kind in (("GPT2", "gpt2"), ("GPTNeo", "gpt_neo"), ("Bert", "bert"), ("T5", "t5")):
        written = getattr(transformers, f"{family}Config")().to_dict()
        hf.FAMILIES[kind].complete(written)
        for field, default in hf.FAMILIES[kind].defaults.items():
            if default is not None and default is not UNSAID:
                assert written.get(field, default) == default, field


REFUSED = [
    ("gpt2", {"add_cross_attention": True}),
    ("gpt2", {"activation_function": "quick_gelu"}),
    ("gpt2", {"activation_function": None}),
    ("gpt2", {"position_embedding_type": "rotary"}),
    ("gpt2", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    ("gpt2", {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}),
    ("gpt2", {"auto_map": {"AutoModel": "modeling_mine.Mine"}}),
    ("gpt2", {"pruned_heads": {"0": [1]}}),
    ("gpt2", {"a_field_of_tomorrow": 2}),
    ("gpt2", {"scale_attn_weights": "no"}),
    ("gpt2", {"n_head": 5}),
    ("gpt2", {"n_layer": "12"}),
    ("gpt2", {"n_layer": True}),
    ("gpt2", {"n_inner": 0}),
    ("gpt2", {"layer_norm_epsilon": None}),
    ("gpt2", {"resid_pdrop": 1.0}),
    ("gpt2", {"is_encoder_decoder": True}),
    ("gpt_neo", {"attention_types": [[["global", "sparse"], 12]]}),
    ("gpt_neo", {"attention_types": [[["global", "local"], 3]]}),
    ("gpt_neo", {"attention_types": "local"}),
    ("gpt_neo", {"attention_layers": ["local"]}),
    ("gpt_neo", {"window_size": 0}),
    ("bert", {"position_embedding_type": "relative_key"}),
    ("bert", {"add_cross_attention": True, "is_decoder": True}),
    ("bert", {"type_vocab_size": 0}),
    ("bert", {"num_attention_heads": 7}),
    ("bert", {"hidden_act": "mish"}),
    ("bert", {"directionality": "left"}),
    ("t5", {"feed_forward_proj": "gated-tanh"}),
    ("t5", {"feed_forward_proj": "relu-gated"}),
    ("t5", {"feed_forward_proj": 3}),
    ("t5", {"dense_act_fn": "selu"}),
    ("t5", {"scale_decoder_outputs": None}),
    ("t5", {"relative_attention_num_buckets": 3}),
    ("t5", {"relative_attention_max_distance": 16}),
    ("t5", {"tie_encoder_decoder": True}),
    ("t5", {"is_encoder_decoder": False}),
    ("t5", {"tie_word_embeddings": "yes"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "fields"), REFUSED, ids=str)
def test_a_field_is_refused_by_name(kind, fields):
    field, value = next(iter(fields.items()))
    with pytest.raises(ConfigError) as e:
        config_of({"model_type": kind, **fields}, set())
    assert str(e.value).startswith(f"{field} is {value!r}, allowed: ")
    assert e.value.field == field
    assert "\n" not in str(e.value)


def test_what_changes_nothing_is_let_through():
    """Fields of public config.json files: distilgpt2, gpt-neo, bert-base-chinese, t5-small, flan-t5."""
    plain = config_of({"model_type": "gpt2"}, set())
    extra = {
        "_num_labels": 1, "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "n_ctx": 1024,
        "bos_token_id": 50256, "id2label": {"0": "LABEL_0"}, "summary_type": "cls_index",
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "torch_dtype": "float16", "gradient_checkpointing": True, "rope_scaling": None,
        "pruned_heads": {}, "add_cross_attention": False, "reorder_and_upcast_attn": True,
        "quantization_config": None, "max_length": 20, "temperature": 0.7,
    }  # fmt: skip
    assert config_of({"model_type": "gpt2", **extra}, set()) == plain
    extra = {
        "directionality": "bidi",
        "pooler_type": "first_token_transform",
        "pooler_fc_size": 768,
    }
    extra |= {"position_embedding_type": "absolute", "finetuning_task": "sst2", "output_past": True}
    assert config_of({"model_type": "bert", **extra}, set()) == config_of(
        {"model_type": "bert"}, set()
    )
    flan = {"dense_act_fn": "gelu_new", "feed_forward_proj": "gated-gelu", "is_gated_act": True}
    got = config_of({"model_type": "t5", **flan, "n_positions": 512, "output_past": True}, set())
    want = config_of({"model_type": "t5", "feed_forward_proj": "gated-gelu"}, set())
    assert got == want
    assert (got.encoder.gated, got.encoder.activation) == (True, "gelu_tanh")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (gpt2.config(V, width=8, depth=2, heads=2, max_positions=9, windows=(0, 3)), "windows"),
        (gpt2.config(V, width=8, depth=2, heads=2, max_positions=9, rotary=Rotary()), "rotary"),
        (gpt2.config(V, width=8, depth=2, heads=2, max_positions=9, scale=0.3), "scale"),
        (bert.config(V, width=8, depth=1, heads=2, max_positions=9, pre_norm=True), "pre_norm"),
        (t5.fresh_config(V, width=8, depth=1, heads=2), "scale"),
    ],
    ids=str,
)
def test_a_model_that_the_family_cannot_describe_is_not_saved(spec, field, tmp_path):
    with pytest.raises(ConfigError, match=rf"\.{field} is .*all that config\.json can say"):
        hf.save(hf.make(spec, rngs=nnx.Rngs(0)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_config_files(tmp_path):
    for content in (b"{", b"[]", b"3", b"\xff\xfe{}", b""):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(
            ConfigError, match=r"config\.json', allowed: (readable JSON|a JSON object)"
        ):
            hf.load(tmp_path)
    for kind in (None, 3, ["gpt2"], "GPT2", "vit"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(ConfigError, match=r"model_type is .*one of gpt2, gpt_neo, .*bert, t5"):
            hf.load(tmp_path)


def test_an_encoder_that_is_causal_does_not_look_ahead():
    spec = bert.config(V, width=8, depth=1, heads=2, max_positions=16, causal=True, init_std=0.5)
    model, tokens = bert.Bert(spec, rngs=nnx.Rngs(0)), jnp.asarray(TOKENS)
    changed = tokens.at[:, 6].set(1)
    assert np.array_equal(model(tokens)[:, :6], model(changed)[:, :6])
    assert np.abs(model(tokens)[:, 6:] - model(changed)[:, 6:]).max() > 1e-2


@pytest.mark.parametrize("name", ["GPT2ForSequenceClassification", "BertForTokenClassification"])
def test_the_backbone_of_a_fine_tuned_model(name, tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch: install the extra `parity`")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    family = name[:4]
    config = getattr(transformers, f"{family}Config")(
        vocab_size=V, num_labels=5, problem_type="regression", **SIZES[family]
    )
    theirs = getattr(transformers, name)(config).eval()
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        want = theirs.base_model(torch.tensor(TOKENS)).last_hidden_state.numpy()
    model, tokens = hf.load(tmp_path), jnp.asarray(TOKENS)
    got = model(tokens) if family == "Bert" else model.hidden(tokens)[0]
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()
