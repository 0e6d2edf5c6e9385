"""Hugging Face's config.json and our specs, in both directions.

Our stacks have one dropout rate: that of the residual stream.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

from jaxgen.errors import ConfigError
from jaxgen.nn import bert, gpt2, t5
from jaxgen.nn.hf_fields import Config, complete, flag, kind_of, real, whole
from jaxgen.nn.transformer import TransformerConfig

Model: TypeAlias = gpt2.GPT | bert.Bert | t5.T5

ACTIVATION_NAMES = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def _activation(field: str, value: Any, name: Any = None) -> str:
    name = value if name is None else name
    if not isinstance(name, str) or name not in ACTIVATION_NAMES:
        raise ConfigError(field, value, "one of " + ", ".join(ACTIVATION_NAMES))
    return ACTIVATION_NAMES[name]


def _head_dim(c: Config, heads: str, width: str) -> int:
    if whole(c, width) % whole(c, heads):
        raise ConfigError(heads, c[heads], f"a divisor of {width}, {c[width]}")
    return c[width] // c[heads]


def _windows(c: Config) -> tuple[int, ...]:
    """Of each layer of GPT-Neo, how many positions back it sees; 0 for all."""
    field = "attention_layers" if c["attention_layers"] else "attention_types"
    types = c["attention_types"] or [[["global", "local"], 12]]
    try:
        kinds = list(c["attention_layers"] or []) or [
            kind for group, times in types for _ in range(times) for kind in group
        ]
    except (TypeError, ValueError):
        kinds = [None]
    if len(kinds) != whole(c, "num_layers") or not all(k in ("global", "local") for k in kinds):
        want = f"global or local for each of num_layers, {c['num_layers']}, layers"
        raise ConfigError(field, c[field], want)
    return tuple(whole(c, "window_size") if kind == "local" else 0 for kind in kinds)


def _gpt2(c: Config, names: set[str]) -> gpt2.GPTConfig:
    width = whole(c, "n_embd")
    stack = TransformerConfig(
        width=width,
        depth=whole(c, "n_layer"),
        heads=whole(c, "n_head"),
        head_dim=_head_dim(c, "n_head", "n_embd"),
        mlp_width=4 * width if c["n_inner"] is None else whole(c, "n_inner"),
        norm_eps=real(c, "layer_norm_epsilon"),
        activation=_activation("activation_function", c["activation_function"]),
        fused_qkv=True,
        scale=None if flag(c, "scale_attn_weights") else 1.0,
        scale_by_layer=flag(c, "scale_attn_by_inverse_layer_idx"),
        dropout=real(c, "resid_pdrop", rate=True),
    )
    tied = flag(c, "tie_word_embeddings")
    return gpt2.GPTConfig(whole(c, "vocab_size"), whole(c, "n_positions"), stack, tied, "gpt2")


def _gpt_neo(c: Config, names: set[str]) -> gpt2.GPTConfig:
    width = whole(c, "hidden_size")
    inner = c["intermediate_size"]
    stack = TransformerConfig(
        width=width,
        depth=whole(c, "num_layers"),
        heads=whole(c, "num_heads"),
        head_dim=_head_dim(c, "num_heads", "hidden_size"),
        mlp_width=4 * width if inner is None else whole(c, "intermediate_size"),
        norm_eps=real(c, "layer_norm_epsilon"),
        activation=_activation("activation_function", c["activation_function"]),
        qkv_bias=False,
        scale=1.0,
        windows=_windows(c),
        dropout=real(c, "resid_dropout", rate=True),
    )
    tied, positions = flag(c, "tie_word_embeddings"), whole(c, "max_position_embeddings")
    return gpt2.GPTConfig(whole(c, "vocab_size"), positions, stack, tied, "gpt_neo")


def _bert(c: Config, names: set[str]) -> bert.BertConfig:
    mlm = any(n.startswith("cls.predictions.") for n in names)
    if mlm and not flag(c, "tie_word_embeddings"):
        raise ConfigError("tie_word_embeddings", False, "true, for BERT's language-model head")
    _head_dim(c, "num_attention_heads", "hidden_size")
    return bert.spec(
        whole(c, "vocab_size"),
        width=c["hidden_size"],
        depth=whole(c, "num_hidden_layers"),
        heads=c["num_attention_heads"],
        mlp_width=whole(c, "intermediate_size"),
        max_positions=whole(c, "max_position_embeddings"),
        types=whole(c, "type_vocab_size"),
        pooler=any(n.startswith("bert.pooler.") for n in names),
        mlm=mlm,
        activation=_activation("hidden_act", c["hidden_act"]),
        norm_eps=real(c, "layer_norm_eps"),
        causal=flag(c, "is_decoder"),
        dropout=real(c, "hidden_dropout_prob", rate=True),
    )


def _t5(c: Config, names: set[str]) -> t5.T5Config:
    if not flag(c, "is_encoder_decoder"):
        raise ConfigError("is_encoder_decoder", False, "true: the decoder reads the encoder")
    field, value = "feed_forward_proj", c["feed_forward_proj"]
    parts = value.split("-") if isinstance(value, str) else []
    if len(parts) not in (1, 2) or (len(parts) == 2 and parts[0] != "gated"):
        raise ConfigError(field, value, "an activation, or gated- and an activation")
    act = "gelu_new" if value == "gated-gelu" else parts[-1]
    activation = _activation(field, value, act)
    # The class writes these two beside the field that they follow from, and believes them.
    if c["dense_act_fn"] is not None:
        activation = _activation("dense_act_fn", c["dense_act_fn"])
    gated = len(parts) == 2 if c["is_gated_act"] is None else flag(c, "is_gated_act")
    scaled = "scale_decoder_outputs"
    decoder_depth = "num_layers" if c["num_decoder_layers"] is None else "num_decoder_layers"
    # Version 1.1 neither ties nor scales; the class tells the two apart by tie_word_embeddings, and
    # has an output layer of its own where the file has one.
    if c["tie_word_embeddings"] is not None:
        flag(c, "tie_word_embeddings")
    buckets, reach = "relative_attention_num_buckets", "relative_attention_max_distance"
    return t5.spec(
        whole(c, "vocab_size"),
        width=whole(c, "d_model"),
        depth=whole(c, "num_layers"),
        decoder_depth=whole(c, decoder_depth),
        heads=whole(c, "num_heads"),
        head_dim=whole(c, "d_kv"),
        mlp_width=whole(c, "d_ff"),
        tied="lm_head.weight" not in names,
        scale_output=c["tie_word_embeddings"] is not False
        if c[scaled] is None
        else flag(c, scaled),
        gated=gated,
        activation=activation,
        norm_eps=real(c, "layer_norm_epsilon"),
        relative_buckets=whole(c, buckets, 4),
        relative_distance=whole(c, reach, c[buckets] // 2 + 1),
        dropout=real(c, "dropout_rate", rate=True),
    )


KINDS: dict[str, Callable[..., Any]] = {
    "gpt2": _gpt2,
    "gpt_neo": _gpt_neo,
    "bert": _bert,
    "t5": _t5,
}


def spec_of(raw: Config, names: set[str]) -> Any:
    """The spec that a config.json describes.

    Args:
      names: of the file's tensors, as in the tables: they tell which heads there are.

    Raises:
      ConfigError: names the field whose value is not honoured.
    """
    kind = kind_of(raw)
    return KINDS[kind](complete(raw, kind), names)


def config_of(model: Model) -> dict[str, Any]:
    """config.json of a model, as transformers reads it.

    Raises:
      ConfigError: names what the model has and the family's config.json cannot say.
    """
    config = _config_of(model)
    _check(model, config)
    return config


# What a config.json need not keep, because it changes no number of the trained model.
_RUNTIME = {"dropout": 0.0, "init_std": 0.0, "remat": False, "scan": False, "dtype": "float32"}


def _plain(stack: TransformerConfig) -> TransformerConfig:
    """A stack's spec without what is not saved, and with defaults written out."""
    scale = stack.head_dim**-0.5 if stack.scale is None else stack.scale
    windows = stack.windows if any(stack.windows) else ()
    changes: dict[str, Any] = {**_RUNTIME, "scale": scale, "windows": windows}
    if not stack.relative_buckets:
        changes["relative_distance"] = 128
    if not stack.experts:
        changes |= {"expert_every": 2, "expert_slots": 0, "capacity_factor": 0.0}
    return dataclasses.replace(stack, **changes)


def _check(model: Model, config: Config) -> None:
    names = {"bert.pooler."} if getattr(model.spec, "pooler", False) else set()
    names |= {"cls.predictions."} if getattr(model.spec, "mlm", False) else set()
    names |= set() if getattr(model.spec, "tied", True) else {"lm_head.weight"}
    again = spec_of(config, names)
    stacks = ("encoder", "decoder") if isinstance(model, t5.T5) else ("stack",)
    for stack in stacks:
        ours, read = (_plain(getattr(spec, stack)) for spec in (model.spec, again))
        for field in dataclasses.fields(TransformerConfig):
            value, other = getattr(ours, field.name), getattr(read, field.name)
            if value != other:
                want = f"{other!r}, all that config.json can say of {config['model_type']}"
                raise ConfigError(f"{stack}.{field.name}", value, want)


def _config_of(model: Model) -> dict[str, Any]:
    names = {v: k for k, v in reversed(ACTIVATION_NAMES.items())}
    if isinstance(model, gpt2.GPT):
        g, s = model.spec, model.spec.stack
        shared = {
            "model_type": g.kind,
            "vocab_size": g.vocab_size,
            "layer_norm_epsilon": s.norm_eps,
            "activation_function": names[s.activation],
            "tie_word_embeddings": g.tied,
        }
        if g.kind == "gpt2":
            return shared | {
                "architectures": ["GPT2LMHeadModel"],
                "n_embd": s.width,
                "n_layer": s.depth,
                "n_head": s.heads,
                "n_inner": s.mlp_width,
                "n_positions": g.max_positions,
                "scale_attn_weights": s.scale != 1.0,
                "scale_attn_by_inverse_layer_idx": s.scale_by_layer,
                "resid_pdrop": s.dropout,
                "embd_pdrop": s.dropout,
                "attn_pdrop": s.dropout,
            }
        kinds = ["local" if w else "global" for w in s.windows or (0,) * s.depth]
        return shared | {
            "architectures": ["GPTNeoForCausalLM"],
            "hidden_size": s.width,
            "num_layers": s.depth,
            "num_heads": s.heads,
            "intermediate_size": s.mlp_width,
            "max_position_embeddings": g.max_positions,
            "window_size": max(s.windows, default=0) or 256,
            "attention_types": [[[kind], 1] for kind in kinds],
            "resid_dropout": s.dropout,
            "embed_dropout": s.dropout,
            "attention_dropout": s.dropout,
        }
    if isinstance(model, bert.Bert):
        b, s = model.spec, model.spec.stack
        return {
            "model_type": "bert",
            "architectures": ["BertForMaskedLM" if b.mlm else "BertModel"],
            "vocab_size": b.vocab_size,
            "hidden_size": s.width,
            "num_hidden_layers": s.depth,
            "num_attention_heads": s.heads,
            "intermediate_size": s.mlp_width,
            "max_position_embeddings": b.max_positions,
            "type_vocab_size": b.types,
            "hidden_act": names[s.activation],
            "layer_norm_eps": s.norm_eps,
            "is_decoder": s.causal,
            "hidden_dropout_prob": s.dropout,
            "attention_probs_dropout_prob": s.dropout,
        }
    e, d = model.spec.encoder, model.spec.decoder
    # "gated-gelu" means the approximate one.
    gated = {"gelu_tanh": "gated-gelu", "gelu": "gated-gelu_python"}
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": model.spec.vocab_size,
        "d_model": e.width,
        "d_kv": e.head_dim,
        "d_ff": e.mlp_width,
        "num_layers": e.depth,
        "num_decoder_layers": d.depth,
        "num_heads": e.heads,
        "feed_forward_proj": gated.get(e.activation, f"gated-{names[e.activation]}")
        if e.gated
        else names[e.activation],
        "layer_norm_epsilon": e.norm_eps,
        "relative_attention_num_buckets": e.relative_buckets,
        "relative_attention_max_distance": e.relative_distance,
        "dropout_rate": e.dropout,
        "tie_word_embeddings": model.spec.tied,
        "scale_decoder_outputs": model.spec.scale_output,
        "is_encoder_decoder": True,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
