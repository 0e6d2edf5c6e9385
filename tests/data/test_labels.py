import numpy as np
import pytest

from jaxgen.data import labels
from jaxgen.errors import ConfigError


def rows(values, name="t.csv, line", classes=None):
    return labels.Rows(["x"] * len(values), values, name, range(2, len(values) + 2), classes)


def test_one_numbering_for_all_tables():
    train = [rows(["b", "c"]), rows(["a", "b"])]
    numbers = labels.number(train)
    assert numbers == {"a": 0, "b": 1, "c": 2}
    assert labels.numbered(train, numbers).tolist() == [1, 2, 0, 1]
    assert labels.numbered([rows(["c", "b"])], numbers).tolist() == [2, 1]
    with pytest.raises(ConfigError, match=r"^u\.csv, line 3 is 'z', allowed: .*train part: a, b"):
        labels.numbered([rows(["b", "z"], "u.csv, line")], numbers)


@pytest.mark.parametrize("missing", [None, "", "  ", float("nan"), np.float32("nan"), b""])
def test_a_missing_label_is_named(missing):
    with pytest.raises(ConfigError, match=r"^t\.csv, line 3 is 'a missing label'"):
        labels.number([rows([b"x" if isinstance(missing, bytes) else 1, missing])])


@pytest.mark.parametrize(
    "values", [[1, "a"], ["a", 1], [True, 1], [0.5, "a"], [1, [2]], [1, {}], [1.0, float("inf")]]
)
def test_labels_of_another_type_are_named(values):
    with pytest.raises(ConfigError, match=r"^t\.csv, line 3 is"):
        labels.number([rows(values)])


def test_tables_of_different_type_are_refused():
    words, whole, parts = rows(["a"]), rows([1, 0], "u.csv, line"), rows([0.5, 1], "v.csv, line")
    for pair in ([words, whole], [whole, parts], [words, parts]):
        with pytest.raises(
            ConfigError, match=r"^[uv]\.csv, line 2 is 'a label of type (int|float)"
        ):
            labels.number(pair)
    with pytest.raises(ConfigError, match=r"^t\.csv, line 2 is '1'"):
        labels.numbered([rows(["1"])], labels.number([whole]))


def test_a_test_part_of_whole_numbers_where_train_has_fractions():
    numbers = labels.number([rows([0.5, 1.0, 2.0])])
    assert labels.numbered([rows([2, 1])], numbers).tolist() == [2, 1]
    for other in (True, "1"):
        with pytest.raises(ConfigError, match=r"a label of the train part: 0\.5, 1\.0, 2\.0"):
            labels.numbered([rows([other])], numbers)


def test_labels_of_numpy_and_of_bytes():
    assert labels.number([rows([np.int64(3), 1, np.array(2)])]) == {1: 0, 2: 1, 3: 2}
    assert labels.number([rows([b"neg", "pos", np.str_("neg ")])]) == {"neg": 0, "pos": 1}


def test_declared_classes():
    assert labels.numbered([rows([2, 0], classes=3)], {0: 0, 1: 1, 2: 2}).tolist() == [2, 0]
    for bad in (-1, 3):
        with pytest.raises(ConfigError, match=rf"line 3 is {bad}, allowed: a class from 0 to 2"):
            labels.number([rows([0, bad], classes=3)])


@pytest.mark.parametrize(
    ("cells", "want"),
    [
        (["10", " 2", "+1"], [10, 2, 1]),
        (["1", "2.5"], [1.0, 2.5]),
        (["1", "x"], ["1", "x"]),
        (["1", ""], [1, ""]),
        (["nan", "inf"], ["nan", "inf"]),
        (["1_0", "2"], ["1_0", "2"]),
        (["", ""], ["", ""]),
    ],
)
def test_types_of_cells(cells, want):
    got = labels.typed(cells)
    assert got == want
    assert list(map(type, got)) == list(map(type, want))
