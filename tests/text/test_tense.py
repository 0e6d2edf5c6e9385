import numpy as np
import pytest

from jaxgen.data import corpora
from jaxgen.text import tense


@pytest.mark.parametrize(
    ("sentence", "want"),
    [
        ("the food was cold and the staff was rude .", 0),
        ("i ordered the soup .", 0),
        ("the food is great .", 1),
        ("they do n't have it .", 1),
        ("i will be back .", 2),
        ("we are going to return .", 2),
        ("i 'll never go there again", 2),
        ("great food !", -1),
        ("it was good but now it is bad", -1),
        ("", -1),
    ],
)
def test_rules(sentence, want):
    assert tense.tense(sentence) == want


def test_rules_never_contradict_the_grammar_corpus():
    """Where they give a label to a generated sentence, it is nearly always the true one."""
    rows = corpora.grammar(2000, seed=5)
    got = tense.label([r.text for r in rows])
    truth = np.array([r.tense for r in rows])
    told = got >= 0
    assert told.mean() > 0.4
    assert (got[told] == truth[told]).mean() > 0.97
