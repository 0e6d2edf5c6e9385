"""Judges of moved text: all labels at once, fluency bounded by that of real text, and their mean."""

import numpy as np
import pytest

from jaxgen.evaluators.controlled_text import ControlledText, self_bleu


@pytest.fixture
def judges():
    """With judges that know their answers; the two real ones have tests of their own."""
    out = object.__new__(ControlledText)
    found = {"sentiment": np.array([0, 0, 1]), "tense": np.array([2, 1, 1])}
    fields = {"attributes": lambda texts: found, "real_ppl": 2.0, "real_self_bleu": 30.0}
    fields["encode"] = lambda texts: {"target": np.array([[len(t)] for t in texts])}

    class Lengths:
        def perplexity(self, targets):
            return float(targets.mean())

    for name, value in (fields | {"language_model": Lengths()}).items():
        object.__setattr__(out, name, value)
    return out


def test_a_text_is_right_where_all_its_labels_are(judges):
    texts, sentiment, tense = ["a", "b", "c"], np.array([0, 1, 1]), np.array([2, 1, 0])
    assert judges.accuracy(texts, {"sentiment": sentiment}).tolist() == [True, False, True]
    both = judges.accuracy(texts, {"sentiment": sentiment, "tense": tense})
    assert both.tolist() == [True, False, False]


def test_perplexity_is_of_the_tokens_of_texts(judges):
    assert judges.perplexity(["abcd", "ab"]) == 3.0


def test_the_mean_bounds_fluency_by_that_of_real_text(judges):
    assert judges.mean(0.25, 4.0, 1.0) == pytest.approx((0.25 * 0.5 * 1.0) ** (1 / 3))
    assert judges.mean(1.0, 0.5, 1.0) == 1.0
    assert judges.mean(1.0, 2.0, -0.5) == 0.0


def test_texts_that_repeat_each_other_have_a_high_self_bleu():
    same, others = ["one of the same words"] * 20, [f"{i} a{i} b{i} c{i} d{i}" for i in range(20)]
    assert self_bleu(same) == pytest.approx(100)
    assert self_bleu(others) < 10
