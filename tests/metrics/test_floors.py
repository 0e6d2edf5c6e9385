"""Floors by hand."""

import math

import numpy as np
import pytest

from jaxgen.metrics import floors, text


def test_consensus_takes_the_most_frequent_real_token_of_each_position():
    tokens = np.array([[3, 1, 0, 0], [3, 2, 5, 0], [4, 2, 0, 0]], np.int32)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]], bool)
    found = floors.consensus(tokens, mask)
    # Position 2 has one real token, a 5; position 3 has none, so its padding is what there is.
    assert found.tolist() == [3, 2, 5, 0]
    assert found.dtype == tokens.dtype
    test = np.array([[3, 2, 5, 0], [4, 2, 0, 0]], np.int32)
    assert text.token_accuracy(np.stack([found] * 2), test, test > 0) == pytest.approx(4 / 5)
    ties = np.array([[7, 2], [1, 9]])
    assert floors.consensus(ties, np.ones_like(ties, bool)).tolist() == [1, 2]
    with pytest.raises(ValueError, match="no rows"):
        floors.consensus(tokens[:0], mask[:0])


def test_majority_of_train_is_tested_on_test():
    train, test = np.array([2, 2, 0, 1, 2]), np.array([2, 0, 0, 0])
    assert floors.majority_accuracy(train, test) == 0.25
    assert floors.majority_accuracy(np.array([1, 0]), test) == 0.75  # of ties the smallest
    with pytest.raises(ValueError, match="0 train"):
        floors.majority_accuracy(train[:0], test)


def test_mean_image():
    train = np.array([0.0, 1.0, 0.2, 0.4], np.float32).reshape(2, 2, 1, 1)
    test = np.array([0.1, 0.7], np.float32).reshape(1, 2, 1, 1)
    error, image = floors.mean_image_mse(train, test)
    assert image.ravel() == pytest.approx([0.1, 0.7])
    assert error == pytest.approx(0.0, abs=1e-12)
    assert floors.mean_image_mse(train, test + 0.5)[0] == pytest.approx(0.25)


def test_unigram_perplexity_with_one_added():
    # Counts 3, 1, 0 of four tokens: probabilities 4/7, 2/7, 1/7.
    train, test = np.array([0, 0, 1, 0]), np.array([0, 2])
    want = math.exp(-(math.log(4 / 7) + math.log(1 / 7)) / 2)
    assert floors.unigram_perplexity(train, test, 3) == pytest.approx(want)
    even = np.arange(8)
    assert floors.unigram_perplexity(even, even, 8) == pytest.approx(8.0)
    for wrong in (np.array([3]), np.array([-1]), np.array([], int)):
        with pytest.raises(ValueError, match="ids 0 to 2"):
            floors.unigram_perplexity(train, wrong, 3)
