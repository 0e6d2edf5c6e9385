"""Attributes of sentences: labels to train operators on, and judges that never steer."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from jaxgen.data import corpora
from jaxgen.data.tokens import TextSplit
from jaxgen.metrics import floors
from jaxgen.models.attribute_heads import UNKNOWN
from jaxgen.text import tense

LABELS: dict[str, tuple[str, ...]] = {
    "sentiment": corpora.SENTIMENTS,
    "tense": corpora.TENSES,
    "formality": corpora.FORMALITIES,
    "person": corpora.PERSONS,
}
Labels = dict[str, Int[np.ndarray, " N"]]


def label(part: TextSplit, names: Sequence[str], *, grammar: bool) -> Labels:
    """{attribute: index of each sentence's label, or UNKNOWN}.

    Args:
      grammar: the sentences are the grammar's, so labels are read off them, without error. Else sentiment
        is what the data say and tense comes from rules (`jaxgen.text.tense`).
    """
    if grammar:
        return parsed(part.text, names)
    known = {"tense": tense.label(part.text)}
    if part.label is not None:
        known["sentiment"] = np.asarray(part.label, np.int32)
    return {name: known[name] for name in names}


def parsed(texts: Sequence[str], wanted: Sequence[str]) -> Labels:
    """Labels of the grammar's sentences; UNKNOWN for anything it cannot have written."""
    rows = [corpora.parse(t) for t in texts]
    return {
        name: np.array([UNKNOWN if r is None else getattr(r, name) for r in rows], np.int32)
        for name in wanted
    }


def disjoint_halves(count: int) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " M"]]:
    """Rows for operators and rows for judges: no sentence serves both."""
    order = np.random.default_rng(20_231_206).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def frequent_words(texts: Sequence[str], count: int) -> tuple[str, ...]:
    """Words of four letters or more that occur in 0.2 to 5 % of sentences, the most frequent first."""
    seen = collections.Counter(
        w for t in texts for w in set(t.split()) if len(w) > 3 and w.isalpha()
    )
    low, high = 0.002 * len(texts), 0.05 * len(texts)
    common = [(n, w) for w, n in seen.items() if low <= n <= high]
    return tuple(w for _, w in sorted(common, key=lambda pair: (-pair[0], pair[1]))[:count])


def occurrences(texts: Sequence[str], words: Sequence[str]) -> Float[np.ndarray, "N W"]:
    """[N, W] in {0, 1}: which of the words occur in each text."""
    place = {w: i for i, w in enumerate(words)}
    out = np.zeros((len(texts), len(words)), np.float32)
    for row, text in zip(out, texts, strict=True):
        for word in text.split():
            if word in place:
                row[place[word]] = 1.0
    return out


@runtime_checkable
class Classifier(Protocol):
    """As scikit-learn's, of texts."""

    def fit(self, X: Sequence[str], y: np.ndarray) -> "Classifier":
        """Learns labels; returns itself."""
        ...

    def predict(self, X: Sequence[str]) -> np.ndarray:
        """Labels."""
        ...

    def score(self, X: Sequence[str], y: np.ndarray) -> float:
        """Share of right labels."""
        ...


def word_classifier() -> Classifier:
    """Logistic regression on word n-grams, not yet fitted."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, token_pattern=r"\S+")
    return make_pipeline(words, LogisticRegression(C=10.0, max_iter=200))


@dataclasses.dataclass(frozen=True)
class AttributeClassifier:
    """Labels of any text: exact for the grammar, else logistic regression on word n-grams.

    Attributes:
      models: {attribute: fitted pipeline}; empty where labels are exact.
      accuracy: {attribute: of the judge itself on test text}.
      majority: the same of the train split's most frequent label.
    """

    names: tuple[str, ...]
    models: Mapping[str, Classifier]
    accuracy: Mapping[str, float]
    majority: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def train(
        cls, names: Sequence[str], train: TextSplit, test: TextSplit, *, grammar: bool
    ) -> "AttributeClassifier":
        """On the judges' half of the train split; see `disjoint_halves`."""
        if grammar:
            return cls(tuple(names), {}, dict.fromkeys(names, 1.0))
        _, mine = disjoint_halves(len(train))
        texts, truth = [train.text[i] for i in mine], label(train, names, grammar=False)
        test_truth = label(test, names, grammar=False)
        models, accuracy, majority = {}, {}, {}
        for name in names:
            y = truth[name][mine]
            known = np.flatnonzero(y != UNKNOWN)
            model = word_classifier().fit([texts[i] for i in known], y[known])
            models[name] = model
            rows = np.flatnonzero(test_truth[name] != UNKNOWN)
            accuracy[name] = float(
                model.score([test.text[i] for i in rows], test_truth[name][rows])
            )
            majority[name] = floors.majority_accuracy(y[known], test_truth[name][rows])
        return cls(tuple(names), models, accuracy, majority)

    def about(self) -> str:
        """Where its labels come from, for reports."""
        if not self.models:
            return (
                "read off the sentence by the grammar's parser; one that the grammar cannot have "
                "written, a verb of another tense than its time for instance, counts as wrong"
            )
        known = ", ".join(
            f"{k} {v:.3f}"
            + (
                f", where the majority class has {self.majority[k]:.3f}"
                if k in self.majority
                else ""
            )
            for k, v in self.accuracy.items()
        )
        truth = "; labels of tense are made by rules" if "tense" in self.models else ""
        return (
            "from logistic regression on word n-grams, trained on the half of the train split that "
            f"nothing that steers sees (its own test accuracy: {known}){truth}"
        )

    def __call__(self, texts: Sequence[str]) -> Labels:
        """{attribute: labels}."""
        if not self.models:
            return parsed(texts, self.names)
        return {name: model.predict(list(texts)) for name, model in self.models.items()}
