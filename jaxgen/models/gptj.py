"""GPT-J (Wang and Komatsuzaki, 2021): a parallel block, positions that turn a part of each head.

Attention and feed-forward layer read the same norm and are added to the stream together. The module is
`gpt2.GPT`; here are its shape and its Hugging Face table.
"""

import dataclasses
from typing import Any

from jaxgen.errors import ConfigError
from jaxgen.models import gpt2
from jaxgen.models import hf_fields as hf
from jaxgen.models.hf_family import Family
from jaxgen.nn.rotary import Rotary
from jaxgen.nn.transformer_config import TransformerConfig


@dataclasses.dataclass(frozen=True)
class GPTJConfig(gpt2.GPTConfig):
    """The shape of a model; its fields are GPT-2's."""


def config(
    vocab_size: int,
    *,
    width: int,
    depth: int,
    heads: int,
    max_positions: int,
    rotary_dim: int = 64,
    mlp_width: int = 0,
    **options: object,
) -> GPTJConfig:
    """GPT-J's shape: the output layer is not tied and has a bias.

    Args:
      rotary_dim: how many channels of a head turn.
      options: further fields of `TransformerConfig`.

    Raises:
      ValueError: names the field that cannot be so.
    """
    shape: dict[str, Any] = {
        "rotary": Rotary(dim=rotary_dim, interleaved=True),
        "parallel": True,
        "qkv_bias": False,
        "out_bias": False,
        **options,
    }
    stack = TransformerConfig(width, depth, heads, mlp_width=mlp_width, **shape)
    return GPTJConfig(
        vocab_size, max_positions, stack, tied=False, learned_positions=False, head_bias=True
    )


def _untied(c: hf.Raw, name: str) -> bool:
    if hf.flag(c, name):
        raise ConfigError(name, True, "False: the output layer has weights of its own")
    return False


def tensors(config: GPTJConfig) -> dict[str, str]:
    """{module of ours: module in the file}."""
    ours, theirs = "stack/blocks/{}", "transformer.h.{}"
    parts = {
        "norm1": "ln_1",
        "attention/query": "attn.q_proj",
        "attention/key": "attn.k_proj",
        "attention/value": "attn.v_proj",
        "attention/out": "attn.out_proj",
        "mlp/up": "mlp.fc_in",
        "mlp/down": "mlp.fc_out",
    }
    return {
        "tokens": "transformer.wte",
        **{f"{ours}/{a}": f"{theirs}.{b}" for a, b in parts.items()},
        "stack/norm": "transformer.ln_f",
        "head": "lm_head",
    }


def _constructor(*, tied: bool, **arguments: Any) -> GPTJConfig:
    return config(**arguments)


FAMILY = Family(
    model_type="gptj",
    config_type=GPTJConfig,
    config=_constructor,
    module=gpt2.GPT,
    fields=(
        hf.field("vocab_size", "vocab_size", 50_400, hf.whole),
        hf.field("n_positions", "max_positions", 2048, hf.whole),
        hf.field("n_embd", "width", 4096, hf.whole),
        hf.field("n_layer", "depth", 28, hf.whole),
        hf.field("n_head", "heads", 16, hf.whole),
        hf.field("n_inner", "mlp_width", None, hf.whole_or_none),
        hf.Field(
            {"rotary_dim": 64},
            lambda c, _: {"rotary_dim": hf.whole(c, "rotary_dim", 2)},
            lambda a: {"rotary_dim": (a["rotary"] or Rotary()).dim or a["head_dim"]},
        ),
        hf.field("layer_norm_epsilon", "norm_eps", 1e-5, hf.real),
        hf.field("tie_word_embeddings", "tied", False, _untied),
        hf.activation_field("activation_function", "gelu_new"),
        hf.field("resid_pdrop", "dropout", 0.0, hf.rate, copies=("embd_pdrop", "attn_pdrop")),
    ),
    tensors=tensors,
    prefix="transformer.",
    anchor="wte.weight",
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    # Of the first files, which say what holds for every GPT-J.
    unused=frozenset({"rotary", "scale_attn_weights"}),
    extras=lambda _: {"architectures": ["GPTJForCausalLM"]},
    ignored=r"(.*\.)?attn\.(bias|masked_bias|embed_positions)",
)
