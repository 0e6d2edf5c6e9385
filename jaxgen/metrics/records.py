"""How well a sentence states a record, and how well it keeps another sentence's words.

Content: what an extractor finds in the sentences against the records, micro-averaged precision and recall of
numbers (Wiseman et al., 2017; Wang et al., 2019), or of values alone. Style: m-BLEU, BLEU of the sentence against
its reference with names, pronouns and numbers masked in both (Wang et al., 2019).
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from jaxgen.data.style_records import Fact
from jaxgen.metrics.text import bleu


class PrecisionRecall(NamedTuple):
    """In per cent; NaN without anything found, or anything to find."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Their harmonic mean; 0 where both are."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


@dataclasses.dataclass(frozen=True)
class Names:
    """Names and their classes, from a train split's tuples whose type ends in `_NAME` or is `name`.

    Attributes:
      classes: name -> class, such as "PLAYER" or "TEAM".
    """

    classes: Mapping[str, str]

    @classmethod
    def of(cls, records: Iterable[Iterable[Fact]]) -> "Names":
        """Of records; a name of two classes is of the more frequent one."""
        seen: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for record in records:
            for fact in record:
                if fact.type.lower().endswith("name"):
                    kind = fact.type[: -len("name")].rstrip("_") or fact.type
                    seen[fact.value][kind] += 1
        return cls({name: kinds.most_common(1)[0][0] for name, kinds in seen.items()})

    @functools.cached_property
    def _wholes(self) -> dict[str, set[str]]:
        """Part of a name of two parts -> those names: a city, or its team, -> the full team names."""
        out: dict[str, set[str]] = collections.defaultdict(set)
        for name in self.classes:
            words = name.split("_")
            for cut in range(1, len(words)):
                for part in ("_".join(words[:cut]), "_".join(words[cut:])):
                    out[part].add(name)
        return out

    def same(self, a: str, b: str) -> bool:
        """Whether two names may mean one: equal, one within the other, or city and team of one franchise."""
        if a == b or f"_{a}_" in f"_{b}_" or f"_{b}_" in f"_{a}_":
            return True
        return not self._wholes.get(a, set()).isdisjoint(self._wholes.get(b, set()))


def is_number(value: str) -> bool:
    """Whether a value is an integer: only these tuples are scored, since names lift every system."""
    return value.isascii() and value.isdigit()


def score(
    found: Sequence[Iterable[Fact]],
    gold: Sequence[Iterable[Fact]],
    names: Names,
    *,
    owners: bool = True,
    numbers_only: bool = True,
) -> PrecisionRecall:
    """Tuples found that the records have, and tuples of the records that are found, of all items together.

    Tuples agree in type and value and, with `owners`, in owner (`Names.same`). Duplicates count once.

    Raises:
      ValueError: not as many records as items.
    """
    hits = [0, 0]
    totals = [0, 0]
    for f, g in zip(found, gold, strict=True):
        sides = [_keys(side, owners, numbers_only) for side in (f, g)]
        for i, (mine, other) in enumerate((sides, sides[::-1])):
            by_key = collections.defaultdict(list)
            for *key, owner in other:
                by_key[tuple(key)].append(owner)
            totals[i] += len(mine)
            hits[i] += sum(
                any(names.same(owner, o) for o in by_key[tuple(key)]) for *key, owner in mine
            )
    return _shares(hits, totals)


def _keys(side: Iterable[Fact], owners: bool, numbers_only: bool) -> set[tuple[str, str, str]]:
    return {
        (f.type, f.value, f.owner if owners else "")
        for f in side
        if is_number(f.value) or not numbers_only
    }


def score_values(
    sentences: Sequence[str],
    gold: Sequence[Iterable[Fact]],
    is_content: Callable[[str], bool] | None = None,
) -> PrecisionRecall:
    """The same of values alone, which no extractor can get wrong.

    Recall: distinct values of the record that are words of the sentence. Precision: distinct content words of the
    sentence that are values of the record.

    Args:
      sentences: words split by spaces.
      is_content: which words are: numbers and names. By default, all values of any of the records.

    Raises:
      ValueError: not as many records as sentences.
    """
    records = [{f.value for f in record} for record in gold]
    every = set().union(*records)
    content = is_content or every.__contains__
    hits, totals = [0, 0], [0, 0]
    for text, values in zip(sentences, records, strict=True):
        words = set(text.split())
        said = {w for w in words if content(w)}
        hits = [hits[0] + len(said & values), hits[1] + len(words & values)]
        totals = [totals[0] + len(said), totals[1] + len(values)]
    return _shares(hits, totals)


def said_too_often(
    sentences: Sequence[str],
    gold: Sequence[Iterable[Fact]],
    is_content: Callable[[str], bool] = is_number,
) -> float:
    """Share in per cent of the records' distinct values that stand in the sentence more often than in the record.

    Where tuples are copied twice, this is more than of people's own sentences, which may repeat a number.

    Args:
      sentences: as written.
      gold: the record of each.
      is_content: which values are looked at; numbers, unless given, since names may well be repeated.

    Raises:
      ValueError: not as many records as sentences.
    """
    often = total = 0
    for text, record in zip(sentences, gold, strict=True):
        words = collections.Counter(text.split())
        values = collections.Counter(f.value for f in record if is_content(f.value))
        often += sum(words[value] > count for value, count in values.items())
        total += len(values)
    return 100.0 * often / total if total else float("nan")


def _shares(hits: Sequence[int], totals: Sequence[int]) -> PrecisionRecall:
    return PrecisionRecall(
        *(100.0 * h / n if n else float("nan") for h, n in zip(hits, totals, strict=True))
    )


def words_of(text: str) -> frozenset[str]:
    """The set of a text's words."""
    return frozenset(text.split())


PRONOUNS = words_of("he him his they them their")
NUMBER_WORDS = words_of(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    " seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand"
)
MASK = "<masked>"


def mask_values(tokens: Sequence[str], names: Collection[str]) -> list[str]:
    """As many tokens, in lower case: each name, pronoun, number and number word is `MASK`.

    Args:
      names: in their own spelling; for other data, all values that are copied.
    """
    return [MASK if t in names or _is_masked(t.lower()) else t.lower() for t in tokens]


def _is_masked(word: str) -> bool:
    return is_number(word) or word in PRONOUNS or word in NUMBER_WORDS


def masked_bleu(outputs: Sequence[str], references: Sequence[str], names: Collection[str]) -> float:
    """m-BLEU, 0 to 100: corpus BLEU-4 of masked sentences against one reference each, without smoothing.

    NaN without outputs, or with another number of references.
    """
    masked = ([" ".join(mask_values(t.split(), names)) for t in s] for s in (outputs, references))
    return bleu(*masked)
