"""Tokenizers: load one from a local folder or GGUF file, or train one on a corpus and save it.

All are `transformers.PreTrainedTokenizerFast` over the `tokenizers` library, so a folder written here
opens with `AutoTokenizer` and the other way round. Text is data: what spells a special token in it, such
as `</s>` or `[SEP]`, is read as any other text. Code that a folder brings is never run.
"""

import functools
import hashlib
import json
import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from jaxgen.errors import ConfigError
from jaxgen.text import gguf, merges

# transformers.PreTrainedTokenizerBase, a module that takes seconds to import.
Tokenizer: TypeAlias = Any
KINDS = ("bpe", "wordpiece", "word")
# Ids 0 to 3 of trained tokenizers. The spaces keep them apart from every word that a text may hold.
PAD, UNK, BOS, EOS = "< pad >", "< unk >", "< s >", "< /s >"
SPECIAL = (PAD, UNK, BOS, EOS)
UNKNOWN_WORD = merges.UNKNOWN  # a word that tokenizers trained here read as one unknown token
# How corpora spell special tokens: words like others here, known even if the training text has none of
# them, as far as there is room.
MARKERS = (
    *("<pad>", "<unk>", "<s>", "</s>", "<mask>", "<|endoftext|>"),
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
)
JSON_FILES = ("tokenizer.json", "tokenizer_config.json", "config.json")
_HIDDEN = "\uffff\ufffe"  # before the name of a special token where text is read


def train(lines: Iterable[str], *, kind: str = "bpe", vocab_size: int = 4000) -> Tokenizer:
    """Trains a tokenizer; text is split at white space, and decoding joins words by one space.

    The same lines, in any order, give the same tokenizer in every process.

    Args:
      kind: "bpe" (Sennrich et al., 2016), "wordpiece" (Schuster and Nakajima, 2012) or "word", which
        has the most frequent words whole and nothing else.
      vocab_size: at most this many entries, the four special ones included.

    Raises:
      ValueError: an unknown kind, or a vocabulary too small for the special entries.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if kind not in KINDS:
        raise ValueError(f"tokenizer is {kind!r}, allowed: {', '.join(KINDS)}")
    if vocab_size <= len(SPECIAL):
        raise ValueError(f"vocab_size is {vocab_size}, allowed: above {len(SPECIAL)}")
    white_space, room = pre_tokenizers.WhitespaceSplit(), vocab_size - len(SPECIAL)
    counts = Counter(dict.fromkeys(MARKERS, 0))
    for line in lines:
        counts.update(word for word, _ in white_space.pre_tokenize_str(_whole(line)))

    def ids(entries: list[str]) -> dict[str, int]:
        return {entry: i for i, entry in enumerate([*SPECIAL, *entries])}

    if kind == "bpe":
        entries, pairs = merges.byte_pairs(room, counts)
        # The end of a word is marked, so that decoding knows where spaces go.
        end = merges.WORD_END
        core = Tokenizer(models.BPE(ids(entries), pairs, unk_token=UNK, end_of_word_suffix=end))
        core.decoder = decoders.BPEDecoder(suffix=end)
    elif kind == "wordpiece":
        pieces = ids(merges.word_pieces(room, counts))
        core = Tokenizer(
            models.WordPiece(pieces, unk_token=UNK, continuing_subword_prefix=merges.INNER)
        )
        core.decoder = decoders.WordPiece(prefix=merges.INNER, cleanup=False)
    else:
        core = Tokenizer(models.WordLevel(ids(merges.words(room, counts)), unk_token=UNK))
    core.pre_tokenizer = white_space
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
    )


def check_folder(folder: str | pathlib.Path, *, field: str = "tokenizer") -> None:
    """A quick look at a folder, before anything is loaded.

    Raises:
      ConfigError: no folder, no file of a tokenizer in it, or one of its JSON files is damaged.
    """
    folder = pathlib.Path(folder)
    if gguf.is_gguf(folder):
        gguf.reader(folder, field=field)
        return
    if not os.path.isdir(folder):  # pathlib raises where a name is too long
        raise ConfigError(field, str(folder), "an existing folder")
    patterns = ("tokenizer*.json", "vocab*", "*.model", "*.tiktoken")
    if not any(p.is_file() for pattern in patterns for p in folder.glob(pattern)):
        raise ConfigError(field, str(folder), "a tokenizer's folder (there is no tokenizer.json)")
    for name in JSON_FILES:
        if (folder / name).exists():
            try:
                whole = isinstance(json.loads((folder / name).read_text("utf-8")), dict)
            except (OSError, ValueError, RecursionError) as e:
                reason = f"a tokenizer's folder ({name}: {e})"
                raise ConfigError(field, str(folder), reason) from e
            if not whole:
                raise ConfigError(field, str(folder), f"a tokenizer's folder ({name}: no object)")


def load(folder: str | pathlib.Path, *, field: str = "tokenizer") -> Tokenizer:
    """The tokenizer of a local folder, or of a GGUF file.

    Args:
      folder: or the path of a GGUF file, see `jaxgen.text.gguf`.
      field: that named the folder, for errors.

    Raises:
      ConfigError: no folder, nothing in it that transformers can read, code of its own that would have to
        be run (`auto_map`), or no token that could end a text.
    """
    if gguf.is_gguf(folder):
        tokenizer = gguf.tokenizer(folder, field=field)
        _special_ids(tokenizer, field)
        return tokenizer
    from transformers import AutoTokenizer
    from transformers.utils import logging

    check_folder(folder, field=field)
    loud = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as e:  # damaged files raise nearly anything; the Rust side a bare Exception
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        files = [pathlib.Path(folder) / name for name in JSON_FILES[1:]]
        if any("auto_map" in json.loads(f.read_text("utf-8")) for f in files if f.exists()):
            reason = "it needs code of its own, named by auto_map, which is never run"
        raise ConfigError(field, str(folder), f"a tokenizer's folder ({reason})") from e
    finally:
        logging.set_verbosity(loud)
    _special_ids(tokenizer, field)
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ConfigError(field, str(folder), "a tokenizer's folder (its vocabulary is empty)")
    return tokenizer


def special_ids(tokenizer: Tokenizer) -> tuple[int, int, int]:
    """(begin, end, padding): what a tokenizer has, or the nearest it has.

    BERT's begin and end are [CLS] and [SEP]; GPT-2 has one token for all three.

    Raises:
      ConfigError: it has no token that could end a text.
    """
    return _special_ids(tokenizer, "tokenizer")


def _special_ids(tokenizer: Tokenizer, field: str) -> tuple[int, int, int]:
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    pad = tokenizer.pad_token_id
    begin = tokenizer.cls_token_id if begin is None else begin
    end = tokenizer.sep_token_id if end is None else end
    if end is None:
        want = "one with an end token (eos_token or sep_token)"
        want += " and a padding token (pad_token)" if pad is None else ""
        raise ConfigError(field, tokenizer.name_or_path or type(tokenizer).__name__, want)
    return end if begin is None else begin, end, end if pad is None else pad


def tokens(tokenizer: Tokenizer, lines: Sequence[str]) -> list[list[int]]:
    """Ids of each line and nothing else; but for the unknown token, none of them is a special one.

    Raises:
      ConfigError: the tokenizer has no unknown token and meets a word that it does not know.
    """
    lines = [_whole(line) for line in lines]
    core = _core(tokenizer, len(tokenizer))
    if core is not None:
        try:
            return [e.ids for e in core.encode_batch_fast(lines, add_special_tokens=False)]
        except Exception as e:  # of the Rust side, which has no class of its own
            name = tokenizer.name_or_path or type(tokenizer).__name__
            raise ConfigError("tokenizer", name, f"one with an unknown token ({e})") from e
    options = {"add_special_tokens": False, "split_special_tokens": True}
    ids = tokenizer(lines, **options)["input_ids"] if lines else []
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return [[i for i in line if i not in special] for line in ids]


def _whole(line: str) -> str:
    """The line; half a surrogate pair, which JSON can hold and UTF-8 cannot, becomes U+FFFD."""
    try:
        line.encode()
    except UnicodeEncodeError:
        return line.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return line


@functools.lru_cache(maxsize=8)
def _core(tokenizer: Tokenizer, size: int) -> Any:
    """A copy of the fast tokenizer in which special tokens have names that no text spells.

    To read special tokens as text (`split_special_tokens`) is not enough: their names are entries of
    the vocabulary too, and a model that looks up whole words or pieces finds them there. None for
    tokenizers in Python.

    Args:
      size: of the tokenizer, which may grow.
    """
    from tokenizers import Tokenizer

    if not tokenizer.is_fast:
        return None
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state |= {"truncation": None, "padding": None, "post_processor": None}
    ids = set(tokenizer.all_special_ids)
    added, model = state["added_tokens"], state["model"]
    special = {t["content"] for t in added if t["special"] or t["id"] in ids}
    special |= set(tokenizer.convert_ids_to_tokens(sorted(ids)))
    hide = {name: _HIDDEN + name for name in special}
    for token in added:
        if token["content"] in hide:
            token |= {"content": hide[token["content"]], "special": True, "normalized": False}
    if isinstance(model["vocab"], dict):
        model["vocab"] = {hide.get(name, name): i for name, i in model["vocab"].items()}
    else:  # pieces and their scores
        model["vocab"] = [[hide.get(name, name), *rest] for name, *rest in model["vocab"]]
    if model.get("unk_token"):
        model["unk_token"] = hide.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        pairs = [tuple(m.split(" ") if isinstance(m, str) else m) for m in model["merges"]]
        model["merges"] = [(a, b) for a, b in pairs if special.isdisjoint((a, b, a + b))]
    core = Tokenizer.from_str(json.dumps(state))
    core.encode_special_tokens = True
    return core


def encode(
    tokenizer: Tokenizer, lines: Sequence[str], max_tokens: int, *, begin: bool = False
) -> tuple[Int[ndarray, "N T"], Int[ndarray, " N"]]:
    """Ids of each line, then the end token, then padding; and how many are real.

    Args:
      max_tokens: T, the end token included; longer lines are cut and still end with it.
      begin: put the begin token first.

    Raises:
      ValueError: no room for the begin and end tokens.
    """
    return pad(tokenizer, tokens(tokenizer, lines), max_tokens, begin=begin)


def room(max_tokens: int, *, begin: bool = False) -> int:
    """Tokens of a text that fit beside its end token, and its begin token where it has one.

    Raises:
      ValueError: not even these two fit.
    """
    if max_tokens < 1 + begin:
        raise ValueError(f"max_tokens is {max_tokens}, allowed: {1 + begin} or more")
    return max_tokens - 1 - begin


def pad(
    tokenizer: Tokenizer, ids: Sequence[list[int]], max_tokens: int, *, begin: bool = False
) -> tuple[Int[ndarray, "N T"], Int[ndarray, " N"]]:
    """`encode` of lines whose tokens are known."""
    first, end, padding = special_ids(tokenizer)
    fit = room(max_tokens, begin=begin)
    out = np.full((len(ids), max_tokens), padding, np.int32)
    lengths = np.zeros(len(ids), np.int32)
    for row, line in enumerate(ids):
        whole = [first] * begin + line[:fit] + [end]
        out[row, : len(whole)] = whole
        lengths[row] = len(whole)
    return out, lengths


def decode(tokenizer: Tokenizer, ids: Int[ndarray, "N T"]) -> list[str]:
    """Text of each row up to its first end token, special tokens left out."""
    _, end, _ = special_ids(tokenizer)
    rows = []
    for row in np.asarray(ids).tolist():
        rows.append(row[: row.index(end)] if end in row else row)
    texts = tokenizer.batch_decode(
        rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    # Some put a space before every text and leave it there.
    extra = " " if tokenizer.decode(tokens(tokenizer, ["a"])[0])[:1] == " " else ""
    return [t.removeprefix(extra) for t in texts]


def digest(tokenizer: Tokenizer) -> str:
    """SHA-256 of all that decides which ids a text has."""
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        kept = {k: v for k, v in state.items() if k not in ("version", "truncation", "padding")}
    else:
        kept = {"class": type(tokenizer).__name__, "vocab": tokenizer.get_vocab()}
    names = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
    whole = json.dumps([kept, *map(str, names)], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()
