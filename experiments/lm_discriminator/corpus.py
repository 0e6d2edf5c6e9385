"""Sentences of two styles as tokens, from a config: a cipher's two sides, or two sentiments."""

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
from jaxgen.data.tokens import TokenIds, TokenShape
from jaxgen.errors import ConfigError
from jaxgen.evaluators.attributes import disjoint_halves
from jaxgen.text import tokenizers

STYLES: dict[str, tuple[str, str]] = {
    "decipher": ("plain", "enciphered"),
    "sentiment": corpora.SENTIMENTS,
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
      judged: sentences that only judges are trained on; none for a cipher, whose truth is known.
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
        sides = _decipher(config) if config.task == "decipher" else _sentiments(config)
    parts, puzzle = sides
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
