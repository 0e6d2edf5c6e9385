"""Fields of Hugging Face's config.json: what is read, what may be there, and checks of their values.

Every field that changes what a model computes is honoured or refused by name. A field that is missing
has the default of the family's configuration class; one that is unknown here may be off (null, false,
empty) or `HARMLESS`.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, TypeAlias

from jaxgen.errors import ConfigError

Config: TypeAlias = Mapping[str, Any]

# Fields that are read, with the defaults of GPT2Config, GPTNeoConfig, BertConfig and T5Config.
_GPT = {
    "vocab_size": 50257,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}
FIELDS: dict[str, dict[str, Any]] = {
    "gpt2": {
        **_GPT,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "resid_pdrop": 0.1,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
    },
    "gpt_neo": {
        **_GPT,
        "max_position_embeddings": 2048,
        "hidden_size": 2048,
        "num_layers": 24,
        "num_heads": 16,
        "intermediate_size": None,
        "attention_types": None,
        "attention_layers": None,
        "window_size": 256,
        "resid_dropout": 0.0,
    },
    "bert": {
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "is_decoder": False,
        "tie_word_embeddings": True,
    },
    "t5": {
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_decoder_layers": None,
        "num_heads": 8,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "dropout_rate": 0.1,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu",
        "dense_act_fn": None,
        "is_gated_act": None,
        "tie_word_embeddings": None,
        "scale_decoder_outputs": None,
        "is_encoder_decoder": True,
    },
}
# Other names that the configuration classes take for these fields.
ALIASES = {
    "gpt2": {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    "gpt_neo": {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
    "bert": {},
    "t5": {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    },
}
# Fields that change no number of ours: how a model was made, trained, stored or sampled from, heads
# that are not read, and other ways to compute the same.
HARMLESS = frozenset(
    """
    model_type architectures transformers_version torch_dtype dtype name_or_path tokenizer_class
    initializer_range initializer_factor gradient_checkpointing use_cache output_past torchscript
    use_bfloat16 return_dict use_return_dict output_hidden_states output_attentions output_scores
    return_dict_in_generate tf_legacy_loss chunk_size_feed_forward attn_implementation
    reorder_and_upcast_attn tie_last_hidden_states unsloth_version
    embd_pdrop attn_pdrop embed_dropout attention_dropout attention_probs_dropout_prob
    classifier_dropout summary_type summary_use_proj summary_activation summary_proj_to_labels
    summary_first_dropout id2label label2id num_labels problem_type finetuning_task
    task_specific_params prefix sentence_transformers sbert_ce_default_activation_function
    pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type
    n_ctx n_special predict_special_tokens model_max_length
    bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id mask_token_id unk_token_id
    decoder_start_token_id forced_bos_token_id forced_eos_token_id bad_words_ids force_words_ids
    suppress_tokens begin_suppress_tokens sequence_bias
    max_length max_new_tokens min_length min_new_tokens max_time early_stopping do_sample num_beams
    num_beam_groups num_return_sequences diversity_penalty temperature top_k top_p min_p typical_p
    epsilon_cutoff eta_cutoff penalty_alpha repetition_penalty encoder_repetition_penalty
    length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size renormalize_logits
    remove_invalid_values exponential_decay_length_penalty guidance_scale low_memory
    cache_implementation
    """.split()  # noqa: SIM905
)
# Fields that one family does not look at, and values that say what holds anyway.
_UNUSED = {
    "gpt2": {"is_decoder"},
    "gpt_neo": {"is_decoder", "n_positions"},
    "bert": set(),
    "t5": {"is_decoder", "n_positions"},
}
# T5 takes null for false here; we for "as feed_forward_proj and tie_word_embeddings say".
_NOT_NULL = {"scale_decoder_outputs", "dense_act_fn", "is_gated_act"}
_NEUTRAL = {"position_embedding_type": "absolute", "directionality": "bidi"}
_REASONS = {
    "quantization_config": "none: weights in full precision",
    "auto_map": "none: code of a folder is never run; delete it if the plain model is meant",
    "position_embedding_type": "'absolute'",
    "add_cross_attention": "False: a model without cross attention",
}


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
      ConfigError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise ConfigError("folder", str(path), f"readable JSON ({e})") from e
    if not isinstance(content, dict):
        raise ConfigError("folder", str(path), "a JSON object")
    return content


def is_off(value: Any) -> bool:
    """Whether a field says that something is not there: null, false or empty."""
    return value is None or value is False or (isinstance(value, (str, list, dict)) and not value)


def complete(raw: Config, kind: str) -> dict[str, Any]:
    """The fields of a model type, by their own names, with defaults.

    Raises:
      ConfigError: a field that would change the result and is not known.
    """
    out, names = dict(FIELDS[kind]), ALIASES[kind]
    for field, value in raw.items():
        ours = names.get(field, field)
        if ours in FIELDS[kind]:
            if raw.get(ours, value) != value:
                raise ConfigError(field, value, f"{ours}'s value, {raw[ours]!r}, or no such field")
            if value is None and ours in _NOT_NULL:
                raise ConfigError(field, value, "a value, or no such field")
            out[ours] = value
        elif not (
            field.startswith("_")
            or field in HARMLESS
            or field in _UNUSED[kind]
            or is_off(value)
            or _NEUTRAL.get(field) == value
        ):
            advice = f"no such field for {kind}; delete it from config.json if it changes nothing"
            raise ConfigError(field, value, _REASONS.get(field, advice))
    return out


def kind_of(raw: Config) -> str:
    """The model type.

    Raises:
      ConfigError: none, or one that is not known.
    """
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in FIELDS:
        raise ConfigError("model_type", kind, "one of " + ", ".join(FIELDS))
    return kind


def whole(c: Config, field: str, least: int = 1) -> int:
    """A field that is a whole number, or ConfigError."""
    if type(c[field]) is not int or c[field] < least:
        raise ConfigError(field, c[field], f"a whole number, at least {least}")
    return c[field]


def real(c: Config, field: str, *, rate: bool = False) -> float:
    """A field that is a number from 0, for rates below 1, or ConfigError."""
    value = c[field]
    number = type(value) in (int, float) and math.isfinite(value)
    if not number or value < 0 or (rate and value >= 1):
        raise ConfigError(field, value, "a number, at least 0" + (" and below 1" if rate else ""))
    return float(value)


def flag(c: Config, field: str) -> bool:
    """A field that is true or false, or ConfigError."""
    if type(c[field]) is not bool:
        raise ConfigError(field, c[field], "true or false")
    return c[field]
