"""Text of several domains, and the code of packages."""

import email
import pathlib

import pytest

from jaxgen.data import domains, kept
from jaxgen.errors import ConfigError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.0").write_text("\n".join(f"a0 line {i}" for i in range(60)))
    (tmp_path / "a.1").write_text("\n".join(f"a1   line {i}" for i in range(40)))
    (tmp_path / "b").write_text("\n".join(f"b {i}" for i in range(50)))
    return tmp_path


def test_each_domain_is_split_by_itself(folder):
    fractions = {"valid_fraction": 0.1, "test_fraction": 0.2}
    found = domains.load(str(folder), ("a.*", "b"), **fractions)
    assert {d: [len(p) for p in parts.values()] for d, parts in found.items()} == {
        "a.*": [70, 10, 20],
        "b": [35, 5, 10],
    }
    assert found["a.*"]["train"][0] == "a0 line 0"
    assert found["a.*"]["test"][-1] == "a1 line 39"
    assert found["b"]["valid"] == [f"b {i}" for i in range(35, 40)]


def test_a_limit_counts_what_it_leaves_out(folder):
    with kept.tally() as left_out:
        found = domains.load(
            str(folder), ("b",), valid_fraction=0.2, test_fraction=0.2, max_megabytes=40 / 1e6
        )
    # "b 0\n" to "b 9\n" are four characters each.
    assert sum(map(len, found["b"].values())) == 10
    assert left_out == {"lines beyond data.max_megabytes": 40}


def test_code_of_a_package_is_whole_and_in_a_fixed_order():
    lines = domains.python_code("email")
    want = sorted(
        " ".join(line.split())
        for file in pathlib.Path(email.__file__).parent.rglob("*.py")
        for line in file.read_text("utf-8").split("\n")
        if line.strip()
    )
    assert sorted(lines) == want
    assert lines == domains.python_code("email")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("python:no_such_package",), "an installed package with Python source"),
        (("python:../etc",), "an installed package with Python source"),
        (("c.*",), "a pattern of files in"),
        (("c",), "an existing text file"),
        (("one",), "each part needs one"),
    ],
)
def test_what_is_refused(folder, names, message):
    (folder / "one").write_text("a single line")
    with pytest.raises(ConfigError, match=message):
        domains.load(str(folder), names)
