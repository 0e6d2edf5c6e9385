"""Damaged and foreign things among the steps of a run."""

import gc
import json
import os
import shutil

import pytest

from jaxgen.train import checkpoint
from tests.train.test_checkpoint import TEMPLATE, assert_equal, make


def two_steps(folder):
    s, where = make({"data": 1}, 1)
    later, _ = make({"data": 1}, 1, seed=1)
    c = checkpoint.Checkpointer(folder)
    c.save(10, s, {})
    c.save(20, later, {})
    c.close()
    return s, later, where


def test_a_step_under_another_name_is_not_taken_for_it(tmp_path, caplog):
    _, later, where = two_steps(tmp_path)
    shutil.copytree(tmp_path / "10", tmp_path / "99")
    got = checkpoint.Checkpointer(tmp_path).restore(TEMPLATE, where)
    assert_equal(got.state, later)
    assert "it was saved as step 10" in caplog.text
    assert (tmp_path / "unreadable-99").is_dir()


@pytest.mark.parametrize(
    "put", [lambda p: p.write_text("mine"), lambda p: p.symlink_to("nowhere"), lambda p: p.mkdir()]
)
def test_what_stands_in_the_place_of_a_step_is_kept(tmp_path, put):
    _, later, where = two_steps(tmp_path)
    put(tmp_path / "30")
    c = checkpoint.Checkpointer(tmp_path)
    assert_equal(c.restore(TEMPLATE, where).state, later)
    assert os.path.lexists(tmp_path / "unreadable-30")
    c.save(30, later, {})
    c.close()
    assert checkpoint.Checkpointer(tmp_path).steps() == [20, 30]


@pytest.mark.parametrize("notes", ["[1]", "3", '{"metrics": [1]}'])
def test_notes_of_orbax_in_another_form_cost_nothing(tmp_path, caplog, notes):
    _, later, where = two_steps(tmp_path)
    (tmp_path / "20" / "_CHECKPOINT_METADATA").write_text(notes)
    assert_equal(checkpoint.Checkpointer(tmp_path).restore(TEMPLATE, where).state, later)
    assert "_CHECKPOINT_METADATA: passed over" in caplog.text


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(checkpoint.CheckpointError, match="run cannot be opened"):
        checkpoint.Checkpointer(tmp_path / "run")


def test_threads_and_coroutines_of_a_failed_read_print_nothing(tmp_path, capfd):
    s, _, where = two_steps(tmp_path)
    for p in (tmp_path / "20" / "state" / "array_metadatas").iterdir():
        p.write_bytes(b"\xff")
    assert_equal(checkpoint.Checkpointer(tmp_path).restore(TEMPLATE, where).state, s)
    gc.collect()
    assert "Traceback" not in capfd.readouterr().err


def test_a_checkpoint_without_step_kinds_and_history_is_read(tmp_path):
    """As the first version wrote them: `data` and `crc32` alone."""
    _, later, where = two_steps(tmp_path)
    path = tmp_path / "20" / "meta" / "metadata"
    old = {k: v for k, v in json.loads(path.read_text()).items() if k in ("data", "crc32")}
    path.write_text(json.dumps(old))
    got = checkpoint.Checkpointer(tmp_path).restore(TEMPLATE, where)
    assert_equal(got.state, later)
    assert got.history == {}
