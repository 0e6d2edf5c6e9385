"""Files under results/ and traffic/ that a launch finds, be they damaged or of somebody else."""

import json
import types

import numpy as np
import pytest

from experiments import eddpm, eisl, flexmoe
from jaxgen.errors import RunError

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


def test_a_checkpoint_that_kept_its_traffic_beside_it_goes_on(tmp_path):
    placer = object.__new__(flexmoe.Placer)
    placer.devices, placer.path = 2, tmp_path / "static-0.npz"
    counts, places = np.arange(24).reshape(6, 2, 2), np.zeros((6, 2, 2, 1), int)
    extra = {"placement": np.zeros((2, 2), np.int32), "counts": np.zeros((2, 2, 2), np.int32)}
    state = types.SimpleNamespace(step=5, extra=extra)
    with pytest.raises(RunError, match=r"static-0\.npz, which the checkpoint needs"):
        placer.resume(state, {})
    np.savez(placer.path, counts=counts, placements=places)
    placer.resume(state, {})
    assert np.array_equal(placer.counts, counts[:4])
    state.step = 9
    with pytest.raises(RunError, match="fewer than the 8 steps"):
        placer.resume(state, {})
