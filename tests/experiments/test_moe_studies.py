"""DTS-Gate's and FlexMoE's studies: small whole runs, what is refused, and what a resumed run repeats."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.moe import dts, dts_shakespeare, dts_yelp, flexmoe, flexmoe_images, gpt_moe_1_5b
from experiments.common import moe
from experiments.dts_gate import study as dts_gate
from experiments.flexmoe import study as flexmoe_study
from jaxgen.errors import ConfigError
from jaxgen.moe.layer import MoEContext
from jaxgen.moe.placement.adaptive import AdaptivePlacement
from jaxgen.train.loop import Preempted
from tests import processes

ROOT = pathlib.Path(__file__).parents[2]
TINY = {
    "train.steps": 8,
    "train.save_every": 4,
    "train.log_every": 1,
    "train.batch_size": 8,
    "model.width": 16,
    "model.depth": 2,
    "model.heads": 2,
    "model.hidden": 24,
    "model.experts": 4,
    "data.context": 16,
    "data.vocab_size": 200,
}
DTS = {
    "train.eval_every": 4,
    "train.eval_windows": 4,
    "dts.budgets": ((0, 4), (2, 2), (4, 1)),
    "dts.decay_steps": 4,
    "dts.shared_steps": 2,
}
FLEX = {
    "model.experts": 8,
    "placement.slots": 2,
    "placement.threshold": 1.0,
    "placement.horizon": 100_000,
    "placement.every": 3,
}


def configured(module, *changes):
    config = module.get_config()
    for change in changes:
        config.update_from_flattened_dict(change)
    return config


def test_shipped_configs_are_valid():
    for module in (dts, dts_shakespeare, dts_yelp, gpt_moe_1_5b):
        dts_gate.validate(module.get_config())
    for module in (flexmoe, flexmoe_images):
        config = module.get_config()
        flexmoe_study.validate(config)
        flexmoe_study.check_devices(config, config.mesh.expert)


@pytest.mark.slow
def test_every_gate_to_the_same_perplexity(tmp_path, one_device):
    config = configured(dts, TINY, DTS, {"methods": ("dts", "switch", "hash")})
    dts_gate.validate(config)
    dts_gate.train(config, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    rows = {r["system"]: r for r in results["systems"]}
    assert all(1 < x < 200 for x in results["floors"]["unigram"].values())  # of 200 tokens
    assert "\n| unigram | " in (tmp_path / "report.md").read_text()
    assert set(rows) == set(config.methods)
    assert all(r["lost"] == 0 for r in rows.values())
    assert rows["switch"]["to_target"][0] == config.train.steps
    report = (tmp_path / "report.md").read_text()
    assert re.search(r"Cut: none of train, valid, test\. Left out: \d+ train tokens after", report)
    assert set(results["seconds"]) == {
        *("dts-4", "dts-2", "dts-1"),  # one a segment, and the shared expert's
        *("switch", "hash", "dense"),
    }
    count = moe.flops(config, 200)
    pairs = config.train.batch_size * config.data.context  # one expert a token, one layer
    want = config.train.steps * (count.base + pairs * count.pair)
    assert rows["switch"]["to_target"][1] == pytest.approx(want)
    assert (tmp_path / "samples" / "experts-dts.png").exists()
    dts_gate.evaluate_again(config, tmp_path)
    again = json.loads((tmp_path / "results.json").read_text())["systems"]
    assert [r["test_perplexity"] for r in again] == [r["test_perplexity"] for r in rows.values()]


def test_segments_leave_nothing_over_the_budget():
    config = configured(dts, TINY, DTS)
    got = dts_gate.segments(config)
    assert [(s.end, s.budget) for s in got] == [(2, 4), (4, 2), (6, 1)]
    assert got[0].threshold == config.dts.threshold
    logits = 3.0 * jax.random.normal(jax.random.key(0), (500, 4))
    for segment in got:
        gate = dts_gate.make_gate(config, "dts", None, jnp.int32(segment.end - 1), segment)
        routing = gate(logits, jax.random.key(1))
        assert int(routing.overflow) == 0
        assert int(routing.kept.sum(1).max()) <= segment.budget
    short = configured(dts, TINY, DTS, {"train.steps": 5})
    assert [(s.end, s.budget) for s in dts_gate.segments(short)] == [(2, 4), (3, 2)]


def test_dts_with_its_shared_expert_begins_at_the_dense_model():
    """Unmasked copies and weights that sum to 1 compute what the dense model does."""
    config = configured(dts, TINY, DTS, {"dts.mask_rate": 0.0, "dts.threshold": 0.0})
    dense = moe.build(config, 50, 0, nnx.Rngs(0))
    fresh = moe.build(config, 50, 4, nnx.Rngs(1))
    model = dts_gate.from_dense(config, dense, 0, fresh)
    tokens = jax.random.randint(jax.random.key(2), (2, 17), 0, 50)
    segment = dts_gate.segments(config)[0]
    route = MoEContext(dts_gate.make_gate(config, "dts", None, jnp.int32(0), segment))
    want, _ = moe.nll(dense, tokens, MoEContext(), None)
    got, loads = moe.nll(model, tokens, route, jax.random.key(3))
    assert float(got) == pytest.approx(float(want), rel=1e-5)
    assert (loads.counts == 32).all()
    masked = dts_gate.from_dense(
        configured(dts, TINY, DTS, {"dts.mask_rate": 0.5}), dense, 0, fresh
    )
    up = np.asarray(masked.stack.blocks[1].moe.experts.up[...])
    assert np.mean(up == 0) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(up.size))
    assert not np.array_equal(up[0], up[1])


@pytest.mark.slow
def test_every_policy_trains_the_same_model_and_resumes_bit_for_bit(tmp_path, monkeypatch):
    config = configured(flexmoe, TINY, FLEX, {"mesh.host_devices": 0})
    flexmoe_study.validate(config)
    flexmoe_study.train(config, tmp_path / "a")
    rows = json.loads((tmp_path / "a" / "results.json").read_text())["systems"]
    by_policy = {r["system"]: r for r in rows}
    for policy in ("static", "shadowing", "eplb", "flexmoe"):
        assert by_policy[policy]["loss_difference"] < 1e-4
        assert by_policy[policy]["dropped"] == 0
        assert by_policy[policy]["step_seconds"] >= by_policy[policy]["ideal_seconds"]
    assert by_policy["capacity"]["dropped"] > 0
    assert by_policy["flexmoe"]["placements"] >= 3
    assert by_policy["eplb"]["placements"] == 2
    for policy in ("flexmoe", "capacity"):
        assert (tmp_path / "a" / "samples" / f"traffic-{policy}.png").exists()

    # Stopped after step 5 and launched again.
    call = AdaptivePlacement.__call__

    def stop(self, step, state):
        state = call(self, step, state)
        if step == 6 and not resumed:
            raise Preempted
        return state

    resumed = False
    monkeypatch.setattr(AdaptivePlacement, "__call__", stop)
    only = configured(flexmoe, TINY, FLEX, {"policies": ("flexmoe",), "mesh.host_devices": 0})
    shutil.copytree(tmp_path / "a" / "tokenizer", tmp_path / "b" / "tokenizer")
    with pytest.raises(Preempted):
        flexmoe_study.train(only, tmp_path / "b")
    resumed = True
    flexmoe_study.train(only, tmp_path / "b")
    whole, parts = (
        [
            (r["step"], r["loss"])
            for line in (tmp_path / d / "metrics.jsonl").read_text().splitlines()
            if (r := json.loads(line))["run"] == "flexmoe-0"
        ]
        for d in "ab"
    )
    assert whole == parts
    with (
        np.load(tmp_path / "a" / "traffic" / "flexmoe-0.npz") as one,
        np.load(tmp_path / "b" / "traffic" / "flexmoe-0.npz") as two,
    ):
        assert np.array_equal(one["counts"], two["counts"])
        assert np.array_equal(one["placements"], two["placements"])


@pytest.mark.slow
def test_vision_transformer_under_flexmoe(tmp_path):
    changes = {"policies": ("static", "flexmoe"), "mesh.host_devices": 0}
    config = configured(flexmoe_images, TINY, FLEX, changes)
    flexmoe_study.train(config, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    rows = results["systems"]
    # Ten digits, about as many of each.
    assert results["floors"]["class frequencies"]["loss"] == pytest.approx(np.log(10), abs=0.01)
    assert rows[1]["loss_difference"] < 1e-4
    assert rows[1]["balance"] < rows[0]["balance"]


@pytest.mark.parametrize(
    ("study", "module", "field", "value", "message"),
    [
        (dts_gate, dts, "dts.threshold", 1.5, "allowed: 0 to 1"),
        (dts_gate, dts, "dts.end", 0.0, "allowed: above 0"),
        (dts_gate, dts, "dts.budgets", ((0, 16),), "experts falling from 8 at most"),
        (dts_gate, dts, "dts.budgets", ((0, 4), (0, 2)), "pairs from step 0 on"),
        (dts_gate, dts, "dts.shared_steps", 400, "below train.steps"),
        (dts_gate, dts, "methods", ("top",), "some of"),
        (dts_gate, dts, "model.heads", 5, "a divisor of 96"),
        (dts_gate, dts, "data.source", "web", "one of english, files"),
        (flexmoe_study, flexmoe, "model.k", 17, "1 to 16"),
        (flexmoe_study, flexmoe, "placement.device", "tpu", "one of v5e"),
        (flexmoe_study, flexmoe, "policies", ("best",), "some of"),
        (flexmoe_study, flexmoe, "model.capacity_factor", 1.0, "see capacity_factor"),
    ],
)
def test_bad_settings_are_named(study, module, field, value, message):
    config = module.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=re.escape(field)) as error:
        study.validate(config)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.experts": 12}, "model.experts is 12, allowed: a multiple of 8"),
        ({"placement.slots": 1}, "placement.slots is 1, allowed: at least 2"),
    ],
)
def test_devices_that_do_not_fit_the_experts(changes, message):
    config = configured(flexmoe, changes)
    with pytest.raises(ConfigError, match=re.escape(message)):
        flexmoe_study.check_devices(config, 8)


@pytest.mark.slow
def test_compiles_with_a_ragged_exchange_for_a_tpu_slice(tmp_path):
    command = [
        sys.executable,
        "-m",
        "experiments.dts_gate",
        "--config=configs/moe/gpt_moe_1_5b.py",
        "--mode=compile",
        "--workdir=" + str(tmp_path),
        "--config.model.depth=2",
        "--config.mesh.topology=v5e:4x4",
        "--config.mesh.expert=8",
        "--config.mesh.fsdp=1",
        "--config.train.batch_size=64",
    ]
    env = processes.environment(for_tpu=True)
    done = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=500, env=env
    )
    assert done.returncode == 0, done.stderr
    assert "ragged-all-to-all: " in done.stdout
    # What the other kind moves is sizes; rows all go by the ragged one.
    assert re.search(r"^all-to-all: \d+ a step, 0\.0 MiB", done.stdout, re.MULTILINE)


def test_windows_tell_what_is_left_over(tmp_path):
    (tmp_path / "a").write_text("\n".join(f"word number {i} </s>" for i in range(100)))
    files = {"data.source": "files", "data.path": str(tmp_path), "data.files": ("a",)}
    config = configured(dts, TINY, files, {"data.tokenizer": "word", "data.context": 7})
    corpus = moe.load(config, tmp_path / "w")
    left = {}
    for name, lines in (("train", 84), ("valid", 8), ("test", 8)):
        predicted = 5 * lines - 1  # four words and an end token a line; the first is not predicted
        assert len(corpus.parts[name]) == predicted // 7
        left[f"{name} tokens after the last whole window"] = predicted % 7
    assert corpus.left_out == left
    assert corpus.about_cuts() == (
        "Cut: none of train, valid, test. Left out: "
        + ", ".join(f"{n} {reason}" for reason, n in left.items())
        + ".\n"
    )
