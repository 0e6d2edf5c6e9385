"""Tokenizers: load one from a local folder, or train one on a corpus and save it.

All are `transformers.PreTrainedTokenizerFast` over the `tokenizers` library, so a folder written here
opens with `AutoTokenizer` and the other way round.
"""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from jaxgen.errors import ConfigError

KINDS = ("bpe", "wordpiece", "word")
PAD, UNK, BOS, EOS = "<pad>", "<unk>", "<s>", "</s>"
SPECIAL = (PAD, UNK, BOS, EOS)  # ids 0 to 3 of trained tokenizers


def train(lines: Iterable[str], *, kind: str = "bpe", vocab_size: int = 4000) -> Any:
    """Trains a tokenizer; text is split at white space, and decoding joins words by one space.

    Args:
      kind: "bpe" (Sennrich et al., 2016), "wordpiece" (Schuster and Nakajima, 2012) or "word", which
        has the most frequent words whole and nothing else.
      vocab_size: at most this many entries, the four special ones included.

    Raises:
      ValueError: an unknown kind, or a vocabulary too small for the special entries.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if kind not in KINDS:
        raise ValueError(f"tokenizer is {kind!r}, allowed: {', '.join(KINDS)}")
    if vocab_size <= len(SPECIAL):
        raise ValueError(f"vocab_size is {vocab_size}, allowed: above {len(SPECIAL)}")
    options: dict[str, Any] = {
        "vocab_size": vocab_size,
        "special_tokens": list(SPECIAL),
        "show_progress": False,
    }
    if kind == "bpe":
        # The end of a word is marked, so that decoding knows where spaces go.
        core = Tokenizer(models.BPE(unk_token=UNK, end_of_word_suffix="</w>"))
        trainer: Any = trainers.BpeTrainer(end_of_word_suffix="</w>", **options)
        core.decoder = decoders.BPEDecoder(suffix="</w>")
    elif kind == "wordpiece":
        core = Tokenizer(models.WordPiece(unk_token=UNK))
        trainer = trainers.WordPieceTrainer(**options)
        core.decoder = decoders.WordPiece(cleanup=False)
    else:
        core = Tokenizer(models.WordLevel(unk_token=UNK))
        trainer = trainers.WordLevelTrainer(**options)
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


def load(folder: str | pathlib.Path) -> Any:
    """The tokenizer of a local folder.

    Raises:
      ConfigError: no folder, or nothing in it that transformers can read.
    """
    from transformers import AutoTokenizer

    if not pathlib.Path(folder).is_dir():
        raise ConfigError("tokenizer", str(folder), "an existing folder")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as e:
        reason = str(e).splitlines()[0]
        raise ConfigError("tokenizer", str(folder), f"a tokenizer's folder ({reason})") from e


def special_ids(tokenizer: Any) -> tuple[int, int, int]:
    """(begin, end, padding): what a tokenizer has, or the nearest it has.

    BERT's begin and end are [CLS] and [SEP]; GPT-2 has one token for all three.
    """
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    begin = tokenizer.cls_token_id if begin is None else begin
    end = tokenizer.sep_token_id if end is None else end
    begin = end if begin is None else begin
    pad = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return begin, end, pad


def encode(
    tokenizer: Any, lines: Sequence[str], max_tokens: int, *, begin: bool = False
) -> tuple[Int[ndarray, "N T"], Int[ndarray, " N"]]:
    """Ids of each line, then the end token, then padding; and how many are real.

    Args:
      max_tokens: T, the end token included; longer lines are cut and still end with it.
      begin: put the begin token first.
    """
    first, end, pad = special_ids(tokenizer)
    out = np.full((len(lines), max_tokens), pad, np.int32)
    lengths = np.zeros(len(lines), np.int32)
    ids = tokenizer(list(lines), add_special_tokens=False)["input_ids"] if len(lines) else []
    room = max_tokens - 1 - begin
    for row, line in enumerate(ids):
        whole = [first] * begin + list(line[:room]) + [end]
        out[row, : len(whole)] = whole
        lengths[row] = len(whole)
    return out, lengths


def decode(tokenizer: Any, ids: Int[ndarray, "N T"]) -> list[str]:
    """Text of each row up to its first end token, special tokens left out."""
    _, end, _ = special_ids(tokenizer)
    rows = []
    for row in np.asarray(ids).tolist():
        rows.append(row[: row.index(end)] if end in row else row)
    return [t.strip() for t in tokenizer.batch_decode(rows, skip_special_tokens=True)]
