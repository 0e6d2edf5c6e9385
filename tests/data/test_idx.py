"""IDX files split for training: the test files stay as they are, of each label its share is held out."""

import numpy as np
import pytest

from jaxgen.data import idx
from jaxgen.errors import ConfigError
from tests.data.test_posed import write_idx


@pytest.fixture
def folder(tmp_path):
    """60 train and 20 test images of one pixel, whose value is their place; four labels in turn."""
    for stem, count in (("train", 60), ("t10k", 20)):
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte", np.arange(count).reshape(-1, 1, 1))
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte", np.arange(count) % 4)
    return str(tmp_path)


def places(part):
    return np.round(np.asarray(part.image).ravel() * 255).astype(int).tolist()


def test_train_files_are_split_and_test_files_are_not(folder):
    parts = idx.load_splits(folder, valid_fraction=0.2)
    assert [len(parts[n]) for n in ("train", "valid", "test")] == [48, 12, 20]
    assert sorted(places(parts["train"]) + places(parts["valid"])) == list(range(60))
    assert places(parts["test"]) == list(range(20))
    assert np.bincount(parts["valid"].label).tolist() == [3, 3, 3, 3]
    for part in parts.values():
        assert (part.label == np.array(places(part)) % 4).all()
    again = idx.load_splits(folder, valid_fraction=0.2)
    assert places(again["valid"]) == places(parts["valid"])


def test_a_limit_is_of_both_files_and_balanced(folder):
    parts = idx.load_splits(folder, valid_fraction=0.0, limit=16)
    assert [len(parts[n]) for n in ("train", "valid", "test")] == [16, 0, 16]
    assert np.bincount(parts["train"].label).tolist() == [4, 4, 4, 4]


def test_shares_and_limits_that_cannot_be(folder):
    with pytest.raises(ConfigError, match=r"data\.valid_fraction is 1\.0"):
        idx.load_splits(folder, valid_fraction=1.0)
    with pytest.raises(ConfigError, match=r"data\.limit is -1"):
        idx.load_splits(folder, limit=-1)
