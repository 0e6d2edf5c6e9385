"""Sequences as tokens, ready for encoder and decoder: sizes, special ids, splits."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from jaxgen.data import kept

TokenIds = Int[np.ndarray, "N T"]


@dataclasses.dataclass(frozen=True)
class TokenShape:
    """Sizes and special ids of what an encoder (source) and a decoder (target) read.

    Attributes:
      size: of the decoder's vocabulary; `source_size` of the encoder's.
      length: T, of a sequence in tokens at most.
      begin: id that the decoder begins with; `end` is that of the end token, or of the padding that follows
        a sequence.
      unknown: id of words that have none.
      source_pad: id of padding in sources.
    """

    size: int
    source_size: int
    length: int
    begin: int
    end: int
    unknown: int
    source_pad: int


@dataclasses.dataclass(frozen=True)
class Vocabulary(TokenShape):
    """A `TokenShape` with its words.

    Attributes:
      decode: target ids [N, T] -> text.
      encode: text -> the tokens of a `TextSplit`, by side.
    """

    decode: Callable[[TokenIds], list[str]]
    encode: Callable[[Sequence[str]], dict[str, TokenIds]]


@dataclasses.dataclass(frozen=True)
class TextSplit:
    """One split: text, its tokens, and labels or values where there are any.

    Attributes:
      x: {"source": what the encoder reads, "target": what the decoder writes}.
      read: how much of the texts the tokens are.
      left_out: rows that the whole data set lost on the way, by reason.
    """

    text: list[str]
    x: dict[str, TokenIds]
    vocabulary: Vocabulary
    label: Int[np.ndarray, " N"] | None = None
    value: Float[np.ndarray, " N"] | None = None
    read: kept.Kept | None = None
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.text)

    def take(self, count: int) -> "TextSplit":
        """At most `count` rows, evenly spread."""
        if count >= len(self):
            return self
        index = np.linspace(0, len(self) - 1, count).round().astype(int)
        return dataclasses.replace(
            self,
            text=[self.text[i] for i in index],
            x={k: a[index] for k, a in self.x.items()},
            label=None if self.label is None else self.label[index],
            value=None if self.value is None else self.value[index],
        )


def about_cuts(data: Mapping[str, TextSplit]) -> str:
    """How much was cut and left out, for a report."""
    known = {name: part.read for name, part in data.items() if part.read is not None}
    return kept.line(known, data["train"].left_out)
