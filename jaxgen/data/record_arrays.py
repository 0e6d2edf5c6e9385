"""Arrays of records and sentences, over one list of words in which a model can tell what it may only copy.

    0-3        padding, begin, end, unknown
    4 to G-1   words that may be generated: frequent ones of train sentences that are nobody's value
    G to V-1   frequent values of train records: copied only; then marks, which stand in references alone
    V to V+E-1 slots, which each item fills anew with values of its own records that are not known

So a value that training never saw has an id, and can be copied as any other.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from jaxgen.data import kept
from jaxgen.data.style_records import Record, StyleRecords
from jaxgen.errors import ConfigError, require

PAD, BEGIN, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<begin>", "<end>", "<unknown>")


@dataclasses.dataclass(frozen=True)
class RecordVocabulary:
    """Words and types of a train split; see the module.

    Attributes:
      words: V of them, the generated ones first.
      generated: G, how many may be generated.
      types: of tuples; id 0 is a type that training never saw.
      slots: E, how many unknown values an item may have.
      marks: how many of the words, the last ones, are read and never written.
    """

    words: tuple[str, ...]
    generated: int
    types: tuple[str, ...]
    slots: int
    marks: int = 0
    _ids: dict[str, int] = dataclasses.field(init=False, repr=False, compare=False)
    _type_ids: dict[str, int] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ids", {w: i for i, w in enumerate(self.words)})
        object.__setattr__(self, "_type_ids", {t: i for i, t in enumerate(self.types)})

    @classmethod
    def build(
        cls,
        train: StyleRecords,
        *,
        min_count: int = 2,
        slots: int = 16,
        marks: Sequence[str] = (),
    ) -> "RecordVocabulary":
        """Of a train split alone.

        Args:
          min_count: words and values that occur less often are unknown, so that slots are trained too.
          marks: words that are read and never written, such as those of
            `jaxgen.text.templates.without_values`.
        """
        require("min_count", min_count >= 1, min_count, "at least 1")
        require("slots", slots >= 0, slots, "0 or more")
        values = collections.Counter(f.value for x in train.x for f in x)
        words = collections.Counter(w for y in train.y_aux for w in y.split())
        frequent = lambda c: [w for w, n in c.most_common() if n >= min_count]  # noqa: E731
        generated = [
            *SPECIAL,
            *(w for w in frequent(words) if w not in values and w not in SPECIAL),
        ]
        copied = [v for v in frequent(values) if v not in SPECIAL]
        extra = [m for m in dict.fromkeys(marks) if m not in (*generated, *copied)]
        types = ("<unknown>", *sorted({f.type for x in train.x for f in x}))
        every = (*generated, *copied, *extra)
        return cls(every, len(generated), types, slots, len(extra))

    @property
    def said(self) -> int:
        """How many of the words may stand in a sentence that is written: all but the marks."""
        return len(self.words) - self.marks

    def __len__(self) -> int:
        return len(self.words)

    def unknown_values(self, x: Record, x_ref: Record = ()) -> tuple[str, ...]:
        """An item's values that have no id, in the order of their slots.

        Raises:
          ConfigError: more of them than there are slots.
        """
        unknown = [f.value for f in (*x, *x_ref) if f.value not in self._ids]
        names = tuple(dict.fromkeys(unknown))
        if len(names) > self.slots:
            allowed = f"at most {self.slots} values that training did not see"
            raise ConfigError("a record", " ".join(names), allowed)
        return names

    def arrays(
        self, part: StyleRecords, *, tuples: int = 0, words: int = 0
    ) -> dict[str, Int[ndarray, "N _"]]:
        """Ids of all items, padded with 0: {x,ref}_{type,value,owner} [N, M] and y_aux, y_ref [N, T].

        Sentences have an end token. A tuple of padding has value 0, which no real one has. Owners that are
        nobody's value are unknown words. Sentences that are too long are cut (and told to `kept.left_out`);
        records never are.

        Args:
          tuples: M; 0 for as many as the longest record has.
          words: T, end token included; 0 for the longest sentence.

        Raises:
          ConfigError: a record with more than M tuples, or with more unknown values than slots.
        """
        ids = [self._item_ids(x, r) for x, r in zip(part.x, part.x_ref, strict=True)]
        out: dict[str, Int[ndarray, "N _"]] = {}
        most = tuples or max(len(r) for side in (part.x, part.x_ref) for r in side)
        for name, side in (("x", part.x), ("ref", part.x_ref)):
            longest = max(map(len, side), default=0)
            if longest > most:
                raise ConfigError("a record", f"of {longest} tuples", f"at most {most}")
            known = [[self._type_ids.get(f.type, 0) for f in r] for r in side]
            out[f"{name}_type"] = _padded(known, most)
            for field in ("value", "owner"):
                rows = [
                    [table.get(getattr(f, field), UNKNOWN) for f in r]
                    for r, table in zip(side, ids, strict=True)
                ]
                out[f"{name}_{field}"] = _padded(rows, most)
        sides = {"y_aux": part.y_aux, "y_ref": part.y_ref}
        room = words or 1 + max(len(y.split()) for side in sides.values() for y in side)
        for name, texts in sides.items():
            rows = [
                [*(table.get(w, UNKNOWN) for w in y.split()), END]
                for y, table in zip(texts, ids, strict=True)
            ]
            kept.left_out(sum(len(r) > room for r in rows), f"ends of {name} beyond {room} words")
            out[name] = _padded([r[:room] for r in rows], room)
        return out

    def sentences(self, tokens: Int[ndarray, "N T"], part: StyleRecords) -> list[str]:
        """Words of token ids up to the end token, with each item's own values in its slots."""
        texts = []
        for line, x, x_ref in zip(tokens.tolist(), part.x, part.x_ref, strict=True):
            names = (*self.words, *self.unknown_values(x, x_ref))
            row = line[: line.index(END)] if END in line else line
            texts.append(" ".join(names[i] if i < len(names) else SPECIAL[UNKNOWN] for i in row))
        return texts

    def _item_ids(self, x: Record, x_ref: Record) -> collections.ChainMap[str, int]:
        unknown = self.unknown_values(x, x_ref)
        own = {v: len(self.words) + i for i, v in enumerate(unknown)}
        return collections.ChainMap(own, self._ids)


def _padded(rows: Sequence[Sequence[int]], width: int) -> Int[ndarray, "N _"]:
    out = np.full((len(rows), width), PAD, np.int32)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return out
