"""config.json of Llama and its kin, GPT-J and OPT: honoured as transformers does, or refused by name."""

import pytest
from flax import nnx

from jaxgen.errors import ConfigError
from jaxgen.models import gptj, hf, llama, opt
from jaxgen.nn.rotary import Rotary
from jaxgen.nn.transformer_config import TransformerConfig
from tests.models import decoders

V = 23
SIZES = {"width": 16, "depth": 2, "heads": 4, "max_positions": 24}


# Fields of public config.json files: SmolLM2-135M, Llama-3.2-1B, Qwen2.5-0.5B, Mistral-7B-v0.3.
PUBLIC = {
    "smollm2": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "attention_bias": False,
        "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "silu",
        "hidden_size": 576, "initializer_range": 0.041666666666666664, "intermediate_size": 1536,
        "is_llama_config": True, "max_position_embeddings": 8192, "num_attention_heads": 9,
        "num_hidden_layers": 30, "num_key_value_heads": 3, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None,
        "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}, "vocab_size": 49152,
    },
    "llama3": {
        "model_type": "llama", "head_dim": 64, "hidden_size": 2048, "intermediate_size": 8192,
        "max_position_embeddings": 131072, "mlp_bias": False, "num_attention_heads": 32,
        "num_hidden_layers": 16, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3",
        },
        "rope_theta": 500000.0, "tie_word_embeddings": True, "vocab_size": 128256,
    },
    "qwen2": {
        "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
        "max_position_embeddings": 32768, "max_window_layers": 21, "num_attention_heads": 14,
        "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
        "use_mrope": False, "use_sliding_window": False, "vocab_size": 151936,
    },
    "mistral": {
        "model_type": "mistral", "head_dim": 128, "sliding_window": None, "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-05, "vocab_size": 32768, "tie_word_embeddings": False,
    },
}  # fmt: skip


def config_of(raw):
    return hf.FAMILIES[raw["model_type"]].read(raw, set())


def test_public_config_files():
    smol, llama3 = config_of(PUBLIC["smollm2"]), config_of(PUBLIC["llama3"])
    assert (smol.vocab_size, smol.max_positions, smol.tied) == (49_152, 8192, True)
    assert smol.stack.rotary == Rotary(100_000.0)
    assert llama3.stack.rotary == Rotary(5e5, scaling="llama3", factor=32.0)
    assert (llama3.stack.head_dim, llama3.stack.kv_heads) == (64, 8)
    qwen, mistral = config_of(PUBLIC["qwen2"]), config_of(PUBLIC["mistral"])
    assert (qwen.stack.windows, qwen.stack.qkv_bias, qwen.stack.out_bias) == ((), True, False)
    assert (mistral.stack.windows, mistral.stack.kv_heads) == ((), 8)
    windowed = config_of(PUBLIC["qwen2"] | {"use_sliding_window": True})
    assert windowed.stack.windows == (0,) * 21 + (32_768,) * 3
    assert config_of(PUBLIC["mistral"] | {"sliding_window": 7}).stack.windows == (7,) * 32


def scaled(**rope):
    return {"rope_scaling": {"factor": 2.0, **rope}}


REFUSED = [
    ("llama", scaled(rope_type="yarn")),
    ("llama", scaled(rope_type="dynamic")),
    ("llama", scaled(type="longrope")),
    ("llama", scaled(rope_type="llama3")),
    ("llama", scaled(rope_type="linear", attention_factor=2.0)),
    ("llama", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
    ("llama", {"rope_theta": 0}),
    ("llama", {"num_key_value_heads": 0}),
    ("llama", {"num_attention_heads": 7}),
    ("llama", {"rope_interleaved": True}),
    ("llama", {"hidden_act": "gelu_10"}),
    ("llama", {"attention_bias": "no"}),
    ("llama", {"use_qk_norm": True}),
    ("mistral", {"layer_types": ["full_attention"] * 32}),
    ("mistral", {"sliding_window": 0}),
    ("qwen2", {"layer_types": ["sliding_attention"] * 32}),
    ("qwen2", {"layer_types": ["chunked_attention"] * 32}),
    ("qwen2", {"use_mrope": True}),
    ("qwen3", {"quantization_config": {"quant_method": "fp8"}}),
    ("gptj", {"rotary_dim": None}),
    ("gptj", {"tie_word_embeddings": True}),
    ("opt", {"_remove_final_layer_norm": True}),
    ("opt", {"layer_norm_elementwise_affine": False}),
    ("opt", {"enable_bias": None}),
]


@pytest.mark.parametrize(("kind", "fields"), REFUSED, ids=str)
def test_a_field_is_refused_by_name(kind, fields):
    field = next(iter(fields))
    with pytest.raises(ConfigError) as e:
        config_of({"model_type": kind, **fields})
    assert e.value.field == field
    assert "\n" not in str(e.value)


def test_fields_are_those_of_the_classes():
    transformers = pytest.importorskip("transformers")
    for name, _ in decoders.KINDS.values():
        written = getattr(transformers, f"{name}Config")().to_dict()
        family = hf.FAMILIES[written["model_type"]]
        family.complete(written)
        for field, default in family.defaults.items():
            if default is not None and not field.startswith(("rope", "sliding", "_")):
                assert written.get(field, default) == default, field


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (llama.config(V, **SIZES, qkv_bias=True), "out_bias"),
        (llama.config(V, **SIZES, windows=(0, 3)), "windows"),
        (llama.config(V, **SIZES, experts=2), "experts"),
        (gptj.config(V, **SIZES, rotary_dim=2, kv_heads=2), "kv_heads"),
        (opt.config(V, **SIZES, norm_eps=1e-3), "norm_eps"),
    ],
    ids=str,
)
def test_a_model_that_the_family_cannot_describe_is_not_saved(spec, field, tmp_path):
    with pytest.raises(ConfigError, match=rf"stack\.{field} is .*all that config\.json can say"):
        hf.save(hf.make(spec, rngs=nnx.Rngs(0)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shapes_that_cannot_be():
    for options, text in (
        ({"kv_heads": 3}, "kv_heads is 3, allowed: a divisor of heads, 4"),
        ({"rotary": Rotary(dim=6)}, "rotary.dim is 6, allowed: even, at most head_dim, 4"),
        ({"parallel": True, "cross": True}, "parallel is True"),
    ):
        with pytest.raises(ValueError, match=text):
            TransformerConfig(16, 2, 4, **options)
    for options, text in (
        ({"scaling": "yarn"}, "rotary.scaling is 'yarn', allowed: none, linear, llama3"),
        ({"base": 0.0}, "rotary.base is 0.0, allowed: above 0"),
        ({"dim": 3}, "rotary.dim is 3, allowed: even"),
        ({"low_freq_factor": 4.0}, "high_freq_factor is 4.0, allowed: above low_freq_factor"),
    ):
        with pytest.raises(ValueError, match=text):
            Rotary(**options)
