"""Text and proteins of a config as tokens, ready for encoder and decoder."""

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from experiments.common import tokenizers as stored
from jaxgen.config import Config
from jaxgen.data import corpora, kept, proteins, text
from jaxgen.data.root import expand
from jaxgen.data.tokens import TextSplit, Vocabulary
from jaxgen.errors import ConfigError
from jaxgen.text import tokenizers


def load(config: Config, workdir: pathlib.Path) -> dict[str, TextSplit]:
    """Train, valid and test sequences of `config.data`, as tokens.

    A trained tokenizer is kept in the workdir and read from there the next time.
    """
    return _load_proteins(config) if config.data.kind == "proteins" else _load_text(config, workdir)


def sentences(config: Config) -> list[str]:
    """Unlabelled sentences of `config.data`: of the grammar (a skewed one), the standard library's prose, or files."""
    d = config.data
    if d.source == "grammar":
        return [r.text for r in corpora.grammar(d.limit, seed=d.seed, skew=d.skew)]
    if d.source == "english":
        return corpora.english()
    return text.read_files(pathlib.Path(expand(d.path)), d.train).text[: d.limit or None]


def _check_parts(parts: Mapping[str, text.Lines | proteins.Proteins]) -> None:
    for split, part in parts.items():
        if split != "valid" and len(part) < 10:
            raise ConfigError("data", len(part), f"at least 10 sequences in the {split} split")


def _load_text(config: Config, workdir: pathlib.Path) -> dict[str, TextSplit]:
    d = config.data
    for field, folder in _folders(config).items():
        if field == "data.tokenizer" and not os.path.isdir(folder):
            kinds = ", ".join(tokenizers.KINDS)
            raise ConfigError(field, folder, f"one of {kinds}, or an existing folder")
        tokenizers.check_folder(folder, field=field)
    with kept.tally() as left_out:
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
        unknown=end if target.unk_token_id is None else target.unk_token_id,
        source_pad=tokenizers.special_ids(source)[2],
        decode=functools.partial(tokenizers.decode, target),
        encode=functools.partial(_encode, target, source, d.max_tokens),
    )
    out = {}
    for split, part in lines.items():
        x, whole = _tokens(target, source, d.max_tokens, part.text)
        # What the tokens say: text cut at max_tokens is compared with what can be said.
        told = tokenizers.decode(target, x["target"])
        out[split] = TextSplit(told, x, vocabulary, part.label, read=whole, left_out=left_out)
    return out


def _folders(config: Config) -> dict[str, str]:
    """{field: folder} of the tokenizers that the config names; the first may be the decoder's."""
    d, m = config.data, config.model
    named = {"model.decoder_path": m.decoder_path, "model.encoder_path": m.encoder_path}
    if not m.decoder_path and d.tokenizer not in tokenizers.KINDS:
        named["data.tokenizer"] = d.tokenizer
    return {field: folder for field, folder in named.items() if folder}


def _tokenizers(config: Config, workdir: pathlib.Path, texts: Sequence[str]) -> tuple[Any, Any]:
    """(decoder's, encoder's): from folders where the config names some, else trained on the texts."""
    named = _folders(config)
    load_named = functools.partial(stored.named_tokenizer, workdir)
    for field in ("model.decoder_path", "data.tokenizer"):
        if field in named:
            target = load_named(field, named[field])
            break
    else:
        target = stored.kept_tokenizer(config, workdir, texts)
    field = "model.encoder_path"
    return target, load_named(field, named[field]) if field in named else target


def _encode(
    target: Any, source: Any, max_tokens: int, lines: Sequence[str]
) -> dict[str, Int[np.ndarray, "N T"]]:
    return _tokens(target, source, max_tokens, lines)[0]


def _tokens(
    target: Any, source: Any, max_tokens: int, lines: Sequence[str]
) -> tuple[dict[str, Int[np.ndarray, "N T"]], kept.Kept]:
    """What encoder and decoder see of lines, and how much that is."""
    ids = tokenizers.tokens(target, lines)
    sides, rooms = [list(map(len, ids))], [tokenizers.room(max_tokens)]
    written = read = tokenizers.pad(target, ids, max_tokens)[0]
    if source is not target:
        ids = tokenizers.tokens(source, lines)
        read = tokenizers.pad(source, ids, max_tokens, begin=True)[0]
        sides.append(list(map(len, ids)))
        rooms.append(tokenizers.room(max_tokens, begin=True))
    return {"source": read, "target": written}, kept.of_lengths(sides, rooms)


def _load_proteins(config: Config) -> dict[str, TextSplit]:
    d = config.data
    with kept.tally() as left_out:
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
        unknown=proteins.PAD,
        source_pad=proteins.PAD,
        decode=letters.decode,
        encode=lambda lines: dict.fromkeys(("source", "target"), letters.encode(lines, length)),
    )
    value = parts["train"].value.astype(np.float64)  # sums of large values overflow in float32
    mean, std = float(value.mean()), max(float(value.std()), 1e-6)
    out = {}
    for split, part in parts.items():
        x = vocabulary.encode(part.text)
        values = part.value
        classes = set(np.unique(values)) <= {0.0, 1.0}
        label = values.astype(np.int32) if classes else None
        value = (values - mean) / std
        whole = kept.of_lengths([list(map(len, part.text))], [length])
        out[split] = TextSplit(part.text, x, vocabulary, label, value, whole, left_out)
    return out
