"""Running text for language models: lines in their order, and windows of equal length over them."""

import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from jaxgen.data import kept, text
from jaxgen.data.root import expand
from jaxgen.errors import ConfigError
from jaxgen.text import tokenizers

SOURCES = ("english", "files")


def load(
    source: str,
    *,
    path: str = "",
    files: Sequence[str] = (),
    valid_fraction: float = 0.05,
    test_fraction: float = 0.05,
) -> dict[str, list[str]]:
    """Lines of {"train", "valid", "test"}.

    Args:
      source: "files" (text files under `path`, read one after the other; the last lines are valid and
        test parts, so that all parts are running text) or "english" (sentences of the standard library's
        documentation, split by hash).

    Raises:
      ConfigError: an unknown source, a missing or unreadable file, or too few lines to split.
    """
    if source not in SOURCES:
        raise ConfigError("data.source", source, "one of " + ", ".join(SOURCES))
    if source == "english":
        parts = text.load(source, valid_fraction=valid_fraction, test_fraction=test_fraction)
        return {name: part.text for name, part in parts.items()}
    if not files:
        raise ConfigError("data.files", tuple(files), "at least one file name")
    lines = text.read_files(pathlib.Path(expand(path)), files).text
    valid, test = (int(len(lines) * share) for share in (valid_fraction, test_fraction))
    cut = len(lines) - valid - test
    if min(cut, valid, test) < 1:
        raise ConfigError("data.files", tuple(files), "more lines: each part needs one")
    return {"train": lines[:cut], "valid": lines[cut : cut + valid], "test": lines[cut + valid :]}


def windows(
    tokenizer: tokenizers.Tokenizer, lines: Sequence[str], length: int
) -> Int[ndarray, "N T"]:
    """Token ids of all lines, an end token after each, cut into windows of length + 1.

    Each window begins with the last token of the one before, so that a model which predicts tokens 1 to
    `length` of every window predicts every token of the text but the first once. What is left over at the
    end is dropped, and counted (`kept.left_out`).

    Raises:
      ConfigError: a length below 1, or a text shorter than one window.
    """
    if length < 1:
        raise ConfigError("data.context", length, "at least 1")
    _, end, _ = tokenizers.special_ids(tokenizer)
    ids = tokenizers.tokens(tokenizer, lines)
    flat = np.array([t for line in ids for t in (*line, end)], np.int32)
    count = (len(flat) - 1) // length
    if count < 1:
        raise ConfigError("data.context", length, f"at most {len(flat) - 1}, the text's tokens")
    kept.left_out(len(flat) - 1 - count * length, "tokens after the last whole window")
    return flat[np.arange(count)[:, None] * length + np.arange(length + 1)]
