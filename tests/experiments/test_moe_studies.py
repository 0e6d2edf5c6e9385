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

from configs.moe import (
    dts,
    dts_domains,
    dts_gpu,
    dts_shakespeare,
    dts_yelp,
    flexmoe,
    flexmoe_images,
    gpt_moe_1_5b,
)
from experiments.common import moe
from experiments.dts_gate import curves, gating, training
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
    "reference.hard_at": 4,
    "reference.decay_steps": 4,
    "reference.caps": ((0, 4),),
    "relu.caps": ((0, 4),),
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
    for module in (dts, dts_domains, dts_gpu, dts_shakespeare, dts_yelp, gpt_moe_1_5b):
        dts_gate.validate(module.get_config())
    for module in (flexmoe, flexmoe_images):
        config = module.get_config()
        flexmoe_study.validate(config)
        flexmoe_study.check_devices(config, config.mesh.expert)


@pytest.mark.slow
def test_every_gate_to_the_same_perplexity(tmp_path, one_device):
    methods = ("dts", "dts_reference", "switch", "loss_free", "relu")
    config = configured(dts, TINY, DTS, {"methods": methods})
    dts_gate.validate(config)
    dts_gate.train(config, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    rows = {r["system"]: r for r in results["systems"]}
    assert all(1 < x < 200 for x in results["floors"]["unigram"].values())  # of 200 tokens
    assert "\n| unigram | " in (tmp_path / "report.md").read_text()
    assert set(rows) == set(config.methods)
    assert all(r["lost"] == 0 for r in rows.values())
    assert rows["switch"]["experts"] == rows["loss_free"]["experts"] == 1.0
    # Four of eight steps are soft, with at most four experts.
    assert 1.5 < rows["dts_reference"]["experts"] <= 2.5
    before, after = rows["dts_reference"]["switch"]
    assert after == pytest.approx(before, rel=0.02)
    assert rows["switch"]["to_target"][0] == config.train.steps
    report = (tmp_path / "report.md").read_text()
    assert re.search(r"Cut: none of train, valid, test\. Left out: \d+ train tokens after", report)
    assert results["seconds"]["switch-0"]["1"] > 0
    assert "dts_reference-0" not in results["seconds"]  # no span of steps between two validations
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
    got = gating.segments(config, "dts")
    assert [(s.end, s.budget) for s in got] == [(2, 4), (4, 2), (6, 1)]
    assert got[0].threshold == config.dts.threshold
    logits = 3.0 * jax.random.normal(jax.random.key(0), (500, 4))
    for segment in got:
        at = jnp.int32(segment.end - 1)
        route = gating.make_context(config, "dts", segment, jnp.zeros((1, 500), int), at, {})
        routing = route.gate(logits, jax.random.key(1))
        assert int(routing.overflow) == 0
        assert int(routing.kept.sum(1).max()) <= segment.budget
    short = configured(dts, TINY, DTS, {"train.steps": 5})
    assert [(s.end, s.budget) for s in gating.segments(short, "dts")] == [(2, 4), (3, 2)]


def test_segments_of_the_reference():
    """Soft with one constant threshold, hard with noise to the end, no balance loss while soft."""
    config = configured(dts, TINY, DTS)
    soft, hard = gating.segments(config, "dts_reference")
    assert (soft.end, soft.budget, soft.threshold, soft.balance) == (4, 4, 0.001, 0.0)
    assert (hard.end, hard.hard, hard.noise, hard.balance) == (8, True, True, 0.01)
    config.reference.update(caps=((0, 4), (2, 3)), noise_until=6)
    got = gating.segments(config, "dts_reference")
    assert [(s.end, s.budget, s.noise) for s in got] == [
        (2, 4, True),
        (4, 3, True),
        (6, 1, True),
        (8, 1, False),
    ]
    assert {s.threshold for s in got} == {0.001}
    logits = jax.random.normal(jax.random.key(0), (500, 4))
    tokens, key = jnp.zeros((1, 500), int), jax.random.key(1)
    capped, noisy, plain = (
        gating.make_context(config, "dts_reference", s, tokens, jnp.int32(0), {}).gate(logits, key)
        for s in got[1:]
    )
    cut = (capped.kept.sum(-1) == 3) & (jnp.isclose(capped.weights.sum(-1), 1.0))
    assert cut.mean() > 0.9  # of four experts a high temperature keeps them all
    assert int(capped.overflow) > 400
    assert np.array_equal(plain.expert_ids[:, 0], logits.argmax(-1))
    assert not np.array_equal(noisy.expert_ids, plain.expert_ids)


def test_every_state_of_a_loss_moves_as_it_should():
    """One step of training: the bias against the load, the coefficient towards sparsity; Switch drops."""
    config = configured(dts, TINY, DTS)
    x = jax.random.randint(jax.random.key(0), (8, 17), 0, 200)
    new, metrics = {}, {}
    for method in ("loss_free", "relu", "switch_capacity"):
        (segment,) = gating.segments(config, method)
        task = training.task(config, 200, method, method, segment)
        model, extra = task.build(jax.random.key(1)), task.extra()
        out = task.loss(model, extra, {"tokens": x}, jax.random.key(2), jnp.int32(0))
        metrics[method], new[method] = out[1]
    bias = new["loss_free"]["bias"]
    assert bias.shape == (1, 4)
    assert (np.abs(bias) < 0.0011).all()
    assert (bias > 0.0009).any()
    assert (bias < -0.0009).any()
    assert metrics["relu"]["experts_per_token"] > 1.0
    assert new["relu"]["coefficient"] == pytest.approx(1.2e-8)
    # 128 tokens, 32 places an expert: with one expert above its share some are dropped.
    heaviest = float(metrics["switch_capacity"]["heaviest"])
    assert heaviest > 1.0
    assert metrics["switch_capacity"]["dropped"] >= 32 * heaviest - 32 - 0.5
    assert metrics["relu"]["dropped"] == 0


def test_bits_of_domain_by_hand():
    even = [[[0.5, 0.5]], [[0.5, 0.5]]]
    apart = [[[1.0, 0.0]], [[0.0, 1.0]]]
    assert curves.bits(even) == pytest.approx(0.0)
    assert curves.bits(apart) == pytest.approx(1.0)
    half = [[[1.0, 0.0]], [[0.5, 0.5]]]
    assert curves.bits(half) == pytest.approx(
        0.5 * np.log2(4 / 3) + 0.5 * (0.5 * np.log2(2 / 3) + 0.5)
    )


def test_seconds_of_segments():
    parts = [gating.Segment(4), gating.Segment(10), gating.Segment(12)]
    rows = [
        {"step": 2},
        {"step": 4, "step_seconds": 1.0},
        {"step": 7, "step_seconds": 2.0},
        {"step": 10, "step_seconds": 4.0},
        {"step": 12},
    ]
    each = curves.seconds(parts, rows)
    assert each == [1.0, 3.0, None]
    assert curves.spent(parts, each, 6) == pytest.approx(4 * 1 + 2 * 3)
    assert curves.spent(parts, each, 12) is None


def test_dts_with_its_shared_expert_begins_at_the_dense_model():
    """Unmasked copies and weights that sum to 1 compute what the dense model does."""
    config = configured(dts, TINY, DTS, {"dts.mask_rate": 0.0, "dts.threshold": 0.0})
    dense = moe.build(config, 50, 0, nnx.Rngs(0))
    fresh = moe.build(config, 50, 4, nnx.Rngs(1))
    model = training.from_dense(config, dense, 0, fresh)
    tokens = jax.random.randint(jax.random.key(2), (2, 17), 0, 50)
    segment = gating.segments(config, "dts")[0]
    route = gating.make_context(config, "dts", segment, tokens, jnp.int32(0), {})
    want, _ = moe.nll(dense, tokens, MoEContext(), None)
    got, loads = moe.nll(model, tokens, route, jax.random.key(3))
    assert float(got) == pytest.approx(float(want), rel=1e-5)
    assert (loads.counts == 32).all()
    masked = training.from_dense(
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
        (dts_gate, dts, "reference.caps", ((0, 16),), "experts falling from 8 at most"),
        (dts_gate, dts, "relu.caps", ((3, 8),), "pairs from step 0 on"),
        (dts_gate, dts, "relu.factor", 0.5, "1 to 100"),
        (dts_gate, dts, "loss_free.score", "tanh", "one of sigmoid, softmax"),
        (dts_gate, dts, "capacity.train", 0.0, "above 0"),
        (dts_gate, dts, "model.dropout", 1.0, "below 1"),
        (dts_gate, dts, "methods", ("top",), "some of"),
        (dts_gate, dts, "model.heads", 5, "a divisor of 96"),
        (dts_gate, dts, "data.source", "web", "one of english, files, domains"),
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
