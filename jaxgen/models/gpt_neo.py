"""GPT-Neo (Black et al., 2021): GPT-2's module with local attention, and its Hugging Face table."""

import dataclasses
import functools
from collections.abc import Set
from typing import Any

from jaxgen.errors import ConfigError
from jaxgen.models import gpt2
from jaxgen.models import hf_fields as hf
from jaxgen.models.hf_family import Family
from jaxgen.nn.transformer_config import TransformerConfig


@dataclasses.dataclass(frozen=True)
class GPTNeoConfig(gpt2.GPTConfig):
    """The shape of a model; its fields are GPT-2's."""


def config(
    vocab_size: int,
    *,
    width: int,
    depth: int,
    heads: int,
    max_positions: int,
    mlp_width: int = 0,
    windows: tuple[int, ...] = (),
    tied: bool = True,
    **options: object,
) -> GPTNeoConfig:
    """GPT-Neo's shape: logits of attention are not scaled, and have no biases before them.

    Args:
      windows: of each layer, how many positions back it sees, 0 for all; by default all.
      options: further fields of `TransformerConfig`.

    Raises:
      ValueError: if the heads do not divide the width.
    """
    shape: dict[str, Any] = {"qkv_bias": False, "scale": 1.0, **options}
    stack = TransformerConfig(width, depth, heads, mlp_width=mlp_width, windows=windows, **shape)
    return GPTNeoConfig(vocab_size, max_positions, stack, tied)


def _read_windows(c: hf.Raw, _: Set[str]) -> hf.Arguments:
    name = "attention_layers" if c["attention_layers"] else "attention_types"
    types = c["attention_types"] or [[["global", "local"], 12]]
    try:
        kinds = list(c["attention_layers"] or []) or [
            kind for group, times in types for _ in range(times) for kind in group
        ]
    except (TypeError, ValueError):
        kinds = [None]
    if len(kinds) != hf.whole(c, "num_layers") or not all(k in ("global", "local") for k in kinds):
        want = f"global or local for each of num_layers, {c['num_layers']}, layers"
        raise ConfigError(name, c[name], want)
    windows = (hf.whole(c, "window_size") if kind == "local" else 0 for kind in kinds)
    return {"windows": tuple(windows)}


def _write_windows(a: hf.Arguments) -> hf.Arguments:
    windows = a["windows"] or (0,) * a["depth"]
    return {
        "window_size": max(windows) or 256,
        "attention_types": [[["local" if w else "global"], 1] for w in windows],
    }


WINDOWS = hf.Field(
    {"attention_types": None, "attention_layers": None, "window_size": 256},
    _read_windows,
    _write_windows,
)
FAMILY = Family(
    model_type="gpt_neo",
    config_type=GPTNeoConfig,
    config=config,
    module=gpt2.GPT,
    fields=(
        *gpt2.FIELDS,
        hf.field("max_position_embeddings", "max_positions", 2048, hf.whole),
        hf.field("hidden_size", "width", 2048, hf.whole),
        hf.field("num_layers", "depth", 24, hf.whole),
        hf.field("num_heads", "heads", 16, hf.whole),
        hf.field("intermediate_size", "mlp_width", None, hf.whole_or_none),
        hf.field(
            "resid_dropout", "dropout", 0.0, hf.rate, copies=("embed_dropout", "attention_dropout")
        ),
        WINDOWS,
    ),
    tensors=functools.partial(
        gpt2.tensors,
        attention={
            "query": "attention.q_proj",
            "key": "attention.k_proj",
            "value": "attention.v_proj",
            "out": "attention.out_proj",
        },
    ),
    prefix="transformer.",
    anchor="wpe.weight",
    aliases={"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
    unused={"is_decoder", "n_positions"},
    extras=lambda _: {"architectures": ["GPTNeoForCausalLM"]},
    copies=gpt2.COPIES,
    ignored=gpt2.BUFFERS,
)
