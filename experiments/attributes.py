"""What sentences say about themselves: labels to train operators on, and judges that never steer."""

import collections
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import sequence_data
from experiments.sequence_data import Part
from jaxgen.config import Config
from jaxgen.data import corpora
from jaxgen.errors import ConfigError
from jaxgen.metrics import floors
from jaxgen.text import tense

LABELS = {
    "sentiment": corpora.SENTIMENTS,
    "tense": corpora.TENSES,
    "formality": corpora.FORMALITIES,
    "person": corpora.PERSONS,
}
UNKNOWN = -1


def names(config: Config) -> tuple[str, ...]:
    """Attributes that the corpus has.

    Raises:
      ConfigError: `operators.attributes` asks for one that it has not.
    """
    d = config.data
    known = tuple(LABELS) if d.source == "grammar" else ("sentiment", "tense")
    wanted = tuple(config.operators.attributes)
    if not wanted or set(wanted) - set(known):
        raise ConfigError("operators.attributes", wanted, f"some of {', '.join(known)}")
    if "sentiment" in wanted and d.source != "grammar":
        # Of files a sentence's label is the place of its file.
        for field, counts in (("train", (2,)), ("test", (0, 2))):
            if d.source == "files" and len(d[field]) not in counts:
                allowed = "two files, of negative and positive sentences"
                raise ConfigError(f"data.{field}", d[field], allowed)
        if d.source == "english":
            raise ConfigError("operators.attributes", wanted, "('tense',): english has no labels")
        if d.source != "files" and not d.label_field:
            raise ConfigError("data.label_field", d.label_field, "the column of the sentiment")
    return wanted


def load(config: Config, workdir: pathlib.Path) -> dict[str, Part]:
    """The sentences of a config, which have the labels that are asked for."""
    data = sequence_data.load(config, workdir)
    for part in data.values():
        for name, y in label(config, part).items():
            if len(y) and y.max() >= len(LABELS[name]):
                raise ConfigError("data", int(y.max()) + 1, f"{len(LABELS[name])} labels of {name}")
    return data


def label(config: Config, part: Part) -> dict[str, np.ndarray]:
    """{attribute: index of each sentence's label, or UNKNOWN}.

    Of the grammar they are read off the sentence, without error. Elsewhere sentiment is what the files
    say and tense comes from rules (`jaxgen.text.tense`).
    """
    if config.data.source == "grammar":
        return parsed(part.text, names(config))
    known = {"tense": tense.label(part.text)}
    if part.label is not None:
        known["sentiment"] = np.asarray(part.label, np.int32)
    return {name: known[name] for name in names(config)}


def parsed(texts: Sequence[str], wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """Labels of the grammar's sentences; UNKNOWN for anything it cannot have written."""
    rows = [corpora.parse(t) for t in texts]
    return {
        name: np.array([UNKNOWN if r is None else getattr(r, name) for r in rows], np.int32)
        for name in wanted
    }


def disjoint_halves(count: int) -> tuple[np.ndarray, np.ndarray]:
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


def occurrences(texts: Sequence[str], words: Sequence[str]) -> np.ndarray:
    """[N, W] in {0, 1}: which of the words occur in each text."""
    place = {w: i for i, w in enumerate(words)}
    out = np.zeros((len(texts), len(words)), np.float32)
    for row, text in zip(out, texts, strict=True):
        for word in text.split():
            if word in place:
                row[place[word]] = 1.0
    return out


@dataclasses.dataclass(frozen=True)
class TextJudge:
    """Labels of any text: exact for the grammar, else logistic regression on word n-grams.

    Attributes:
      models: {attribute: fitted pipeline}; empty where labels are exact.
      accuracy: {attribute: of the judge itself on test text}.
      majority: the same of the train split's most frequent label.
    """

    attributes: tuple[str, ...]
    models: Mapping[str, Any]
    accuracy: Mapping[str, float]
    majority: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def train(cls, config: Config, train: Part, test: Part) -> "TextJudge":
        """On the judges' half of the train split."""
        wanted = names(config)
        if config.data.source == "grammar":
            return cls(wanted, {}, dict.fromkeys(wanted, 1.0))
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        _, mine = disjoint_halves(len(train))
        texts, truth = [train.text[i] for i in mine], label(config, train)
        test_truth = label(config, test)
        models, accuracy, majority = {}, {}, {}
        for name in wanted:
            y = truth[name][mine]
            known = np.flatnonzero(y != UNKNOWN)
            words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, token_pattern=r"\S+")
            model = make_pipeline(words, LogisticRegression(C=10.0, max_iter=200))
            models[name] = model.fit([texts[i] for i in known], y[known])
            rows = np.flatnonzero(test_truth[name] != UNKNOWN)
            accuracy[name] = float(
                model.score([test.text[i] for i in rows], test_truth[name][rows])
            )
            majority[name] = floors.majority_accuracy(y[known], test_truth[name][rows])
        return cls(wanted, models, accuracy, majority)

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

    def __call__(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """{attribute: labels}."""
        if not self.models:
            return parsed(texts, self.attributes)
        return {name: model.predict(list(texts)) for name, model in self.models.items()}
