"""Sentences of two styles as tokens, from a config: a cipher's two sides, two sentiments, or two related languages."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from experiments.common.text import sentences
from experiments.common.tokenizers import check_kind, kept_tokenizer, token_shape
from jaxgen.config import Config
from jaxgen.data import cipher, corpora, kept, text
from jaxgen.data.lines import read_lines
from jaxgen.data.root import expand
from jaxgen.data.tokens import TokenIds, TokenShape
from jaxgen.errors import ConfigError
from jaxgen.evaluators.attributes import disjoint_halves
from jaxgen.text import tokenizers

STYLES: dict[str, tuple[str, str]] = {
    "decipher": ("plain", "enciphered"),
    "sentiment": corpora.SENTIMENTS,
    "related": ("first language", "second language"),
}


@dataclasses.dataclass(frozen=True)
class Part:
    """Sentences of one style that are moved to the other.

    Attributes:
      reference: what they should become; None where nobody knows.
    """

    text: list[str]
    ids: TokenIds
    reference: list[str] | None = None

    def take(self, count: int) -> "Part":
        """The first rows."""
        reference = None if self.reference is None else self.reference[:count]
        return Part(self.text[:count], self.ids[:count], reference)


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Both styles; pairs of things are of style 0 and style 1.

    Attributes:
      train: what systems are trained on.
      judged: sentences that only judges are trained on; none where the truth is known.
      puzzle: the cipher, where there is one.
      read: how much of the sentences the tokens are, by split.
      left_out: rows that were lost on the way, by reason.
    """

    shape: TokenShape
    tokenizer: Any
    names: tuple[str, str]
    train: tuple[Part, Part]
    valid: tuple[Part, Part]
    test: tuple[Part, Part]
    judged: tuple[Part, Part] | None
    puzzle: cipher.Decipherment | None
    read: dict[str, kept.Kept]
    left_out: dict[str, int]

    def decode(self, ids: Int[np.ndarray, "N T"]) -> list[str]:
        """Text of tokens."""
        return tokenizers.decode(self.tokenizer, ids)

    def encode(self, lines: Sequence[str]) -> TokenIds:
        """Tokens of text, cut at the corpus' length."""
        return tokenizers.encode(self.tokenizer, lines, self.shape.length)[0]

    def arrays(self) -> dict[str, TokenIds]:
        """Rows of both styles for batches; the smaller side is repeated."""
        sides = [part.ids for part in self.train]
        rows = max(map(len, sides))
        return {str(i): np.resize(side, (rows, side.shape[1])) for i, side in enumerate(sides)}


def load(config: Config, workdir: pathlib.Path) -> Corpus:
    """Reads, enciphers and splits; the tokenizer is of whole words and kept in the workdir."""
    check_kind(config)
    with kept.tally() as left_out:
        parts, puzzle = SIDES[config.task](config)
    known = [line for side in parts["train"] for line in side[0]]
    tokenizer = kept_tokenizer(config, workdir, known)
    shape = token_shape(tokenizer, config.data.max_tokens)
    made: dict[str, tuple[Part, Part]] = {}
    read = {}
    for name, (first, second) in parts.items():
        made[name] = _part(tokenizer, shape, *first), _part(tokenizer, shape, *second)
        lengths = [len(line.split()) for line in first[0] + second[0]]
        read[name] = kept.of_lengths([lengths], [tokenizers.room(shape.length)])
    return Corpus(
        shape=shape,
        tokenizer=tokenizer,
        names=STYLES[config.task],
        train=made["train"],
        valid=made["valid"],
        test=made["test"],
        judged=made.get("judged"),
        puzzle=puzzle,
        read=read,
        left_out=dict(left_out),
    )


def _part(tokenizer: Any, shape: TokenShape, lines: list[str], reference: list[str] | None) -> Part:
    return Part(lines, tokenizers.encode(tokenizer, lines, shape.length)[0], reference)


Sides = list[tuple[list[str], list[str] | None]]


def _decipher(config: Config) -> tuple[dict[str, Sides], cipher.Decipherment]:
    d = config.data
    puzzle = cipher.decipherment(
        sentences(config),
        vocabulary=d.words,
        share=d.share,
        train=d.train_rows,
        valid=d.valid_rows,
        test=d.test_rows,
        max_words=d.max_words,
        seed=d.seed,
    )
    pairs = {"valid": puzzle.valid, "test": puzzle.test}
    train: Sides = [(puzzle.plain, None), (puzzle.cipher, None)]
    both: dict[str, Sides] = {
        name: [(plain, secret), (secret, plain)] for name, (plain, secret) in pairs.items()
    }
    return {"train": train, **both}, puzzle


def _sentiments(config: Config) -> tuple[dict[str, Sides], None]:
    d = config.data
    parts = text.load(
        d.source,
        path=d.path,
        train=d.train,
        test=d.test,
        valid_fraction=0.05,
        test_fraction=0.1,
        limit=d.limit,
        max_words=d.max_words,
        seed=d.seed,
    )
    train = parts["train"]
    if train.label is None or set(np.unique(train.label)) != {0, 1}:
        raise ConfigError(
            "data.train", tuple(d.train), "two files, of negative and positive sentences"
        )
    mine, judges = disjoint_halves(len(train))
    parts |= {"train": train.take(mine), "judged": train.take(judges)}
    rows = {"valid": d.valid_rows, "test": d.test_rows}

    def side(name: str, style: int) -> tuple[list[str], None]:
        part = parts[name]
        if part.label is None:
            raise ConfigError("data", name, "a split with labels")
        found = [part.text[int(i)] for i in np.flatnonzero(part.label == style)]
        if not found:
            raise ConfigError("data", name, "a split with sentences of both styles")
        return list(dict.fromkeys(found))[: rows.get(name)], None

    return {name: [side(name, 0), side(name, 1)] for name in parts}, None


def _related(config: Config) -> tuple[dict[str, Sides], None]:
    """Two files without pairs to train on; two with a translation a line, the first of which are for validation."""
    d = config.data
    root = pathlib.Path(expand(d.path))

    def fits(line: str) -> bool:
        return 0 < len(line.split()) <= d.max_words

    train: Sides = []
    for name in d.train:
        found = [t for t in text.read_files(root, (name,)).text[: d.limit or None] if fits(t)]
        if not found:
            raise ConfigError("data.train", name, f"a file with sentences of {d.max_words} words")
        train.append((list(dict.fromkeys(found))[: d.train_rows], None))
    first, second = ([" ".join(t.split()) for t in read_lines(root / name)] for name in d.test)
    if len(first) != len(second):
        allowed = "two files of as many lines, each the translation of the other's"
        raise ConfigError("data.test", f"{len(first)} and {len(second)} lines", allowed)
    pairs = [pair for pair in zip(first, second, strict=True) if all(map(fits, pair))]
    if len(pairs) <= d.valid_rows:
        allowed = f"more than data.valid_rows, {d.valid_rows}, of at most {d.max_words} words"
        raise ConfigError("data.test", f"{len(pairs)} pairs", allowed)
    parts: dict[str, Sides] = {"train": train}
    for name, cut in (
        ("valid", pairs[: d.valid_rows]),
        ("test", pairs[d.valid_rows :][: d.test_rows]),
    ):
        a, b = [x for x, _ in cut], [y for _, y in cut]
        parts[name] = [(a, b), (b, a)]
    return parts, None


SIDES = {"decipher": _decipher, "sentiment": _sentiments, "related": _related}
