"""OPT (Zhang et al., 2022): GPT-2's module with ReLU, and its Hugging Face table.

The table of positions has two rows before the first position's. OPT-350m has its norms after the sums, and
token embeddings narrower than the stack.
"""

import dataclasses
from collections.abc import Set
from typing import Any

from jaxgen.errors import ConfigError
from jaxgen.models import gpt2
from jaxgen.models import hf_fields as hf
from jaxgen.models.hf_family import Family
from jaxgen.nn.transformer_config import TransformerConfig

OFFSET = 2


@dataclasses.dataclass(frozen=True)
class OPTConfig(gpt2.GPTConfig):
    """The shape of a model; its fields are GPT-2's."""


def config(
    vocab_size: int,
    *,
    width: int,
    depth: int,
    heads: int,
    max_positions: int,
    mlp_width: int = 0,
    embed_width: int = 0,
    tied: bool = True,
    **options: object,
) -> OPTConfig:
    """OPT's shape.

    Args:
      embed_width: of token embeddings, where it is not `width`; 0 for the same, without layers between.
      options: further fields of `TransformerConfig`.

    Raises:
      ValueError: names the field that cannot be so.
    """
    shape: dict[str, Any] = {"activation": "relu", **options}
    stack = TransformerConfig(width, depth, heads, mlp_width=mlp_width, **shape)
    return OPTConfig(
        vocab_size, max_positions, stack, tied, position_offset=OFFSET, embed_width=embed_width
    )


def _read_embed(c: hf.Raw, _: Set[str]) -> hf.Arguments:
    size = hf.whole_or_none(c, "word_embed_proj_dim")
    return {"embed_width": 0 if size == c["hidden_size"] else size}


def _read_norms(c: hf.Raw, _: Set[str]) -> hf.Arguments:
    """Fields that say whether norms are as in the published models."""
    for name, want in (
        ("layer_norm_elementwise_affine", True),
        ("_remove_final_layer_norm", False),
    ):
        if hf.flag(c, name) is not want:
            raise ConfigError(name, c[name], f"{want}: the norms of the published models")
    return {"pre_norm": hf.flag(c, "do_layer_norm_before")}


def _write_norms(a: hf.Arguments) -> hf.Arguments:
    return {
        "do_layer_norm_before": a["pre_norm"],
        "layer_norm_elementwise_affine": True,
        "_remove_final_layer_norm": False,
    }


BIASES = ("qkv_bias", "out_bias", "mlp_bias")
EMBED = hf.Field(
    {"word_embed_proj_dim": None},
    _read_embed,
    lambda a: {"word_embed_proj_dim": a["embed_width"] or a["width"]},
)
NORMS = hf.Field(
    {
        "do_layer_norm_before": True,
        "layer_norm_elementwise_affine": True,
        "_remove_final_layer_norm": False,
    },
    _read_norms,
    _write_norms,
)


def tensors(config: OPTConfig) -> dict[str, str]:
    """{module of ours: module in the file}."""
    ours, theirs = "stack/blocks/{}", "model.decoder.layers.{}"
    parts = {
        "norm1": "self_attn_layer_norm",
        "norm2": "final_layer_norm",
        "attention/query": "self_attn.q_proj",
        "attention/key": "self_attn.k_proj",
        "attention/value": "self_attn.v_proj",
        "attention/out": "self_attn.out_proj",
        "mlp/up": "fc1",
        "mlp/down": "fc2",
    }
    return {
        "tokens": "model.decoder.embed_tokens",
        "positions": "model.decoder.embed_positions",
        "project_in": "model.decoder.project_in",
        "project_out": "model.decoder.project_out",
        **{f"{ours}/{a}": f"{theirs}.{b}" for a, b in parts.items()},
        "stack/norm": "model.decoder.final_layer_norm",
        "head": "lm_head",
    }


FAMILY = Family(
    model_type="opt",
    config_type=OPTConfig,
    config=config,
    module=gpt2.GPT,
    fields=(
        hf.field("vocab_size", "vocab_size", 50_272, hf.whole),
        hf.field("hidden_size", "width", 768, hf.whole),
        hf.field("num_hidden_layers", "depth", 12, hf.whole),
        hf.field("num_attention_heads", "heads", 12, hf.whole),
        hf.field("ffn_dim", "mlp_width", 3072, hf.whole),
        hf.field("max_position_embeddings", "max_positions", 2048, hf.whole),
        hf.field("tie_word_embeddings", "tied", True, hf.flag),
        hf.activation_field("activation_function", "relu"),
        hf.field("dropout", "dropout", 0.1, hf.rate, copies=("attention_dropout",)),
        hf.Field(
            {"enable_bias": True},
            lambda c, _: dict.fromkeys(BIASES, hf.flag(c, "enable_bias")),
            lambda a: {"enable_bias": a["qkv_bias"]},
        ),
        EMBED,
        NORMS,
    ),
    tensors=tensors,
    prefix="model.decoder.",
    anchor="embed_positions.weight",
    # Of training: layers left out, and the dropout of a layer that the published models have not.
    unused=frozenset({"layerdrop", "activation_dropout", "init_std"}),
    extras=lambda _: {"architectures": ["OPTForCausalLM"]},
    copies=(("lm_head.weight", "model.decoder.embed_tokens.weight"),),
)
