"""The tokenizers of a workdir: trained once, by one process, and the same ones at every launch."""

import json
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils

from jaxgen.config import Config
from jaxgen.data.tokens import TokenShape
from jaxgen.errors import ConfigError
from jaxgen.text import tokenizers
from jaxgen.train.writers import write_atomic

DIGESTS = "tokenizers.json"  # in the workdir: field -> SHA-256


def token_shape(tokenizer: Any, length: int) -> TokenShape:
    """Of texts that one tokenizer makes into at most `length` tokens, on both sides."""
    begin, end, pad = tokenizers.special_ids(tokenizer)
    unknown = end if tokenizer.unk_token_id is None else tokenizer.unk_token_id
    return TokenShape(len(tokenizer), len(tokenizer), length, begin, end, unknown, pad)


def check_kind(config: Config) -> None:
    """Raises ConfigError unless the tokenizer is one that is trained on the study's own text."""
    if config.data.tokenizer not in tokenizers.KINDS:
        raise ConfigError(
            "data.tokenizer", config.data.tokenizer, "one of " + ", ".join(tokenizers.KINDS)
        )


def kept_tokenizer(config: Config, workdir: pathlib.Path, texts: Sequence[str]) -> Any:
    """The tokenizer of a workdir, trained on the texts the first time.

    One process trains and the others wait for it. The folder is written aside and renamed, so it is whole
    or not there; a damaged one is trained again. Until the workdir belongs to a config (`config.json`),
    what lies there may be of another launch, and is trained again too.

    Raises:
      ConfigError: it is not the tokenizer that the workdir's runs were trained with.
    """
    folder, d = workdir / "tokenizer", config.data

    def make() -> None:
        if not ((workdir / "config.json").exists() and _loads(folder)):
            trained = tokenizers.train(texts, kind=d.tokenizer, vocab_size=d.vocab_size)
            _replace(folder, trained)

    first_process(make, "tokenizer")
    tokenizer = tokenizers.load(folder, field="workdir")
    keep_digest(workdir, "data.tokenizer", tokenizer)
    return tokenizer


def named_tokenizer(workdir: pathlib.Path, field: str, folder: str) -> Any:
    """The tokenizer of a folder that the config names.

    Raises:
      ConfigError: no tokenizer, or another one than the workdir's runs were trained with.
    """
    tokenizer = tokenizers.load(folder, field=field)
    keep_digest(workdir, field, tokenizer)
    return tokenizer


def keep_digest(workdir: pathlib.Path, field: str, tokenizer: Any) -> None:
    """Compares a tokenizer with what the workdir had the last time; keeps it the first time.

    Raises:
      ConfigError: it is another one, now or in another process.
    """
    path, digest = workdir / DIGESTS, tokenizers.digest(tokenizer)

    def write() -> None:
        known = _digests(path)
        if not ((workdir / "config.json").exists() and field in known):
            write_atomic(path, json.dumps(known | {field: digest}, indent=2) + "\n")

    first_process(write, f"digest of {field}")
    if _digests(path).get(field) != digest:
        raise ConfigError(
            field,
            tokenizer.name_or_path,
            f"the tokenizer that {workdir} was started with ({path.name} has its digest)",
        )


def first_process(work: Callable[[], None], name: str) -> None:
    """Process 0 works, all the others wait until it has come to an end.

    Args:
      name: of the barrier.
    """
    try:
        if jax.process_index() == 0:
            work()
    finally:
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(name)


def _digests(path: pathlib.Path) -> dict[str, str]:
    try:
        read = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # none, or damaged: written again
    return read if isinstance(read, dict) else {}


def _loads(folder: pathlib.Path) -> bool:
    try:
        tokenizers.load(folder)
    except ConfigError:
        return False
    return True


def _replace(folder: pathlib.Path, tokenizer: Any) -> None:
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    tokenizer.save_pretrained(aside)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)
