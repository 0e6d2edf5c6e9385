"""The CPU benchmarks' records, the file of all runs, and the page that is made from it."""

import importlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
# Stand-ins for a benchmark, which say how often they ran; jax is not needed for what is tested here.
SCRIPT = """
import pathlib, sys, time
sys.path.insert(0, {here!r})
import records
args = records.parser("A stand-in.", rounds=3).parse_args()
out = records.Recorder(args.json)
out.add(records.pairs("step", [2.0] * args.rounds, [3.0] * args.rounds, target=1.15))
with open({file!r} + ".ran", "a") as f:
    f.write("x")
{then}
"""


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def records():
    return importlib.import_module("records")


@pytest.fixture
def page():
    return importlib.import_module("page")


@pytest.fixture
def every(monkeypatch):
    return importlib.import_module("all")


def stand_in(folder, name, then=""):
    file = folder / f"{name}.py"
    file.write_text(SCRIPT.format(here=str(BENCHMARKS), file=str(folder / name), then=then))
    return str(file)


def times_run(folder, name):
    file = folder / f"{name}.ran"
    return len(file.read_text()) if file.is_file() else 0


def a_run(records, rows, *, benchmark="step", cores=1, failed=""):
    versions = {"Python": "3.11.0", "jax": "0.10.2"}
    facts = {"cpu": "A CPU", "cores": cores, "versions": versions, "date": "2026-01-01 00:00"}
    return {
        "benchmark": benchmark,
        "command": f"python benchmarks/{benchmark}.py",
        "machine": facts | {"commit": "abc1234"},
        "load": [0.5, 1.25],
        "seconds": 3.0,
        "failed": failed,
        "records": [records.dump(r) for r in rows],
    }


def test_ratios_are_taken_in_each_round(records):
    gain = records.pairs("step", [1.0, 2.0, 4.0], [3.0, 4.0, 4.0], target=1.15)
    assert gain.ratio == (2.0, 1.0, 3.0)  # the medians' ratio would be 2.0 too, the extremes not
    assert (gain.ours, gain.peer, gain.rounds) == ((2.0, 1.0, 4.0), (4.0, 3.0, 4.0), 3)
    assert (gain.ratio_name, gain.verdict) == ("PyTorch / ours", "at least 1.15: met")
    cost = records.pairs("layer", [1.0, 3.0], [2.0, 2.0], cost=True, target=0.9)
    assert cost.ratio == (1.0, 0.5, 1.5)
    assert (cost.ratio_name, cost.verdict) == ("ours / PyTorch", "at most 0.90: missed")
    rate = records.pairs("worlds", [300.0], [100.0], unit="steps/s", target=4.0)
    assert (rate.ratio_name, rate.ratio.median) == ("ours / PyTorch", 3.0)
    assert rate.verdict == "at least 4.00: missed"


def test_a_record_prints_what_it_holds_and_survives_json(records):
    extra = {"MiB": 1000.0, "evaluations": 49}
    row = records.pairs("step", [2.0], [3.0], sizes={"B": 8, "V": 32_000}, extra=extra, target=1.15)
    assert str(row) == (
        "step, B 8, V 32,000: ours 2.00 ms, PyTorch 3.00 ms; PyTorch / ours 1.50x (min 1.50, max 1.50, "
        "1 pairs); MiB 1,000; evaluations 49; target at least 1.15: met"
    )
    lone = records.alone("plan", [1.0, 3.0], unit="s")
    absent = records.Record("torch", missing="torch is not installed")
    assert str(absent) == "torch: torch is not installed"
    for each in (row, lone, absent):
        assert records.load(json.loads(json.dumps(records.dump(each)))) == each


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (0.0125, "0.013"), (0.98, "0.98"), (23.04, "23.0"), (1114.4, "1,114")],
)
def test_numbers_have_about_three_digits(records, value, text):
    assert records.number(value) == text


def test_a_page_is_made_once_and_then_stays(records, page, tmp_path):
    rows = [
        records.pairs("step", [2.0, 2.0], [3.0, 4.0], target=1.15),
        records.Record("sampling", missing="torch is not installed"),
        records.alone("search", [1.0, 2.0, 3.0], unit="nodes/s", part="search"),
    ]
    runs = [a_run(records, rows), a_run(records, [], benchmark="gone", failed="exit code 1: no x")]
    file = tmp_path / "page.md"
    text = (
        "# Speed\n\nBefore.\n\n<!-- table: step, 1 core -->\nold\n<!-- end -->\n\nBetween.\n\n"
        "<!-- table: step/search, 1 core -->\n<!-- end -->\n\n<!-- table: gone, 1 core -->\n<!-- end -->\n\n"
        "<!-- table: step, 2 cores -->\n| by hand |\n<!-- end -->\nAfter.\n"
    )
    file.write_text(text)
    page.update(file, runs)
    made = file.read_text()
    assert "| step | 2.00 ms | 3.50 ms | 1.75x (1.50 to 2.00) | at least 1.15: met |  |" in made
    assert "| sampling |  |  |  |  | torch is not installed |" in made
    assert "| search | 2.00 (1.00 to 3.00) nodes/s |" in made
    assert "`python benchmarks/step.py`; 1 core of A CPU; load average 0.5 before, 1.25" in made
    assert "It failed: exit code 1: no x" in made
    assert "old" not in made
    for kept in ("# Speed\n\nBefore.", "\nBetween.\n", "| by hand |\n<!-- end -->\nAfter.\n"):
        assert kept in made
    page.update(file, runs)
    assert file.read_text() == made


def test_tables_without_a_place_are_told(records, page, tmp_path, capsys):
    file = tmp_path / "page.md"
    file.write_text("Nothing.\n")
    page.update(file, [a_run(records, [records.alone("plan", [1.0])], cores=2)])
    assert "no place for it: <!-- table: step, 2 cores -->" in capsys.readouterr().out
    assert file.read_text() == "Nothing.\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a\n<!-- table: x, 1 core -->\nb", "'x, 1 core' has no <!-- end -->"),
        ("a\n<!-- end -->", "line 2: <!-- end --> without a table"),
        ("<!-- table: x, 1 core -->\n<!-- table: y, 1 core -->", "line 2: a table begins before"),
        ("<!-- table: x, one core -->\n<!-- end -->", "line 1: 'x, one core' is no table, allowed"),
        ("<!-- table: x, 1 core -->\n<!-- end -->\n" * 2, "line 3: 'x, 1 core' is there twice"),
        ("<!--table: x, 1 core -->\n<!-- end -->", "line 2: <!-- end --> without a table"),
        ("a <!-- table: x, 1 core -->", "line 1: 'a <!-- table: x, 1 core -->' is no marker"),
    ],
)
def test_bad_markers_are_one_clear_error(page, tmp_path, text, told):
    file = tmp_path / "page.md"
    file.write_text(text)
    with pytest.raises(page.PageError, match=re.escape(told)) as e:
        page.update(file, [])
    assert str(file) in str(e.value)
    assert "\n" not in str(e.value)
    assert file.read_text() == text


def test_rows_of_other_sides_are_no_table(records, page):
    rows = [records.pairs("a", [1.0], [1.0]), records.pairs("b", [1.0], [1.0], cost=True)]
    with pytest.raises(ValueError, match="rows a, b have other sides"):
        page.table(rows)


def test_a_table_has_the_columns_that_its_rows_need(records, page):
    rows = [records.alone("a", [2.0], sides=("a call", ""), extra={"%": 50.0})]
    rows.append(records.Record("b", sides=("a call", ""), extra={"GFLOP/s": 90.0}))
    assert page.table(rows).splitlines() == [
        "|  | a call | % | GFLOP/s |",
        "| --- | --- | --- | --- |",
        "| a | 2.00 ms | 50.0 |  |",
        "| b |  |  | 90.0 |",
    ]


def test_a_failure_is_kept_the_others_go_on_and_resume_skips(every, monkeypatch, tmp_path):
    scripts = {
        "good": stand_in(tmp_path, "good"),
        "bad": stand_in(tmp_path, "bad", "raise ImportError('no module of the peer')"),
        "last": stand_in(tmp_path, "last"),
    }
    made = {name: every.Benchmark(script) for name, script in scripts.items()}
    monkeypatch.setattr(every, "BENCHMARKS", made)
    file, text = tmp_path / "all.json", tmp_path / "page.md"
    cores = every.records.cores_of(len(every.records.usable_cores()))
    text.write_text(f"<!-- table: good, {cores} -->\n<!-- end -->\n")
    every.main(["--json", str(file), "--rounds", "2", "--page", str(text)])
    runs = json.loads(file.read_text())["runs"]
    assert [r["benchmark"] for r in runs] == ["good", "bad", "last"]
    assert [r["failed"] for r in runs] == [
        "",
        "exit code 1: ImportError: no module of the peer",
        "",
    ]
    for r in runs:  # what was measured before the failure is kept too
        assert r["records"][0]["ratio"] == [1.5, 1.5, 1.5]
        assert r["records"][0]["rounds"] == 2
    assert {"cpu", "cores", "versions", "date", "commit"} <= runs[0]["machine"].keys()
    assert (
        "| step | 2.00 ms | 3.00 ms | 1.50x (1.50 to 1.50) | at least 1.15: met |"
        in text.read_text()
    )

    every.main(["--json", str(file), "--resume"])
    assert [times_run(tmp_path, n) for n in scripts] == [1, 2, 1]
    every.main(["--json", str(file), "--only", "good"])
    assert [times_run(tmp_path, n) for n in scripts] == [2, 2, 1]
    again = json.loads(file.read_text())["runs"]
    assert [r["benchmark"] for r in again] == ["good", "bad", "last"]
    assert again[0]["records"][0]["rounds"] == 3  # the script's own number


def test_where_a_peer_lies_is_not_kept(every, monkeypatch, tmp_path):
    made = {"world": every.Benchmark(stand_in(tmp_path, "world"))}
    monkeypatch.setattr(every, "BENCHMARKS", made)
    every.main(["--json", str(tmp_path / "all.json"), "--peer", str(tmp_path)])
    (run,) = json.loads((tmp_path / "all.json").read_text())["runs"]
    assert run["command"].endswith(".py --peer=DIR")


def test_what_was_measured_survives_a_kill(tmp_path):
    scripts = {
        "good": stand_in(tmp_path, "good"),
        "long": stand_in(tmp_path, "long", "import os; print(os.getpid()); time.sleep(600)"),
    }
    file = tmp_path / "all.json"
    # As launched from a shell, with these benchmarks in place of the real ones.
    source = (BENCHMARKS / "all.py").read_text(encoding="utf-8")
    made = ", ".join(f"{n!r}: Benchmark({s!r})" for n, s in scripts.items())
    launcher = tmp_path / "launcher.py"
    launcher.write_text(
        source.replace("\n\ndef run(", f"\n\nBENCHMARKS = {{{made}}}\n\n\ndef run(")
    )
    command = [sys.executable, str(launcher), "--json", str(file)]
    env = os.environ | {"PYTHONPATH": str(BENCHMARKS)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.strip().isdigit():
                child = int(line)
                process.send_signal(signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    assert [r["benchmark"] for r in json.loads(file.read_text())["runs"]] == ["good"]
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_real_benchmark_from_launch_to_page(tmp_path):
    file, text = tmp_path / "all.json", tmp_path / "page.md"
    text.write_text("<!-- table: placement/plans, 1 core -->\n<!-- end -->\n")
    command = [sys.executable, "benchmarks/all.py", "--only", "placement", "--rounds", "1"]
    command += ["--json", str(file), "--page", str(text)]
    command += ["--cores", "1"] if hasattr(os, "sched_setaffinity") else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stdout + done.stderr
    (run,) = json.loads(file.read_text())["runs"]
    assert not run["failed"]
    assert run["command"] == "python benchmarks/placement.py --cases 1"
    shown = text.read_text()
    for record in run["records"]:
        here = record["part"] == "plans"
        assert here == (f"| {record['name']}" in shown), record
        if "plan" in record["extra"]:
            assert record["extra"]["plan"] >= record["extra"]["bound"] - 1e-9 >= 1.0 - 2e-9


def test_every_script_of_records_is_launched_by_all(every):
    scripts = {
        p.name
        for p in BENCHMARKS.glob("*.py")
        if "records.parser(" in p.read_text(encoding="utf-8")
    }
    assert scripts == {b.script for b in every.BENCHMARKS.values()}


def test_the_page_agrees_with_its_file(page):
    """`python benchmarks/page.py docs/benchmarks.json docs/benchmarks.md` makes it so."""
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    made = page.tables(json.loads((ROOT / "docs" / "benchmarks.json").read_text())["runs"])
    assert page.fill(text, made) == text
    assert not page.missing(text, made)


def test_operations_have_the_flops_of_what_they_hold(monkeypatch):
    op_times = importlib.import_module("op_times")
    found = op_times.operations(
        """
%fused (a: f32[64,32], b: f32[32,8]) -> f32[64,8] {
  %a = f32[64,32]{1,0} parameter(0)
  %b = f32[32,8]{1,0} parameter(1)
  ROOT %dot.1 = f32[64,8]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: f32[2,8,8,16], k: f32[3,3,16,4], y: f32[64,32], z: f32[32,8]) -> f32[64,8] {
  %x = f32[2,8,8,16]{3,2,1,0} parameter(0)
  %k = f32[3,3,16,4]{3,2,1,0} parameter(1)
  %conv = f32[2,8,8,4]{3,2,1,0} convolution(%x, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
  %sum = f32[2]{0} add(%p, %q), metadata={op_name="jit(step)/jvp()/add" stack_frame_id=1}
  ROOT %fusion.2 = f32[64,8]{1,0} fusion(%y, %z), kind=kCustom, calls=%fused
}
"""
    )
    assert found["conv"][:3] == ("convolution", "", 2 * (2 * 8 * 8 * 4) * (3 * 3 * 16))
    assert found["fusion.2"].flops == found["dot.1"].flops == 2 * 64 * 8 * 32
    kinds = {"elementwise": ("jvp",)}
    names = {n: op_times.kind_of(n, found[n], kinds) for n in ("conv", "fusion.2", "sum", "x")}
    assert names == {
        "conv": "convolutions",
        "fusion.2": "matrix products",
        "sum": "elementwise",
        "x": "other",
    }


def test_a_trace_counts_what_a_loop_repeats(monkeypatch):
    import jax
    import jax.numpy as jnp

    op_times = importlib.import_module("op_times")
    monkeypatch.setattr(op_times, "peak", lambda: 1e6)
    a = jnp.ones((64, 64))
    turns = jax.jit(lambda a: jax.lax.fori_loop(0, 5, lambda _, b: jnp.tanh(b @ a), a))
    built = turns.lower(a).compile()
    made = op_times.by_kind(lambda: built(a), built.as_text(), calls=2, kinds={})
    rows = {r.name: r for r in made}
    assert rows["matrix products"].extra["operations"] == 5
    spent = rows["matrix products"].ours.median
    assert spent > 0
    rate = rows["matrix products"].extra["GFLOP/s"]
    assert rate * spent * 1e6 == pytest.approx(5 * 2 * 64**3, rel=1e-3)
    assert rows["all"].ours.median >= spent
