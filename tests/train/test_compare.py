"""Comparison of workdirs: numbers, marks and errors."""

import json
import subprocess
import sys

import pytest

from jaxgen import report as command
from jaxgen.config import Config
from jaxgen.errors import ConfigError, UsageError
from jaxgen.train import compare, report
from tests.pages import Page

COLUMNS = {"mse": "MSE ↓", "accuracy": "accuracy ↑"}


def workdir(path, rows, *, steps=100, curve=()):
    path.mkdir(parents=True)
    config = Config({"train": {"steps": steps}, "seed": 0})
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    lines = [{"run": "vae-0", "step": s, "loss": v} for s, v in curve]
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    page = report.Report("a study", path, config)
    page.columns |= COLUMNS
    page.write({"systems": rows})
    return path


@pytest.fixture
def two(tmp_path):
    a = [
        {"system": "VAE", "seed": 0, "mse": 1.0, "accuracy": 0.5, "parameters": 1200},
        {"system": "VAE", "seed": 1, "mse": 3.0, "accuracy": 0.7, "parameters": 1200},
        {"system": "alone", "seed": 0, "mse": 0.5},
    ]
    b = [{"system": "VAE", "seed": 0, "mse": 1.5, "accuracy": 0.25, "other": float("nan")}]
    curve = [(1, 3.0), (2, 2.0)]
    return (
        workdir(tmp_path / "runs" / "a", a, curve=curve),
        workdir(tmp_path / "runs" / "b", b, steps=200, curve=curve),
    )


def test_numbers_stand_side_by_side_and_the_better_of_a_system_is_marked(two):
    header, rows = compare.results([compare.read(p) for p in two], ["a", "b"])
    assert header == ["system", "run", "MSE ↓", "accuracy ↑", "parameters", "other"]
    spread = 2**0.5
    assert rows[0][:3] == ["VAE", "a", (2.0, pytest.approx(spread))]
    assert rows[0][3] == (pytest.approx(0.6), pytest.approx(0.1 * spread))
    assert rows[0][4:] == ["1,200", "–"]
    assert rows[1][:2] == ["VAE", "b"]
    assert [c if isinstance(c, str) else c.mean for c in rows[1][2:5]] == [1.5, 0.25, "–"]
    assert rows[2][:2] == ["alone", "a"]
    assert compare.best_by_system(header, rows) == {(1, 2), (0, 3)}  # nothing to beat for `alone`


def test_the_page_has_configs_results_curves_and_versions(two, tmp_path):
    out = tmp_path / "out" / "ab.html"
    assert compare.write([compare.read(p) for p in two], out) == out
    page = Page(out.read_text())
    assert page.alive() == []
    assert page.text["h2"] == ["Configs", "Results", "Training", "How they were made"]
    assert page.text["li"] == page.text["h2"]
    cells = page.text["td"]
    assert cells[:3] == ["train.steps", "100", "200"]
    assert page.text["strong"] == ["0.600 ± 0.141", "1.50"]
    assert len([t for t in page.tags if t == "img"]) == 1
    assert (tmp_path / "out" / "ab_pictures" / "curve-loss.png").stat().st_size > 1000
    assert "| VAE | b | **1.50** | 0.250 | – | nan |" in (tmp_path / "out" / "ab.md").read_text()
    assert not (tmp_path / "out" / "results.json").exists()
    assert "jax" in page.text["th"]


def test_systems_are_told_apart_by_texts_and_settings():
    row = {"loss": "ce", "kind": "blank", "level": 0.5, "seed": 3, "bleu": 1.0, "samples": ["x"]}
    assert compare.measured(row) == "ce, blank, level 0.5"


def test_names_are_as_long_as_it_takes(tmp_path):
    assert compare.names([tmp_path / "x", tmp_path / "y"]) == ["x", "y"]
    paths = [tmp_path / "a" / "w", tmp_path / "b" / "w"]
    assert compare.names(paths) == ["a/w", "b/w"]


def test_a_run_without_results_is_compared_by_its_curves(two, tmp_path):
    (two[1] / "results.json").unlink()
    out = tmp_path / "c.html"
    compare.write([compare.read(p) for p in two], out)
    page = Page(out.read_text())
    assert "No results yet: b." in page.text["p"]
    assert "Training" in page.text["h2"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "results.json").write_text("{"), "results.json', allowed: readable JSON"),
        (lambda p: (p / "results.json").write_bytes(b"\xff"), "readable JSON"),
        (lambda p: (p / "results.json").write_text("[]"), "a JSON object"),
        (lambda p: (p / "results.json").write_text('{"systems": 3}'), "a list of rows"),
        (lambda p: (p / "config.json").write_text("3"), "config.json', allowed: a JSON object"),
        (lambda p: (p / "config.json").unlink(), "a workdir, which has a config.json"),
    ],
)
def test_a_damaged_workdir_is_one_line_and_exit_code_2(two, tmp_path, capsys, damage, message):
    damage(two[1])
    code = command.main([str(two[0]), str(two[1]), f"--out={tmp_path}/c.html"])
    err = capsys.readouterr().err
    assert code == 2
    assert err.startswith("error: workdir is ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "c.html").exists()


def test_command_lines(tmp_path):
    runs, page = command.parse(["a", "b", "c", "--out", "x.html"])
    assert [str(r) for r in runs] == ["a", "b", "c"]
    assert str(page) == "x.html"
    for bad in (["a"], [], ["a", "a"], ["a", "./a"], ["a", "b", "--loud"]):
        with pytest.raises(UsageError):
            command.parse(bad)
    for bad in ("--out=x.pdf", "--out=", "--out"):
        with pytest.raises(ConfigError, match=r"ends in \.html"):
            command.parse(["a", "b", bad])


def test_as_a_command(two, tmp_path):
    argv = [sys.executable, "-m", "jaxgen.report", *map(str, two), f"--out={tmp_path}/c.html"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"report: {tmp_path}/c.html\n"
    done = subprocess.run(
        [*argv[:3], str(tmp_path / "none"), str(two[0])],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: workdir is ")
