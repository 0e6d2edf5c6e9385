"""Labels of sentences, the halves that operators and judges see, and judges of attributes."""

import numpy as np
import pytest

from jaxgen.data import corpora
from jaxgen.data.tokens import TextSplit, Vocabulary
from jaxgen.evaluators import attributes
from jaxgen.evaluators.attributes import AttributeClassifier

V = Vocabulary(5, 5, 4, 0, 0, 0, 0, decode=lambda ids: [], encode=lambda texts: {})


def part(texts, label=None):
    return TextSplit(list(texts), {}, V, label)


def test_labels_of_the_grammar_and_of_files():
    rows = corpora.grammar(200, seed=1)
    known = attributes.label(part(r.text for r in rows), ["tense", "sentiment"], grammar=True)
    assert known["tense"].tolist() == [r.tense for r in rows]
    assert known["sentiment"].tolist() == [r.sentiment for r in rows]
    assert attributes.parsed(["not of the grammar"], ["tense"])["tense"].tolist() == [-1]
    texts = ["the food was bad", "it is good", "yes"]
    data = part(texts, np.array([0, 1, 1], np.int32))
    labels = attributes.label(data, ["sentiment", "tense"], grammar=False)
    assert labels["sentiment"].tolist() == [0, 1, 1]
    assert labels["tense"].tolist() == [0, 1, -1]
    assert set(attributes.label(data, ["tense"], grammar=False)) == {"tense"}


def test_no_sentence_serves_operators_and_judges():
    a, b = attributes.disjoint_halves(101)
    assert sorted([*a, *b]) == list(range(101))
    assert np.array_equal(attributes.disjoint_halves(101)[0], a)


def test_frequent_words_and_where_they_occur():
    words = attributes.frequent_words(["soup bread", "soup", "x"] * 2 + ["nothing here"] * 300, 3)
    assert words == ("soup", "bread")
    assert attributes.occurrences(["soup and soup", "x"], words).tolist() == [[1, 0], [0, 0]]


def test_a_judge_says_where_its_labels_come_from():
    truth = np.arange(60, dtype=np.int32) % 2
    lines = [f"the food {i} was {('bad', 'good')[y]}" for i, y in enumerate(truth)]
    judge = AttributeClassifier.train(
        ["sentiment"], part(lines, truth), part(lines[:10], truth[:10]), grammar=False
    )
    assert judge(["so bad", "so good"])["sentiment"].tolist() == [0, 1]
    assert "sentiment 1.000, where the majority class has 0.500" in judge.about()
    assert "by rules" not in judge.about()
    exact = AttributeClassifier.train(["sentiment"], part([]), part([]), grammar=True)
    assert exact(["nonsense"])["sentiment"].tolist() == [-1]
    assert "grammar's parser" in exact.about()


def test_a_judge_learns_from_its_own_half_alone():
    """Labels of the other half are wrong, and its own test accuracy does not show it."""
    truth = np.arange(400, dtype=np.int32) % 2
    lines = [f"the food {i} was {('bad', 'good')[y]}" for i, y in enumerate(truth)]
    operators, _ = attributes.disjoint_halves(400)
    wrong = truth.copy()
    wrong[operators] = 1 - wrong[operators]
    judge = AttributeClassifier.train(
        ["sentiment"], part(lines, wrong), part(lines[:10], truth[:10]), grammar=False
    )
    assert judge.accuracy["sentiment"] == pytest.approx(1.0)
