"""Templates of sentences: made, filled, matched again, and refused."""

import pytest

from jaxgen.data import corpora
from jaxgen.text import blanks


def test_runs_of_other_words_become_one_blank():
    text = "the food was really good and i loved the staff !"
    template, fills = blanks.make(text)
    assert template == "the <blank> was <blank> and i <blank> the <blank> !"
    assert fills == ["food", "really good", "loved", "staff"]
    assert blanks.make("it was .") == ("it was .", [])
    assert blanks.make("a b", keep={"b"}) == ("<blank> b", ["a"])


def test_made_filled_and_split_are_the_same_text():
    for review in corpora.grammar(300, seed=1):
        template, fills = blanks.make(review.text)
        assert blanks.fill(template, fills) == review.text
        assert blanks.split(template, review.text) is not None


def test_a_text_keeps_a_template_or_does_not():
    template = "the <blank> was <blank> ."
    assert blanks.split(template, "the food was really good .") == ["food", "really good"]
    assert blanks.split(template, "the  food was good .") == ["food", "good"]
    for text in (
        "the was good .",
        "the food was good",
        "a food was good .",
        "the food were good .",
    ):
        assert blanks.split(template, text) is None
    five = "the a b c d e was good ."
    assert blanks.split(template, five) is None
    assert blanks.split(template, five, most=5) == ["a b c d e", "good"]
    # Kept words are words, not patterns, and early blanks hold little.
    assert blanks.split("<blank> .", "food !") is None
    assert blanks.split("<blank> a <blank>", "x a y a z") == ["x", "y a z"]


def test_what_cannot_be():
    with pytest.raises(ValueError, match="blanks of the template is 0, allowed: at least 1"):
        blanks.split("it was .", "it was .")
    with pytest.raises(ValueError, match="fills is 1, allowed: 2, one for each blank"):
        blanks.fill("<blank> and <blank>", ["x"])
    with pytest.raises(ValueError, match="allowed: words other than <blank>"):
        blanks.make("a <blank> b")
