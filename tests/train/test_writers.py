"""Rows of metrics.jsonl and JSON files that somebody else, or nobody whole, wrote."""

import json

import pytest

from jaxgen.errors import RunError
from jaxgen.train import writers

DEEP = b"[" * 100_000


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", DEEP])
def test_a_damaged_file_is_passed_over_with_a_word(tmp_path, caplog, raw):
    (tmp_path / "a.json").write_bytes(raw)
    assert writers.read_json(tmp_path / "a.json") is None
    assert "a.json is passed over" in caplog.text


def test_rows_with_what_is_no_number_are_passed_over(tmp_path, caplog):
    good = [{"run": "a", "step": 1, "loss": 2.5}, {"run": "a", "step": 2, "loss": 1}]
    bad = [{"run": "a", "step": 3, "loss": v} for v in ("x", None, [1], {})]
    bad += [{"run": "a", "step": True}, {"run": 3, "step": 1}, {"step": 1, "loss": 0.5}]
    lines = [json.dumps(r).encode() for r in [*bad, *good]] + [DEEP, b""]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    assert writers.read_metrics(tmp_path, ["a"]) == good
    assert "passed over lines 10" in caplog.text
    assert f"passed over {len(bad)} rows" in caplog.text


def test_a_run_with_foreign_rows_alone_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"run": "a", "step": 1}\n')
    with pytest.raises(RunError, match="no rows of a"):
        writers.read_metrics(tmp_path, ["a"])
