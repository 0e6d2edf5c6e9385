"""Fields of studies on text and proteins, and what they have to be together; touches no device."""

import importlib
import os
import pathlib
import re
from typing import Any

from experiments.common import fields
from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.data import proteins, text
from jaxgen.errors import ConfigError, shown, told
from jaxgen.evaluators import vader
from jaxgen.text import tokenizers

# Of data, networks and judges: what any study on sequences reads.
NAMES = {
    **fields.NAMES,
    "data": "kind source path name train test text_field label_field valid_fraction test_fraction "
    "limit max_words seed max_tokens tokenizer vocab_size source_vocab_size alphabet",
    "model": "latent_dim latent_norm encoder encoder_width encoder_depth encoder_heads encoder_path pre_norm "
    "decoder decoder_width decoder_depth decoder_heads decoder_path lora_rank lora_alpha frozen pretrained_rate word_dropout pad_weight eisl "
    "eisl_ngrams regressor_weight denoiser_width denoiser_depth dropout dtype remat scan",
    "judge": "width depth heads steps reverse_steps learning_rate test_rows probe_rows lm_path vader",
}
RULES: dict[str, config_lib.Rule] = {
    "data.kind": config_lib.one_of("text", "proteins"),
    "data.source": config_lib.one_of(*text.SOURCES, "csv", *proteins.SETS),
    "model.decoder": config_lib.one_of("gpt2", "non_autoregressive"),
    "model.eisl": config_lib.number(0.0, 1.0),
}


def check_sequences(config: Config) -> None:
    """What data, networks and judges of any study on sequences have to be together."""
    d, m = config.data, config.model
    for network in ("model.encoder", "model.decoder"):
        fields.check_divides(config, f"{network}_heads", f"{network}_width")
    fields.check_divides(config, "judge.heads", "judge.width")
    fields.check_fractions(config, test=d.source == "grammar" or not d.test)
    check_tokenizer(config)
    (check_text if d.kind == "text" else check_proteins)(config)
    check_encoder(config)
    if m.decoder_path and m.decoder != "gpt2":
        allowed = "'' for a non-autoregressive decoder"
        raise ConfigError("model.decoder_path", m.decoder_path, allowed)
    check_pretrained(config, "model.encoder_path", "bert", d.max_tokens)
    check_pretrained(config, "model.decoder_path", "gpt2", d.max_tokens + 1)
    check_pretrained(config, "judge.lm_path", "gpt2", 2)
    check_trained_part(config)


def check_trained_part(config: Config) -> None:
    """LoRA, and what is frozen."""
    m = config.model
    if m.lora_rank and m.decoder != "gpt2":
        raise ConfigError("model.lora_rank", m.lora_rank, "0 for a non-autoregressive decoder")
    for pattern in m.frozen:
        try:
            re.compile(pattern)
        except re.error as e:
            raise ConfigError("model.frozen", m.frozen, f"regular expressions ({e})") from e
    if config.judge.vader:
        vader.compound([])


def check_text(config: Config) -> None:
    """Where sentences come from, and what has to be said of a source."""
    d = config.data
    config_lib.check(config, {"data.source": config_lib.one_of(*text.SOURCES)})
    fields.check_ngrams(config, "model.eisl_ngrams", d.max_tokens)
    if config.model.regressor_weight:
        raise ConfigError("model.regressor_weight", config.model.regressor_weight, "0 for text")
    if d.source in ("files", "table") and not d.train:
        raise ConfigError("data.train", d.train, f"at least one file name, for source {d.source}")
    if d.source in ("hf", "tfds") and not d.name:
        raise ConfigError("data.name", d.name, f"the name of a data set, for source {d.source}")
    if d.source in ("table", "hf", "tfds") and not d.text_field:
        raise ConfigError("data.text_field", d.text_field, "the column of the sentences")
    if d.source == "grammar" and d.limit > 10**7:
        raise ConfigError("data.limit", d.limit, "at most 10000000 sentences of the grammar")


def check_proteins(config: Config) -> None:
    """Where proteins come from."""
    d = config.data
    config_lib.check(config, {"data.source": config_lib.one_of("csv", *proteins.SETS)})
    if d.source == "csv" and len(d.train) != 1:
        raise ConfigError("data.train", d.train, "one file name")
    if len(d.test) > 1:
        raise ConfigError("data.test", d.test, "one file name, or none")
    for field in ("encoder_path", "decoder_path"):
        if config.model[field]:
            raise ConfigError(f"model.{field}", config.model[field], "'' for proteins")


def check_encoder(config: Config) -> None:
    """ "bert", or an encoder of the user's own."""
    name = config.model.encoder
    try:
        ok = name == "bert" or callable(own_encoder(name))
    except Exception as e:  # whatever a module of somebody else raises
        raise ConfigError("model.encoder", name, f"bert, or module:Class ({told(e)})") from e
    if not ok:
        raise ConfigError("model.encoder", name, "bert, or module:Class")
    if name != "bert" and config.model.encoder_path:
        raise ConfigError("model.encoder_path", config.model.encoder_path, "'' for another encoder")


def own_encoder(name: str) -> Any:
    """What stands at `module:Class`."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def check_tokenizer(config: Config) -> None:
    """A kind of tokenizer to train, or a folder that holds one."""
    name = config.data.tokenizer
    if name in tokenizers.KINDS:
        return
    files = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")
    if not name or not any(os.path.isfile(pathlib.Path(name) / file) for file in files):
        allowed = f"one of {', '.join(tokenizers.KINDS)}, or a folder with a tokenizer in it"
        raise ConfigError("data.tokenizer", name, allowed)


def check_pretrained(config: Config, field: str, like: str, length: int) -> None:
    """Weights, where some are named: of a kind whose module is that of the kind `like`, for texts that long."""
    folder = config_lib.get(config, field)
    if not folder:
        return
    from jaxgen.models import hf

    try:
        model_config = hf.read_config(folder)
    except Exception as e:  # of many kinds, for files that are not what they should be
        reason = str(e) if isinstance(e, ConfigError) else f"{type(e).__name__}: {e}"
        raise ConfigError(field, folder, f"a folder with weights ({shown(reason)})") from e
    module = hf.FAMILIES[like].module
    kinds = [kind for kind, family in hf.FAMILIES.items() if family.module is module]
    kind = hf.family_of(model_config).model_type
    if kind not in kinds:
        raise ConfigError(field, folder, f"a model of kind {' or '.join(kinds)}, not {kind}")
    if model_config.max_positions < length:
        allowed = f"a model of at least {length} positions, not {model_config.max_positions}"
        raise ConfigError(field, folder, allowed)
