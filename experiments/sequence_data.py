"""Text and proteins as tokens, ready for encoder and decoder."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from jaxgen.config import Config
from jaxgen.data import proteins, text
from jaxgen.errors import ConfigError
from jaxgen.text import tokenizers


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Sizes and special ids of what encoder (source) and decoder (target) read.

    `decode` turns target ids [N, T] into text; None where only shapes are known. `encode` turns text into
    the tokens of a `Part`; None but for text.
    """

    size: int
    source_size: int
    length: int
    begin: int
    end: int
    hide: int
    source_pad: int
    decode: Callable[[Any], list[str]] | None = None
    encode: Callable[[Sequence[str]], dict[str, Int[np.ndarray, "N T"]]] | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """One split: text, its tokens, and labels or values where there are any."""

    text: list[str]
    x: dict[str, Int[np.ndarray, "N T"]]
    vocabulary: Vocabulary
    label: Any = None
    value: Any = None

    def __len__(self) -> int:
        return len(self.text)


def load(config: Config, workdir: pathlib.Path) -> dict[str, Part]:
    """Train, valid and test sequences of `config.data`, as tokens.

    A trained tokenizer is kept in the workdir and read from there the next time.
    """
    return _load_proteins(config) if config.data.kind == "proteins" else _load_text(config, workdir)


def _check_parts(parts: Mapping[str, text.Lines | proteins.Proteins]) -> None:
    for split, part in parts.items():
        if split != "valid" and len(part) < 10:
            raise ConfigError("data", len(part), f"at least 10 sequences in the {split} split")


def _load_text(config: Config, workdir: pathlib.Path) -> dict[str, Part]:
    d = config.data
    lines = text.load(
        d.source,
        path=d.path,
        name=d.name,
        train=d.train,
        test=d.test,
        text_field=d.text_field,
        label_field=d.label_field,
        valid_fraction=d.valid_fraction,
        test_fraction=d.test_fraction,
        limit=d.limit,
        max_words=d.max_words,
        seed=d.seed,
    )
    _check_parts(lines)
    label = lines["train"].label
    if label is not None and len(np.unique(label)) < 2:
        raise ConfigError("data.label_field", d.label_field, "a column of two labels or more")
    target, source = _tokenizers(config, workdir, lines["train"].text)
    begin, end, _ = tokenizers.special_ids(target)
    vocabulary = Vocabulary(
        size=len(target),
        source_size=len(source),
        length=d.max_tokens,
        begin=begin,
        end=end,
        hide=end if target.unk_token_id is None else target.unk_token_id,
        source_pad=tokenizers.special_ids(source)[2],
        decode=functools.partial(tokenizers.decode, target),
        encode=functools.partial(_encode, target, source, d.max_tokens),
    )
    out = {}
    for split, part in lines.items():
        x = _encode(target, source, d.max_tokens, part.text)
        # What the tokens say: text cut at max_tokens is compared with what can be said.
        told = tokenizers.decode(target, x["target"])
        out[split] = Part(told, x, vocabulary, part.label)
    return out


def _tokenizers(config: Config, workdir: pathlib.Path, texts: Sequence[str]) -> tuple[Any, Any]:
    """(decoder's, encoder's): from folders where the config names some, else trained on the texts."""
    d, m = config.data, config.model
    if m.decoder_path:
        target = tokenizers.load(m.decoder_path)
    elif d.tokenizer not in tokenizers.KINDS:
        target = tokenizers.load(d.tokenizer)
    else:
        target = kept_tokenizer(config, workdir, texts)
    return target, tokenizers.load(m.encoder_path) if m.encoder_path else target


def kept_tokenizer(config: Config, workdir: pathlib.Path, texts: Sequence[str]) -> Any:
    """The tokenizer of a workdir, trained on the texts the first time."""
    folder = workdir / "tokenizer"
    if folder.is_dir():
        return tokenizers.load(folder)
    d = config.data
    trained = tokenizers.train(texts, kind=d.tokenizer, vocab_size=d.vocab_size)
    if jax.process_index() == 0:
        trained.save_pretrained(folder)
    return trained


def _encode(
    target: Any, source: Any, max_tokens: int, lines: Sequence[str]
) -> dict[str, Int[np.ndarray, "N T"]]:
    ids, _ = tokenizers.encode(target, lines, max_tokens)
    if source is target:
        return {"source": ids, "target": ids}
    return {"source": tokenizers.encode(source, lines, max_tokens, begin=True)[0], "target": ids}


def _load_proteins(config: Config) -> dict[str, Part]:
    d = config.data
    parts = proteins.load(
        d.source,
        path=d.path,
        train=d.train[0] if d.train else "",
        test=d.test[0] if d.test else "",
        sequence_field=d.text_field,
        value_field=d.label_field,
        alphabet=d.alphabet,
        valid_fraction=d.valid_fraction,
        test_fraction=d.test_fraction,
        limit=d.limit,
    )
    _check_parts(parts)
    everything = [s for part in parts.values() for s in part.text]
    letters = proteins.Alphabet.of(everything)
    length = max(map(len, everything))
    if max(config.model.eisl_ngrams) > length:
        allowed = f"n-grams of at most {length} letters, as the sequences"
        raise ConfigError("model.eisl_ngrams", config.model.eisl_ngrams, allowed)
    vocabulary = Vocabulary(
        size=len(letters),
        source_size=len(letters),
        length=length,
        begin=proteins.PAD,
        end=proteins.PAD,
        hide=proteins.PAD,
        source_pad=proteins.PAD,
        decode=letters.decode,
    )
    mean, std = parts["train"].value.mean(), max(parts["train"].value.std(), 1e-6)
    out = {}
    for split, part in parts.items():
        ids = letters.encode(part.text, length)
        x = {"source": ids, "target": ids}
        values = part.value
        classes = set(np.unique(values)) <= {0.0, 1.0}
        label = values.astype(np.int32) if classes else None
        out[split] = Part(part.text, x, vocabulary, label, (values - mean) / std)
    return out


def take_rows(part: Part, count: int) -> Part:
    """At most `count` rows, evenly spread."""
    if count >= len(part):
        return part
    index = np.linspace(0, len(part) - 1, count).round().astype(int)
    return Part(
        [part.text[i] for i in index],
        {k: a[index] for k, a in part.x.items()},
        part.vocabulary,
        None if part.label is None else part.label[index],
        None if part.value is None else part.value[index],
    )
