"""The GPU benchmark on a CPU: what it imports, its gates, its table, its budget."""

import json
import os
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
BENCH = ROOT / "benchmarks" / "gpu"
# What a machine with a GPU need not have.
OPTIONAL = ("datasets", "gguf", "grain", "mctx", "ml_collections", "tensorboardX")
OPTIONAL += ("tensorflow_datasets", "torch")
IMPORT_ALL = """
import importlib, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Blocked())
for module in {modules}:
    importlib.import_module(module)
import jax
from jaxgen.models import gpt2, hf
print("jaxgen" in sys.modules, sorted({names} & {{m.split(".")[0] for m in sys.modules}}))
"""


def launch(*args, **options):
    path = os.pathsep.join([str(ROOT), str(BENCH)])
    env = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    env.pop("XLA_FLAGS", None)  # one device
    run = [sys.executable, *map(str, args)]
    return subprocess.run(run, env=env, capture_output=True, text=True, check=False, **options)


@pytest.fixture
def measure(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import measure

    return measure


@pytest.fixture
def report(measure):
    import report

    card = measure.Card("NVIDIA H100 80GB HBM3", 989e12, 3e12)
    torch = types.SimpleNamespace(__version__="0")
    files, settings = {}, {"platform": "cpu", "no_peers": "", "small": True, "deadline": 1e9}
    return report.Report(card=card, torch=torch, files=files, path=None, **settings)


def test_it_imports_nothing_that_a_gpu_machine_may_lack():
    modules = [f.stem for f in sorted(BENCH.glob("*.py")) if not f.stem.startswith("torch_")]
    assert {"bench", "measure", "experts"} <= set(modules)
    done = launch("-c", IMPORT_ALL.format(names=set(OPTIONAL), modules=modules), timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[-2] == "True []"


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", None),
        ("cpu", None),
    ],
)
def test_peaks_go_by_whole_words_of_the_name(measure, name, tera):
    assert measure.peak_of(name) == (None if tera is None else tera * 1e12)


def test_a_gate_is_relative_to_the_other_side_and_refuses_nan(measure):
    a = np.array([1.0, -2e-3])
    assert measure.gap({"a": (1e-6 * a, 1e-6 * a)}, 0.0) == 0.0
    assert measure.gap({"a": (a, a + 5e-5)}, 1e-4) == pytest.approx(5e-5)
    with pytest.raises(measure.GateError, match=r"tiny differs by 1.00e-08, allowed: 1.0e-10"):
        measure.gap({"tiny": (np.array([1.01e-6]), np.array([1e-6]))}, 1e-4)
    with pytest.raises(measure.GateError, match="differs by nan"):
        measure.gap({"a": (np.array([np.nan]), np.ones(1))}, 1e-4)
    with pytest.raises(measure.GateError, match="shape"):
        measure.gap({"a": (np.ones(2), np.ones(3))}, 1.0)


def test_sides_take_turns_and_the_host_is_free_before_the_work_is_done(measure):
    import time

    order = []

    def side(name, wait):
        return measure.Side(lambda: order.append(name), lambda _: time.sleep(wait))

    times = measure.in_turns({"a": side("a", 0.02), "b": side("b", 0.0)}, rounds=4, warmup=1)
    assert "".join(order) == "ab" * 5
    assert len(times["a"].whole) == len(times["b"].host) == 4
    assert min(times["a"].whole) >= 20
    assert max(times["a"].host) < 20


def test_programs_count_operations_and_weights_are_random_without_compiling(measure):
    import jax
    import jax.numpy as jnp
    from flax import nnx

    a = jnp.ones((16, 32))
    product, double = measure.programs([(jnp.matmul, a, a.T), (lambda x: 2 * x, a)])
    np.testing.assert_array_equal(product.run(), 32.0)
    np.testing.assert_array_equal(double.run(), 2.0)
    assert product.flops == pytest.approx(2 * 16 * 16 * 32, rel=0.1)
    blank = jax.eval_shape(lambda: nnx.Linear(400, 300, rngs=nnx.Rngs(0)))
    one, same, other = (measure.filled(blank, seed) for seed in (0, 0, 1))
    assert float(one.kernel[...].std()) == pytest.approx(400**-0.5, rel=0.02)
    assert (one.bias[...] != 0).all()
    assert (one.kernel[...] == same.kernel[...]).all()
    assert (one.kernel[...] != other.kernel[...]).any()


def test_a_row_shares_out_peak_and_bandwidth_and_says_why_a_peer_is_missing(report):
    def broken():
        raise RuntimeError("no kernel | for this")

    row = report.compare(
        "part",
        "size",
        lambda: 0,
        {"eager": lambda: lambda: 0, "compile": broken},
        gap=1e-6,
        flops=989e9,
        bytes=3e9,
        memory=2**20,
        per=2,
    )
    assert row.peers["compile"] == "failed: RuntimeError: no kernel / for this"
    row.ours.whole, row.ours.host = [1.0, 3.0, 2.0], [0.5, 0.5, 0.5]
    row.peers["eager"].whole = [2.0, 3.0, 8.0]
    cells = dict(zip(sys.modules["report"].COLUMNS, report.cells(row), strict=True))
    assert cells["ours, ms (min to max)"] == "1 (0.5 to 1.5, 3)"  # of each of two units
    assert cells["eager / ours"] == "2.00"
    assert cells["compile / ours"] == "-"
    assert cells["of peak"] == cells["of bandwidth"] == "50%"
    assert cells["max abs diff"] == "1.0e-06"
    report.fail("other", ValueError("why"))
    report.skip(["last"], "was skipped: the budget was spent")
    table = report.table()
    assert "other failed: ValueError: why" in table
    assert "last was skipped: the budget was spent" in table
    assert report.code() == 1


def test_a_program_that_cannot_be_made_fails_alone(measure, report):
    import jax.numpy as jnp

    def broken(a):
        raise RuntimeError("not here")

    a = jnp.ones(4)
    first, second = measure.programs([(broken, a), (jnp.sum, a)])
    assert report.compare("broken", "4", first.run) is None
    assert report.compare("sum", "4", second.run).part == "sum"
    assert report.failed == {"broken, 4": "RuntimeError: not here"}
    assert [row.part for row in report.rows] == ["sum"]


def test_a_spent_budget_names_what_it_skipped():
    done = launch(BENCH / "bench.py", "--small", "--budget", "0", timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    for part in ("eisl", "moe", "attention", "celeba64", "gpt2", "latent_ode", "digits"):
        told = rf"^{part} was (skipped|cut off): the budget of 0 s was spent$"
        assert re.search(told, done.stdout, re.MULTILINE), part


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_parts_pass_their_gates_on_a_cpu(tmp_path):
    file = tmp_path / "gpu.json"
    done = launch(BENCH / "bench.py", "--small", "--budget", "1700", "--json", file, timeout=1750)
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(file.read_text(encoding="utf-8"))
    assert result["failed"] == result["skipped"] == {}
    rows = result["rows"]
    for part in ("EISL", "MoE", "attention", "celeba64", "GPT-2", "ODE", "digits", "SmolLM2"):
        assert any(part in row["part"] for row in rows), part
    peers = [row for row in rows if row["ms"]["eager"] is not None]
    for row in peers:
        assert row["gap"] is not None or "alone" in row["part"], row["part"]
        assert isinstance(row["peers"]["compile"], dict), row["peers"]["compile"]
    assert len(peers) >= 10 or "torch" in result["torch"]
    assert all(line.startswith("|") for line in done.stdout.splitlines()[2 : 4 + len(rows)])
