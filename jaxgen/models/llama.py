"""Llama, Mistral, Qwen2 and Qwen3: one shape of decoder-only language model, and their Hugging Face tables.

RMSNorm before each sublayer, rotary positions, grouped queries, a gated feed-forward layer, no biases but
Qwen2's of queries, keys and values; Qwen3 has a norm on queries and keys instead. SmolLM2 and Llama 2 and 3
are of the kind `llama`, Qwen2.5 of `qwen2`. The module is `gpt2.GPT`.
Source: Touvron et al. (2023), Grattafiori et al. (2024), Jiang et al. (2023), Yang et al. (2024, 2025).
"""

import dataclasses
import functools
from collections.abc import Set
from typing import Any, TypeVar, cast

from jaxgen.errors import ConfigError
from jaxgen.models import gpt2
from jaxgen.models import hf_fields as hf
from jaxgen.models.hf_family import Family
from jaxgen.nn.rotary import Rotary
from jaxgen.nn.transformer_config import TransformerConfig


@dataclasses.dataclass(frozen=True)
class LlamaConfig(gpt2.GPTConfig):
    """The shape of a model; its fields are GPT-2's."""


@dataclasses.dataclass(frozen=True)
class MistralConfig(gpt2.GPTConfig):
    """As `LlamaConfig`, with a sliding window."""


@dataclasses.dataclass(frozen=True)
class Qwen2Config(gpt2.GPTConfig):
    """As `LlamaConfig`, with biases of queries, keys and values."""


@dataclasses.dataclass(frozen=True)
class Qwen3Config(gpt2.GPTConfig):
    """As `LlamaConfig`, with norms of queries and keys."""


C = TypeVar("C", bound=gpt2.GPTConfig)


def _shape(
    kind: type[C],
    vocab_size: int,
    *,
    width: int,
    depth: int,
    heads: int,
    max_positions: int,
    tied: bool,
    **options: object,
) -> C:
    shape: dict[str, Any] = {
        "rotary": Rotary(),
        "norm": "rms",
        "activation": "silu",
        "gated": True,
        "qkv_bias": False,
        "out_bias": False,
        "mlp_bias": False,
        **options,
    }
    stack = TransformerConfig(width, depth, heads, **shape)
    return kind(vocab_size, max_positions, stack, tied, learned_positions=False)


def config(
    vocab_size: int,
    *,
    width: int,
    depth: int,
    heads: int,
    max_positions: int,
    tied: bool = False,
    **options: object,
) -> LlamaConfig:
    """Llama's shape.

    Args:
      max_positions: the most tokens of a text.
      options: further fields of `TransformerConfig`, such as kv_heads, mlp_width, rotary, norm_eps.

    Raises:
      ValueError: names the field that cannot be so.
    """
    sizes: dict[str, Any] = {"width": width, "depth": depth, "heads": heads, **options}
    return _shape(LlamaConfig, vocab_size, max_positions=max_positions, tied=tied, **sizes)


# Keys of rope_scaling and rope_parameters, beside the kind and rope_theta.
_ROPE_KEYS = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}


def _is_positive(value: object) -> bool:
    return type(value) in (int, float) and 0 < cast(float, value) < float("inf")


def _read_rope(c: hf.Raw, _: Set[str]) -> hf.Arguments:
    # Where both are given, transformers takes rope_scaling.
    name = "rope_scaling" if c["rope_scaling"] else "rope_parameters"
    said = c[name] or {}
    if not isinstance(said, dict):
        raise ConfigError(name, said, "an object")
    kind = said.get("rope_type", said.get("type", "default"))
    if not isinstance(kind, str) or kind not in _ROPE_KEYS:
        raise ConfigError(name, said, f"of the rope_type {', '.join(_ROPE_KEYS)}, not {kind!r}")
    keys = _ROPE_KEYS[kind]
    known = {"rope_type", "type", "rope_theta", *keys}
    for key, value in said.items():
        # Files keep a share that is all of the head.
        if key not in known and not (key == "partial_rotary_factor" and value == 1.0):
            raise ConfigError(name, said, f"no {key} for the rope_type {kind!r}")
    values = {"original_max_position_embeddings": c["max_position_embeddings"], **said}
    for key in keys:
        value = values.get(key)
        if not _is_positive(value):
            raise ConfigError(name, said, f"a number above 0 for {key}")
    base: Any = values.get("rope_theta", c["rope_theta"])
    if not _is_positive(base):
        raise ConfigError("rope_theta", base, "a number above 0")
    ours = {k.replace("max_position_embeddings", "positions"): values[k] for k in keys}
    scaling = "none" if kind == "default" else kind
    try:
        return {"rotary": Rotary(float(base), scaling=scaling, **ours)}
    except ValueError as e:
        raise ConfigError(name, said, str(e)) from e


def _write_rope(a: hf.Arguments) -> hf.Arguments:
    rotary = a["rotary"] or Rotary()
    said = None
    if rotary.scaling != "none":
        said = {"rope_type": rotary.scaling}
        for key in _ROPE_KEYS[rotary.scaling]:
            said[key] = getattr(rotary, key.replace("max_position_embeddings", "positions"))
    return {"rope_theta": rotary.base, "rope_scaling": said}


def _read_window(c: hf.Raw, _: Set[str]) -> hf.Arguments:
    depth, size = hf.whole(c, "num_hidden_layers"), hf.whole_or_none(c, "sliding_window")
    return {"windows": (size,) * depth if size else ()}


def _read_windows(c: hf.Raw, _: Set[str]) -> hf.Arguments:
    depth, types = hf.whole(c, "num_hidden_layers"), c["layer_types"]
    size = hf.whole_or_none(c, "sliding_window") if hf.flag(c, "use_sliding_window") else 0
    if types is None:
        full = hf.whole(c, "max_window_layers", 0) if size else depth
        types = ["full_attention"] * min(full, depth) + ["sliding_attention"] * (depth - full)
    kinds = ("full_attention", *(("sliding_attention",) if size else ()))
    if not isinstance(types, list) or len(types) != depth or not all(t in kinds for t in types):
        raise ConfigError("layer_types", types, f"{' or '.join(kinds)} for each of {depth} layers")
    windows = tuple(size if t == "sliding_attention" else 0 for t in types)
    return {"windows": windows if any(windows) else ()}


def _write_windows(a: hf.Arguments) -> hf.Arguments:
    windows = a["windows"] or (0,) * a["depth"]
    return {
        "use_sliding_window": any(windows),
        "sliding_window": max(windows) or None,
        "max_window_layers": next((i for i, w in enumerate(windows) if w), a["depth"]),
        "layer_types": [f"{'sliding' if w else 'full'}_attention" for w in windows],
    }


ROPE = hf.Field(
    {"rope_theta": 10_000.0, "rope_scaling": None, "rope_parameters": None}, _read_rope, _write_rope
)
BIAS = hf.Field(
    {"attention_bias": False},
    lambda c, _: dict.fromkeys(("qkv_bias", "out_bias"), hf.flag(c, "attention_bias")),
    lambda a: {"attention_bias": a["qkv_bias"]},
)
WINDOW = hf.Field(
    {"sliding_window": 4096},
    _read_window,
    lambda a: {"sliding_window": max(a["windows"] or (0,)) or None},
)
WINDOWS = hf.Field(
    {
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "layer_types": None,
    },
    _read_windows,
    _write_windows,
)


def tensors(config: gpt2.GPTConfig) -> dict[str, str]:
    """{module of ours: module in the file}."""
    ours, theirs = "stack/blocks/{}", "model.layers.{}"
    parts = {
        "norm1": "input_layernorm",
        "norm2": "post_attention_layernorm",
        "attention/query": "self_attn.q_proj",
        "attention/key": "self_attn.k_proj",
        "attention/value": "self_attn.v_proj",
        "attention/out": "self_attn.o_proj",
        "attention/query_norm": "self_attn.q_norm",
        "attention/key_norm": "self_attn.k_norm",
        "mlp/gate": "mlp.gate_proj",
        "mlp/up": "mlp.up_proj",
        "mlp/down": "mlp.down_proj",
    }
    return {
        "tokens": "model.embed_tokens",
        **{f"{ours}/{a}": f"{theirs}.{b}" for a, b in parts.items()},
        "stack/norm": "model.norm",
        "head": "lm_head",
    }


def _family(
    model_type: str,
    kind: type[C],
    name: str,
    sizes: tuple[int, int, int, int | None, int | None, int],
    *fields: hf.Field,
    **shape: Any,
) -> Family[C]:
    """One kind's table.

    Args:
      name: of its classes in transformers.
      sizes: defaults of its vocabulary, feed-forward layer, depth, key-value heads, head and positions.
      shape: what its config.json does not say.
    """
    vocab, mlp, depth, kv_heads, head_dim, positions = sizes
    return Family(
        model_type=model_type,
        config_type=kind,
        config=functools.partial(_shape, kind, **shape),
        module=gpt2.GPT,
        fields=(
            hf.field("vocab_size", "vocab_size", vocab, hf.whole),
            hf.field("hidden_size", "width", 4096, hf.whole),
            hf.field("intermediate_size", "mlp_width", mlp, hf.whole),
            hf.field("num_hidden_layers", "depth", depth, hf.whole),
            hf.field("num_attention_heads", "heads", 32, hf.whole),
            hf.field("num_key_value_heads", "kv_heads", kv_heads, hf.whole_or_none),
            hf.field("head_dim", "head_dim", head_dim, hf.whole_or_none),
            hf.field("max_position_embeddings", "max_positions", positions, hf.whole),
            hf.field("rms_norm_eps", "norm_eps", 1e-6, hf.real),
            hf.field("tie_word_embeddings", "tied", False, hf.flag),
            hf.activation_field("hidden_act", "silu"),
            ROPE,
            *fields,
        ),
        tensors=tensors,
        prefix="model.",
        anchor="embed_tokens.weight",
        unused=frozenset({"pretraining_tp", "is_llama_config", "transformers.js_config"}),
        extras=lambda _: {"architectures": [f"{name}ForCausalLM"]},
        copies=(("lm_head.weight", "model.embed_tokens.weight"),),
        ignored=r"(.*\.)?rotary_emb\.inv_freq",
    )


MLP_BIAS = hf.field("mlp_bias", "mlp_bias", False, hf.flag)
FAMILIES = (
    _family(
        *("llama", LlamaConfig, "Llama"), (32_000, 11_008, 32, None, None, 2048), BIAS, MLP_BIAS
    ),
    _family(*("mistral", MistralConfig, "Mistral"), (32_000, 14_336, 32, 8, None, 131_072), WINDOW),
    _family(
        *("qwen2", Qwen2Config, "Qwen2"),
        (151_936, 22_016, 32, 32, None, 32_768),
        WINDOWS,
        qkv_bias=True,
    ),
    _family(
        *("qwen3", Qwen3Config, "Qwen3"),
        (151_936, 22_016, 32, 32, 128, 32_768),
        BIAS,
        WINDOWS,
        qk_norm=True,
    ),
)
