import pytest

from jaxgen.metrics import choice, rouge

# By hand: stems shared over stems in all.
KNOWN = [
    (
        "Walk to the kitchens. Grabbed 2 cups!",
        "walk to kitchen. grab cup, cup",
        (10 / 13, 4 / 11, 10 / 13),
    ),
    ("the cat sat on the mat", "the cat was sitting on mats", (2 / 3, 1 / 5, 2 / 3)),
    ("", "a", (0.0, 0.0, 0.0)),
    ("a b", "a b", (1.0, 1.0, 1.0)),
]


@pytest.mark.parametrize(("output", "reference", "want"), KNOWN)
def test_rouge_of_known_pairs(output, reference, want):
    found = rouge.rouge([output], [reference])
    assert tuple(found.values()) == pytest.approx(want, abs=1e-12)


def test_rouge_is_a_mean_over_pairs_of_equal_number():
    found = rouge.rouge(["a b", "a b"], ["a b", "c"])
    assert found["rouge1"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="references is 1, allowed: 2, as outputs"):
        rouge.rouge(["a", "b"], ["a"])


def test_runs_have_no_gaps():
    split = lambda text: text.split(", ")  # noqa: E731
    assert rouge.run_overlap(split("a, b, c"), split("a, c")) == pytest.approx(1 / 3)
    assert rouge.run_overlap(split("b, c"), split("a, b, c, d")) == pytest.approx(2 / 4)
    assert rouge.run_overlap(split("a"), split("a")) == 1
    assert rouge.run_overlap([], ["a"]) == 0
    assert rouge.run_overlap([], []) == 1


def test_scores_of_options():
    import numpy as np

    given = [np.array([-1.0, -1.0]), np.array([-1.8]), np.array([-0.5, -0.5, -0.2])]
    assert choice.option_scores(given, norm="ln") == pytest.approx([-1.0, -1.8, -0.4])
    free = [np.array([-3.0, -2.0]), np.array([-2.0]), np.array([-0.4, -0.4, -0.3])]
    scores = choice.option_scores(given, norm="un", unconditional=free)
    assert scores == pytest.approx([3.0, 0.2, -0.1])
    assert choice.choose(scores) == 0
    assert choice.choose(np.array([1.0, 1.0])) == 0
    assert choice.accuracy(["a", "b"], ["a", "c"]) == 0.5
    with pytest.raises(ValueError, match="norm is 'sum', allowed: one of ln, un"):
        choice.option_scores(given, norm="sum")
    with pytest.raises(ValueError, match="unconditional is None, allowed: one of each option"):
        choice.option_scores(given, norm="un")
    with pytest.raises(ValueError, match="options of one token or more"):
        choice.option_scores([np.array([])], norm="ln")
