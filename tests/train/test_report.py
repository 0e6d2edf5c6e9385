"""The report's blocks, marks and provenance."""

import json
import math
import re
import subprocess

import pytest
from PIL import Image

import jaxgen
from jaxgen.config import Config
from jaxgen.train import plots, provenance, report, tables
from tests.pages import Page


@pytest.fixture
def page(tmp_path):
    return report.Report("a study", tmp_path, Config({"train": {"steps": 3}, "losses": ("a", "b")}))


def test_the_best_of_each_column_with_an_arrow_is_marked():
    n = tables.Number
    header = ["system", "up ↑", "down ↓", "flat ↑", "no arrow", "tie ↓"]
    rows = [
        ["a", n(1.0), n(2.0, 0.5), n(1.0), n(9.0), n(0.50001)],
        ["b", n(3.0, 0.1), n(math.nan), n(1.0), n(8.0), n(0.50002)],
        ["c", "–", n(4.0), n(1.0), n(7.0), n(0.6)],
    ]
    assert tables.best_cells(header, rows) == {(1, 1), (0, 2), (0, 5), (1, 5)}
    text = tables.number_table(header, rows, [["rule", n(99.0), *"–––––"[:4]]])
    assert text.splitlines()[3] == "| b | **3.00 ± 0.10** | nan | 1.00 | 8.00 | **0.500** |"
    assert text.splitlines()[-1] == "| rule | 99.0 | – | – | – | – |"  # a rule is never the best


def test_one_system_alone_is_not_marked():
    rows = [{"system": "a", "seed": s, "x": float(s)} for s in (0, 1)]
    text, ranks = tables.comparison_table(rows, {"x": "X ↑"}, ranked=["x"])
    assert text.splitlines()[2] == "| a | 0.500 ± 0.707 | 1.00 |"
    assert ranks == {"a": 1.0}


def test_files_hold_contents_command_config_machine_and_wall_times(page, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["x.py", "--workdir=a b", "--config=c.py"])
    rows = [
        {"run": "vae-0", "step": 50, "loss": 3.0, "steps_per_second": 5.0},
        {"run": "vae-0", "step": 100, "loss": 2.0, "steps_per_second": 0.5},
        {"run": "gan-0", "step": 10, "loss": 2.0, "steps_per_second": 2.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    page.section("Results")
    scores = [{"system": s, "seed": 0, "x": v} for s, v in (("a", 1.0), ("b", 2.0))]
    assert page.comparison(scores, {"x": "X ↑"}) == {}
    page.section("Results")
    page.curves()
    path = page.write({"systems": scores})
    assert path == tmp_path / "report.html"
    found = Page(path.read_text())
    assert found.alive() == []
    titles = ["Results", "Results", "Training", "How it was made"]
    assert found.text["h2"] == found.text["li"] == titles
    anchors = [a["href"] for t, a in found.elements if t == "a"]
    assert anchors == ["#results", "#results-1", "#training", "#how-it-was-made"]
    assert found.text["strong"] == ["2.00"]
    assert found.text["summary"] == [
        "Training of 2 runs: 3:25 min, compilation included",
        "Config",
    ]
    cells = found.text["td"]
    assert cells[-6:] == ["vae-0", "100", "3:20 min", "gan-0", "10", "5.0 s"]
    assert jaxgen.__version__ in cells
    assert re.fullmatch(r"python .*'--workdir=a b' --config=c.py\n", found.text["pre"][0])
    assert '"steps": 3' in found.text["pre"][-1]
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["systems", "columns", "config", "command", "versions"]
    assert results["columns"] == {"x": "X ↑"}
    assert results["config"] == {"train": {"steps": 3}, "losses": ["a", "b"]}
    assert results["command"] == found.text["pre"][0].strip()
    assert re.fullmatch(r"\d+ x .+", results["versions"]["devices"])
    markdown = (tmp_path / "report.md").read_text()
    assert "- [Results](#results-1)\n" in markdown
    assert "![loss](samples/curve-loss.png)" in markdown


def test_systems_stand_side_by_side(page, tmp_path):
    for i in range(6):
        Image.new("L", (2, 2)).save(tmp_path / f"{i}.png")
    page.grid({f"system {i}": f"{i}.png" for i in range(6)})
    page.texts({"a": ["1", "2"], "b <i>": ["3", "4 | 5"]})
    found = Page(page.write().read_text())
    assert found.text["figcaption"] == [f"system {i}" for i in range(6)]
    assert found.text["td"] == ["1", "3", "2", "4 | 5"]
    assert found.text["th"] == ["a", "b <i>"]
    markdown = (tmp_path / "report.md").read_text()
    assert "| ![system 4](4.png) | ![system 5](5.png) |" in markdown
    assert not (tmp_path / "results.json").exists()


def test_pages_are_light_and_dark_and_scroll_on_a_phone(page):
    page.table(["a", "b"], [["x", tables.Number(1.0)]])
    found = Page(page.write({}).read_text())
    style = found.text["style"][0]
    assert "prefers-color-scheme: dark" in style
    viewport = [a["content"] for t, a in found.elements if a.get("name") == "viewport"]
    assert viewport == ["width=device-width,initial-scale=1"]
    boxes = [a for t, a in found.elements if t == "div" and "scroll" in a["class"]]
    assert len(boxes) == 2  # the table, and the versions
    assert found.tags.count("table") == 2


def test_training_curves_have_one_picture_a_metric_and_no_more(tmp_path):
    rows = [{"run": f"r-{s}", "step": t, "loss": 1.0 / t} for s in (0, 1) for t in (1, 2)]
    rows.append({"run": "r-0", "step": 1, "eps_mse": 1.0, "loss": 2.0, "grad_norm": 1.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = plots.plot_training(tmp_path / "s", {"": tmp_path})
    assert {m: p.name for m, p in found.items()} == {
        "loss": "curve-loss.png",
        "eps_mse": "curve-eps_mse.png",
    }
    assert plots.plot_training(tmp_path / "s", {"": tmp_path / "empty"}) == {}


def test_commands_are_of_launches_alone():
    assert provenance.command(["pytest", "-q", "tests"]) == ""
    assert provenance.command(["k.py", "-f", "/x/kernel.json"]) == ""
    assert provenance.command(["e.py", "--workdir", "w"]).endswith(" --workdir w")


def test_commits_are_of_the_checkout_itself(tmp_path):
    def git(*args):
        who = ["-c", "user.name=n", "-c", "user.email=e@example.com"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *args], check=True, capture_output=True)

    assert provenance.commit(tmp_path) == ""
    git("init")
    (tmp_path / "f").write_text("1")
    assert provenance.commit(tmp_path) == ""  # nothing is committed
    git("add", "f")
    git("commit", "-m", "m")
    clean = provenance.commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{12,}", clean)
    (tmp_path / "f").write_text("2")
    assert provenance.commit(tmp_path) == f"{clean}-dirty"
    (tmp_path / "inside").mkdir()
    assert provenance.commit(tmp_path / "inside") == ""


def test_durations():
    assert [provenance.duration(s) for s in (0.04, 59.9, 245.0, 7384.0)] == [
        "0.0 s",
        "59.9 s",
        "4:05 min",
        "2:03:04 h",
    ]
