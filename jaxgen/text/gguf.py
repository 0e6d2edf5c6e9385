"""What a GGUF file says beside its weights, and the tokenizer in it.

GGUF is llama.cpp's format: metadata by name, then tensors. PyPI's `gguf` (extra `gguf`) reads it; nothing
in it is run. Source: the format's description in ggml-org/ggml, docs/gguf.md; which pre-tokenizer a name
means: ggml-org/llama.cpp, src/llama-vocab.cpp.
"""

import functools
import os
import pathlib
from typing import Any

from jaxgen.errors import ConfigError

# How GPT-2, Llama 3 and Qwen2 cut a text into words before merging bytes.
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_WORDS}|\p{{N}}|{_REST}"
# tokenizer.ggml.pre -> kind of pre-tokenizer
PRETOKENIZERS = {
    "gpt-2": "gpt2",
    "default": "gpt2",
    "smollm": "digits",
    "llama-bpe": "llama3",
    "llama3": "llama3",
    "llama-v3": "llama3",
    "qwen2": "qwen2",
}
_CONTROL, _USER_DEFINED = 3, 4  # kinds of tokens


def is_gguf(path: str | pathlib.Path) -> bool:
    """Whether a path is that of a GGUF file, by its name."""
    return pathlib.Path(path).suffix == ".gguf"


def reader(path: str | pathlib.Path, *, field: str = "folder") -> Any:
    """The open file, a `gguf.GGUFReader`; its tensors are mapped, not read.

    Args:
      field: that named the file, for errors.

    Raises:
      ConfigError: no such file, one that cannot be read, or the package `gguf` is not there.
    """
    path = pathlib.Path(path)
    if not os.path.isfile(path):
        raise ConfigError(field, str(path), "an existing GGUF file")
    try:
        import gguf  # noqa: F401
    except ImportError as e:
        want = "with the package gguf installed: pip install 'jaxgen[gguf]'"
        raise ConfigError(field, str(path), want) from e
    stat = path.stat()
    try:
        return _reader(str(path), stat.st_mtime_ns, stat.st_size)
    except (ValueError, IndexError, KeyError, OSError, UnicodeDecodeError) as e:
        reason = " ".join(str(e).split()) or type(e).__name__
        raise ConfigError(field, str(path), f"a readable GGUF file ({reason})") from e


@functools.lru_cache(maxsize=2)
def _reader(path: str, changed: int, size: int) -> Any:
    """Parsing the metadata takes seconds, so config, weights and tokenizer share it."""
    import gguf

    return gguf.GGUFReader(path)


def metadata(path: str | pathlib.Path, name: str, default: object = None) -> Any:
    """A value of a file's metadata, or the default where it has none of that name."""
    entry = reader(path).fields.get(name)
    return default if entry is None else entry.contents()


def tokenizer(path: str | pathlib.Path, *, field: str = "tokenizer") -> Any:
    """The tokenizer in a GGUF file, a `transformers.PreTrainedTokenizerFast`.

    Args:
      field: that named the file, for errors.

    Raises:
      ConfigError: no such file, no tokenizer in it, or one that is not a byte-level BPE with a known
        pre-tokenizer; the message names the file's field.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    reader(path, field=field)
    kind = metadata(path, "tokenizer.ggml.model")
    if kind != "gpt2":
        want = "'gpt2', a byte-level BPE: of others, name a folder with tokenizer.json"
        raise ConfigError("tokenizer.ggml.model", kind, want)
    names = metadata(path, "tokenizer.ggml.tokens", [])
    merges = [tuple(m.split(" ")) for m in metadata(path, "tokenizer.ggml.merges", [])]
    kinds = metadata(path, "tokenizer.ggml.token_type", [1] * len(names))
    if not names or len(kinds) != len(names) or any(len(m) != 2 for m in merges):
        want = "the tokens, their types and pairs of merges"
        raise ConfigError("tokenizer.ggml.tokens", len(names), want)
    pre = metadata(path, "tokenizer.ggml.pre", "default")
    vocab = {name: i for i, name in enumerate(names)}
    # Llama 3 looks a whole word up before it merges, and puts a begin token first unless told not to.
    whole = PRETOKENIZERS.get(pre) == "llama3"
    core = Tokenizer(models.BPE(vocab, merges, ignore_merges=whole))
    core.pre_tokenizer, core.normalizer = _pre_tokenizer(pre)
    core.decoder = decoders.ByteLevel()
    special = {
        f"{role}_token": names[i]
        for role, key in (
            ("bos", "bos"),
            ("eos", "eos"),
            ("unk", "unknown"),
            ("pad", "padding"),
        )
        if (i := metadata(path, f"tokenizer.ggml.{key}_token_id")) is not None
    }
    core.add_tokens(
        [
            AddedToken(n, special=k == _CONTROL, normalized=False)
            for n, k in zip(names, kinds, strict=True)
            if k in (_CONTROL, _USER_DEFINED)
        ]
    )
    if metadata(path, "tokenizer.ggml.add_bos_token", whole) and "bos_token" in special:
        _add_begin(core, special["bos_token"])
    out = PreTrainedTokenizerFast(
        tokenizer_object=core,
        clean_up_tokenization_spaces=False,
        name_or_path=str(path),
        **special,
    )
    out.chat_template = metadata(path, "tokenizer.chat_template")
    return out


def _pre_tokenizer(pre: str) -> tuple[Any, Any]:
    """(pre-tokenizer, normalizer or None) of a name."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    kind = PRETOKENIZERS.get(pre)
    if kind is None:
        want = "one of " + ", ".join(PRETOKENIZERS)
        raise ConfigError(
            "tokenizer.ggml.pre", pre, f"{want}: of others, name a tokenizer's folder"
        )
    to_bytes = functools.partial(pre_tokenizers.ByteLevel, add_prefix_space=False)
    if kind == "gpt2":
        return to_bytes(), None
    if kind == "digits":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, to_bytes()]), None
    words = pre_tokenizers.Split(Regex(_LLAMA3 if kind == "llama3" else _QWEN2), "isolated")
    steps = pre_tokenizers.Sequence([words, to_bytes(use_regex=False)])
    return steps, normalizers.NFC() if kind == "qwen2" else None


def _add_begin(core: Any, begin: str) -> None:
    """Texts begin with this token, where special tokens are added."""
    from tokenizers import processors

    core.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A",
        pair=f"{begin} $A {begin} $B",
        special_tokens=[(begin, core.token_to_id(begin))],
    )
