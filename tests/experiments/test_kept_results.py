"""Files under results/ that a launch finds, be they damaged or of somebody else."""

import json

import pytest

from experiments import eddpm, eisl

ROW = {"kind": "blank", "level": 0.5, "seed": 0, "loss": "ce", "bleu": 1.5, "samples": ["a"]}
FOREIGN = ["[]", "{}", "null", "3", "[3]", '{"loss": 1}', '[{"loss": "ce"}]', "[" * 100_000, "{"]


@pytest.mark.parametrize("text", [*FOREIGN, json.dumps([ROW, ROW | {"bleu": "x"}])])
def test_a_cell_that_is_none_is_done_again(tmp_path, text):
    path = tmp_path / "blank-0.5-0.json"
    path.write_text(text)
    assert eisl.read_rows(path, "blank", 0.5, 0) == []


def test_a_cell_is_read_for_what_it_is_of(tmp_path):
    path = tmp_path / "cell.json"
    path.write_text(json.dumps([ROW]))
    assert eisl.read_rows(path, "blank", 0.5, 0) == [ROW]
    assert eisl.read_rows(path, "blank", 0.5, 1) == []


def test_numbers_of_a_system_are_read_for_what_they_are_of():
    kept = {"sample": {}, "row": {"system": "EDDPM", "seed": 1}}
    assert eddpm.is_result(kept, "EDDPM", 1)
    assert not eddpm.is_result(kept, "EDDPM", 2)
    for other in (None, [], 3, {}, {"sample": {}}, {"row": kept["row"]}, {"sample": 1, "row": [1]}):
        assert not eddpm.is_result(other, "EDDPM", 1)
