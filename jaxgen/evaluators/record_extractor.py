"""A learned reader of records: for each number and name of a sentence, which statistic of it the number is, if any.

Trained on sentences and records of the train split alone, since it judges what models of that data write. A pair
(number, name) of a sentence is a row; its label is the type of the record's tuple with that value and owner, or NONE.
A pair with several types, since records are matched by number, is a row for each (Wiseman et al., 2017). The model is
logistic regression, one label against the others, on hashed words around the number and what stands between the two.

Of records of strings, whose values tell their own types, each value of a sentence is a row, and only the words around it
are seen, other values hidden too: the type is the one that the sentence says it is of ("a customer rating of cheap").
"""

import dataclasses
import pathlib
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from jaxgen.data.style_records import Fact, StyleRecords
from jaxgen.errors import ConfigError
from jaxgen.metrics.records import Names, is_number

NONE = "NONE"
WINDOW = 6  # words on either side of the number
FAR = 12  # distances are told up to here
BUCKETS = 2**17  # of hashed features
_SLICE = 4096  # sentences at a time


@dataclasses.dataclass(frozen=True)
class RecordExtractor:
    """Sentences to the tuples that they state.

    Attributes:
      names: of the train split.
      values: what is read; none where it is numbers.
      labels: types, and NONE.
      weights: of hashed features.
      bias: of each label.
    """

    names: Names
    values: frozenset[str]
    labels: tuple[str, ...]
    weights: Float[ndarray, "F C"]
    bias: Float[ndarray, " C"]

    @classmethod
    def train(
        cls,
        train: StyleRecords,
        values: Collection[str] = (),
        *,
        epochs: int = 5,
        alpha: float = 5e-5,
        seed: int = 0,
    ) -> "RecordExtractor":
        """On y_aux and x of a train split.

        Args:
          values: words to be read, each alone; by default, numbers with their names.
          epochs: of stochastic gradient descent, whose weights are averaged.
          alpha: of the squared weights in the loss.

        Raises:
          ConfigError: no sentence has a number and a name (or one of the values), or all numbers are of one type.
        """
        from sklearn.linear_model import SGDClassifier

        names, wanted = Names.of(train.x), frozenset(values)
        rows: list[list[str]] = []
        labels: list[str] = []
        for text, record in zip(train.y_aux, train.x, strict=True):
            for fact, features in _candidates(text.split(), names, wanted):
                for label in _types_of(fact, record, names):
                    rows.append(features)
                    labels.append(label)
        kinds = tuple(sorted(set(labels)))
        if wanted and len(kinds) == 1:  # nothing to tell apart
            zeros = np.zeros((BUCKETS, 1), np.float32)
            return cls(names, wanted, kinds, zeros, zeros[0])
        if len(kinds) < 2:
            allowed = f"sentences with {'values' if values else 'numbers and names'}, some of them of the record"
            raise ConfigError("data.train", list(kinds), allowed)
        model = SGDClassifier(
            "log_loss", alpha=alpha, max_iter=epochs, tol=None, random_state=seed, average=True
        ).fit(_hashed(rows), labels)
        weights, bias = model.coef_, model.intercept_
        if len(weights) == 1:  # of two labels, scikit-learn keeps the second's
            weights, bias = np.concatenate([-weights, weights]), np.concatenate([-bias, bias])
        return cls(
            names,
            wanted,
            tuple(str(c) for c in model.classes_),
            np.ascontiguousarray(weights.T, np.float32),
            bias.astype(np.float32),
        )

    def __call__(self, sentences: Sequence[str]) -> list[frozenset[Fact]]:
        """The tuples of each sentence; a number may be of several names."""
        out: list[frozenset[Fact]] = []
        for begin in range(0, len(sentences), _SLICE):
            some = sentences[begin : begin + _SLICE]
            pairs = [list(_candidates(s.split(), self.names, self.values)) for s in some]
            found = iter(self._labels([f for row in pairs for _, f in row]))
            for row in pairs:
                typed = [fact._replace(type=next(found)) for fact, _ in row]
                out.append(frozenset(f for f in typed if f.type != NONE))
        return out

    def pair_accuracy(self, part: StyleRecords) -> float:
        """Share of pairs of y_aux whose label is one of the record's; NaN without any."""
        right: list[bool] = []
        for begin in range(0, len(part), _SLICE):
            some = part.take(range(begin, min(begin + _SLICE, len(part))))
            rows = [
                (_types_of(fact, record, self.names), features)
                for text, record in zip(some.y_aux, some.x, strict=True)
                for fact, features in _candidates(text.split(), self.names, self.values)
            ]
            found = self._labels([features for _, features in rows])
            right += [label in known for label, (known, _) in zip(found, rows, strict=True)]
        return float(np.mean(right)) if right else float("nan")

    def _labels(self, rows: Sequence[Sequence[str]]) -> list[str]:
        if not rows:
            return []
        best = np.asarray(_hashed(rows) @ self.weights + self.bias).argmax(-1)
        return [self.labels[i] for i in best]

    def save(self, path: pathlib.Path) -> None:
        """Writes an .npz file."""
        names = sorted(self.names.classes.items())
        np.savez_compressed(
            path,
            names=np.array(names, np.str_).reshape(-1, 2),
            values=np.array(sorted(self.values), np.str_),
            labels=np.array(self.labels, np.str_),
            weights=self.weights,
            bias=self.bias,
        )

    @classmethod
    def load(cls, path: pathlib.Path) -> "RecordExtractor":
        """Reads what `save` wrote.

        Raises:
          ConfigError: another file, or none.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                names = Names({str(a): str(b) for a, b in file["names"]})
                values, labels = ([str(a) for a in file[k]] for k in ("values", "labels"))
                return cls(names, frozenset(values), tuple(labels), file["weights"], file["bias"])
        except (OSError, ValueError, KeyError, EOFError) as e:
            raise ConfigError("record extractor", str(path), f"a file of its own ({e})") from e


def _types_of(fact: Fact, record: Iterable[Fact], names: Names) -> list[str]:
    """The types of the record's tuples with a value and, where there is one, its owner; or NONE."""
    owned = (f for f in record if not fact.owner or names.same(f.owner, fact.owner))
    known = {f.type for f in owned if f.value == fact.value}
    return sorted(known) or [NONE]


def _hashed(rows: Sequence[Sequence[str]]):  # -> scipy.sparse.csr_matrix, which has no types
    from sklearn.feature_extraction import FeatureHasher

    hasher = FeatureHasher(BUCKETS, input_type="string", alternate_sign=False, dtype=np.float32)
    return hasher.transform(rows)


def _candidates(
    tokens: Sequence[str], names: Names, values: frozenset[str]
) -> Iterator[tuple[Fact, list[str]]]:
    """What may be a tuple of a sentence, without its type (and owner, for values), and its features."""
    return _among(tokens, values) if values else _pairs(tokens, names)


def _among(tokens: Sequence[str], values: frozenset[str]) -> Iterator[tuple[Fact, list[str]]]:
    words = ["#" if t in values else t.lower() for t in tokens]
    for i, token in enumerate(tokens):
        if token in values:
            yield Fact("", token, ""), _around(words, i)


def _pairs(tokens: Sequence[str], names: Names) -> Iterator[tuple[Fact, list[str]]]:
    """Every number with every name of a sentence, as a tuple without a type, and its features."""
    kinds = [names.classes.get(t, "") for t in tokens]
    numbers = [i for i, t in enumerate(tokens) if is_number(t)]
    # Numbers and names are what the words around them have to tell apart.
    words = [k or ("#" if is_number(t) else t.lower()) for t, k in zip(tokens, kinds, strict=True)]
    holders = [i for i, k in enumerate(kinds) if k]
    for i in numbers:
        around = _around(words, i)
        size = f"size {min(len(tokens[i]), 4)}{tokens[i][0] if len(tokens[i]) > 1 else ''}"
        for j in holders:
            link = _link(i, j, kinds, holders)
            near = f"{link} {max(-FAR, min(FAR, j - i))}"
            by = [f"{kinds[j]} {a}" for a in around]
            linked = [f"{link} {a}" for a in around]
            beside = [f"by {words[k]}" for k in (j - 1, j + 1) if 0 <= k < len(words)]
            features = [link, near, size, f"{kinds[j]} {size}", *by, *linked, *beside]
            yield Fact("", tokens[i], tokens[j]), features


def _around(words: Sequence[str], i: int) -> list[str]:
    """Words near a number, with their places, and without."""
    places = [k for k in range(i - WINDOW, i + WINDOW + 1) if k != i and 0 <= k < len(words)]
    pairs = [" ".join(words[k : k + 2]) for k in (i - 2, i + 1) if 0 <= k < len(words) - 1]
    placed = [f"{k - i} {words[k]}" for k in places]
    return [*placed, *(f"{'<>'[k > i]} {words[k]}" for k in places), *pairs]


def _link(i: int, j: int, kinds: Sequence[str], holders: Sequence[int]) -> str:
    """Which name this is of its class, seen from the number: the first before it, the second behind, ..."""
    same = [k for k in holders if kinds[k] == kinds[j]]
    low, high = sorted((i, j))
    between = sum(low < k < high for k in same)
    alone = "" if any(k < i for k in same) else " alone"
    return f"{kinds[j]} {'before' if j < i else 'behind' + alone} {min(between, 3)}"
