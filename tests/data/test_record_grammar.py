"""The record grammar: exact reading, references, and what makes it a task."""

import collections

import pytest

from jaxgen.data import record_grammar
from jaxgen.metrics import box_score
from jaxgen.metrics.records import Names, is_number, masked_bleu, score
from jaxgen.text.templates import rewrite


@pytest.fixture(scope="module")
def parts():
    return record_grammar.load(train=2000, valid=50, test=300)


def test_every_sentence_is_read_back_exactly(parts):
    names = Names.of(parts["train"].x)
    for part in parts.values():
        for record, text in zip(part.x, part.y_aux, strict=True):
            found = box_score.extract(text.split(), names)
            assert found == {f for f in record if is_number(f.value)}, text
            assert {f.value for f in record} <= set(text.split())
            assert len({f.value for f in record}) == len(record)


def test_references_are_other_sentences_of_train(parts):
    own = {(x, y) for x, y in zip(parts["train"].x, parts["train"].y_aux, strict=True)}
    for part in parts.values():
        assert set(zip(part.x_ref, part.y_ref, strict=True)) <= own
        assert all(a != b for a, b in zip(part.y_aux, part.y_ref, strict=True))
    test = parts["test"]
    kinds = [collections.Counter(f.type for f in x) for x in (*test.x, *test.x_ref)]
    same = [a == b for a, b in zip(kinds[:300], kinds[300:], strict=True)]
    assert 0.1 < sum(same) / 300 < 0.6  # else rules would do


def test_rules_fall_short_of_it(parts):
    test, names = parts["test"], Names.of(parts["train"].x)
    ruled = [rewrite(*item) for item in zip(test.x, test.x_ref, test.y_ref, strict=True)]
    found = [box_score.extract(text.split(), names) for text in ruled]
    precision, recall = score(found, test.x, names)
    assert 40 < precision < 85
    assert 40 < recall < 85
    assert masked_bleu(ruled, test.y_ref, names.classes) > 99
    assert masked_bleu(test.y_aux, test.y_ref, names.classes) < 40


def test_a_seed_is_a_corpus():
    a, b = (record_grammar.load(train=100, valid=1, test=1, seed=s) for s in (0, 1))
    assert a == record_grammar.load(train=100, valid=1, test=1)
    assert a["train"] != b["train"]
    with pytest.raises(ValueError, match="train is 10, allowed: at least 100"):
        record_grammar.load(train=10)
