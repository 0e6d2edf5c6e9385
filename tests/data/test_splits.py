import numpy as np
import pytest

from jaxgen.data import splits
from jaxgen.errors import ConfigError


def test_a_limit_takes_of_each_label_its_share():
    label = np.arange(21) % 2  # every second row would be one class alone
    got = splits.spread(21, 11, label)
    assert len(got) == 11
    assert np.bincount(label[got]).tolist() == [6, 5]
    assert (np.diff(got) > 0).all()
    assert splits.spread(9, 3).tolist() == [0, 4, 8]
    assert splits.spread(9, 0).tolist() == splits.spread(9, 20).tolist() == list(range(9))
    assert splits.spread(9, 1).tolist() == [0]
    assert splits.spread(0, 5).tolist() == []


@pytest.mark.parametrize(
    ("limit", "counts"), [(4, [2, 1, 1]), (9, [3, 3, 3]), (20, [9, 3, 8]), (2, [1, 1, 0])]
)
def test_a_balanced_limit_takes_labels_in_turn(limit, counts):
    label = np.repeat([0, 1, 2], [10, 3, 30])
    got = splits.balanced(43, limit, label)
    assert np.bincount(label[got], minlength=3).tolist() == counts
    assert got.tolist() == splits.balanced(43, limit, label).tolist()
    assert (np.diff(got) > 0).all()


def test_without_labels_the_first_are_taken():
    assert splits.balanced(9, 3, None).tolist() == [0, 1, 2]
    assert splits.balanced(9, 0, None).tolist() == list(range(9))


def test_a_negative_limit_is_refused():
    splits.check_limit(0)
    with pytest.raises(ConfigError, match=r"data\.limit is -1, allowed: 0 \(all\) or more"):
        splits.check_limit(-1)


def test_no_rows_and_one_row():
    assert [
        len(v) for v in splits.split_by_hash([], valid_fraction=0.1, test_fraction=0.2).values()
    ] == [0] * 3
    one = splits.split_by_hash([b"x"], valid_fraction=0.1, test_fraction=0.2)
    assert sorted(map(len, one.values())) == [0, 0, 1]
