"""Fields of Hugging Face's config.json: rows of a family's table, and checks of their values.

A `Field` is read in both directions, so that nothing is said twice. Its values are those of JSON. In the
other direction stand the keyword arguments of a family's constructor, such as `gpt2.config`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Set
from typing import Any, TypeAlias

from jaxgen.errors import ConfigError

Raw: TypeAlias = Mapping[str, Any]
Arguments: TypeAlias = dict[str, Any]
Read: TypeAlias = Callable[[Raw, str], Any]

# The default of a field that a file need not have, and that may not be null where it is there.
UNSAID = object()


@dataclasses.dataclass(frozen=True)
class Field:
    """What one field of config.json, or several together, say of a model.

    Attributes:
      defaults: {name: the default of the family's configuration class}.
      read: (all fields, names of the file's tensors) -> arguments of the constructor.
      write: those arguments -> {name: value}.
    """

    defaults: Raw
    read: Callable[[Raw, Set[str]], Arguments]
    write: Callable[[Arguments], Arguments]


def field(
    name: str,
    ours: str,
    default: object,
    read: Read,
    write: Callable[[Any], Any] = lambda value: value,
    *,
    copies: tuple[str, ...] = (),
) -> Field:
    """One field that is one of our arguments.

    Args:
      read: (all fields, the name) -> our value, or ConfigError.
      copies: further fields that are written with the same value, and not read.
    """
    return Field(
        {name: default},
        lambda c, _: {ours: read(c, name)},
        lambda a: dict.fromkeys((name, *copies), write(a[ours])),
    )


def whole(c: Raw, name: str, least: int = 1) -> int:
    """A field that is a whole number, or ConfigError."""
    if type(c[name]) is not int or c[name] < least:
        raise ConfigError(name, c[name], f"a whole number, at least {least}")
    return c[name]


def whole_or_none(c: Raw, name: str) -> int:
    """As `whole`, and 0, which stands for our own default, for null."""
    return 0 if c[name] is None else whole(c, name)


def real(c: Raw, name: str) -> float:
    """A field that is a number from 0, or ConfigError."""
    value = c[name]
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise ConfigError(name, value, "a number, at least 0")
    return float(value)


def rate(c: Raw, name: str) -> float:
    """A field that is a number from 0 and below 1, or ConfigError."""
    if real(c, name) >= 1:
        raise ConfigError(name, c[name], "a number, at least 0 and below 1")
    return float(c[name])


def flag(c: Raw, name: str) -> bool:
    """A field that is true or false, or ConfigError."""
    if type(c[name]) is not bool:
        raise ConfigError(name, c[name], "true or false")
    return c[name]


# Their names of activations, the one that is written first.
_ACTIVATIONS = {
    "gelu_tanh": (
        "gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate",
    ),
    "gelu": ("gelu", "gelu_python"),
    "relu": ("relu",),
    "silu": ("silu", "swish"),
}  # fmt: skip
ACTIVATION_NAMES = {ours: names[0] for ours, names in _ACTIVATIONS.items()}
_OURS = {name: ours for ours, names in _ACTIVATIONS.items() for name in names}


def activation(c: Raw, name: str) -> str:
    """A field that names an activation, or ConfigError."""
    return activation_of(name, c[name], c[name])


def activation_of(name: str, value: object, part: object) -> str:
    """Our name of the activation that `part` of a field's value is, or ConfigError."""
    if not isinstance(part, str) or part not in _OURS:
        raise ConfigError(name, value, "one of " + ", ".join(_OURS))
    return _OURS[part]


def activation_field(name: str, default: str) -> Field:
    """The field of the activation."""
    return field(name, "activation", default, activation, ACTIVATION_NAMES.__getitem__)


def is_off(value: object) -> bool:
    """Whether a field says that something is not there: null, false or empty."""
    return value is None or value is False or (isinstance(value, (str, list, dict)) and not value)


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
# Values that say what holds anyway.
NEUTRAL = {"position_embedding_type": "absolute", "directionality": "bidi"}
REASONS = {
    "quantization_config": "none: weights in full precision",
    "auto_map": "none: code of a folder is never run; delete it if the plain model is meant",
    "position_embedding_type": "'absolute'",
    "add_cross_attention": "False: a model without cross attention",
}
