"""Translation under noisy targets: a small whole run, and what it keeps."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.eisl import (
    invented,
    invented_protocol,
    multi30k,
    multi30k_non_autoregressive,
    multi30k_protocol,
    vocab256k,
)
from experiments.eisl import corpus as translation
from experiments.eisl import study, tasks
from jaxgen import mesh as mesh_lib
from jaxgen.errors import ConfigError
from jaxgen.losses import eisl as losses
from jaxgen.text.masking import eos_mask
from tests import processes

ROOT = pathlib.Path(__file__).parents[2]
TINY = {
    "train.steps": 3,
    "train.save_every": 3,
    "train.log_every": 3,
    "train.batch_size": 8,
    "finetune.steps": 2,
    "model.width": 16,
    "model.depth": 1,
    "model.heads": 2,
    "model.dropout": 0.0,
    "data.limit": 300,
    "data.vocab_size": 400,
    "data.max_tokens": 48,
    "data.train_tokens": 16,
    "noise.kinds": ("blank",),
    "noise.levels": (0.0, 0.5),
}


def test_shipped_configs_are_valid():
    modules = (invented, invented_protocol, multi30k, multi30k_non_autoregressive)
    for module in (*modules, multi30k_protocol, vocab256k):
        study.validate(module.get_config())


@pytest.mark.slow
def test_every_loss_in_every_cell_and_finished_cells_are_kept(tmp_path, monkeypatch, one_device):
    config = invented.get_config()
    config.update_from_flattened_dict(TINY)
    study.validate(config)
    every = config.losses
    config.losses = every[:1]
    study.train(config, tmp_path)
    first = json.loads((tmp_path / "results.json").read_text())["systems"]
    lost = "train pairs of more than 16 tokens.\n"
    assert re.search(rf"Left out: [1-9]\d* {lost}", (tmp_path / "report.md").read_text())
    config.losses = every
    study.train(config, tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())["systems"]
    assert all(r in rows for r in first)
    assert {(r["loss"], r["level"]) for r in rows} == {
        (loss, level) for loss in ("start", *config.losses) for level in (0.0, 0.5)
    }
    assert all(0 <= r["bleu"] <= 100 for r in rows)
    floors = json.loads((tmp_path / "results.json").read_text())["floors"]
    copied = floors["copy of the input"]["bleu"]
    assert 0 <= copied < 5  # the invented language shares its punctuation with the other alone
    assert (tmp_path / "report.md").read_text().count("\n| copy of the input | ") == 1  # one kind
    monkeypatch.setattr(study, "train_start", None)
    monkeypatch.setattr(study, "train_cell", None)
    study.train(config, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["systems"] == rows


@pytest.mark.slow
def test_one_clean_start_for_all_cells_is_trained_and_tested_once(
    tmp_path, monkeypatch, one_device
):
    config = invented.get_config()
    config.update_from_flattened_dict(TINY | {"noise.start": "clean", "losses": ("ce",)})
    tested = []

    def bleu(model, corpus, split):
        tested.append(model)
        return study.Tested(float(len(tested)), ["a"] * 5)

    monkeypatch.setattr(study, "bleu", bleu)
    study.train(config, tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())["systems"]
    assert [(r["loss"], r["level"], r["bleu"]) for r in rows] == [
        ("start", 0.0, 1.0),
        ("ce", 0.0, 2.0),
        ("start", 0.5, 1.0),
        ("ce", 0.5, 3.0),
    ]
    assert [p.name for p in (tmp_path / "checkpoints").glob("start-*")] == ["start-clean-0"]


def test_the_best_step_on_valid_is_tested_and_its_curve_is_reported(tmp_path, one_device):
    config = invented_protocol.get_config()
    noise = {"noise.kinds": ("combined",), "noise.levels": (0.2,), "losses": ("best_of", "eisl12")}
    selection = {"selection.start_every": 1, "selection.every": 1, "selection.rows": 4}
    config.update_from_flattened_dict(TINY | noise | selection)
    study.validate(config)
    study.train(config, tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())["systems"]
    assert [r["loss"] for r in rows] == ["start", "best_of", "eisl12"]
    for row, steps in zip(rows, (3, 2, 2), strict=True):
        assert [step for step, _ in row["curve"]] == list(range(1, steps + 1))
        top = max(score for _, score in row["curve"])
        assert row["step"] == next(step for step, score in row["curve"] if score == top)
        assert 0 <= row["unknown"] <= 1
    said = (tmp_path / "report.md").read_text()
    assert "highest BLEU on 4 clean valid pairs, looked at every 1 steps of the start and" in said
    assert (tmp_path / "samples" / "valid-combined.png").is_file()
    # Tested again from the checkpoints alone: the weights chosen are in them.
    trained = (tmp_path / "metrics.jsonl").read_text()
    study.evaluate_again(config, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["systems"] == rows
    assert (tmp_path / "metrics.jsonl").read_text() == trained


def test_the_authors_ngrams_are_a_loss_beside_those_of_the_config():
    config = invented.get_config()
    config.update_from_flattened_dict(TINY | {"data.vocab_size": 96, "data.max_tokens": 16})
    corpus, _ = translation.abstract(config)
    ids = jnp.asarray(np.random.default_rng(0).integers(3, 96, (4, 16)))
    model = tasks.build(config, corpus, nnx.Rngs(0))

    def value(name, **eisl):
        config.eisl.update(eisl)
        return float(tasks.make_loss(config, name)(model, ids, ids, jax.random.key(0)))

    theirs = value("eisl12")
    one, two = (value("eisl", ngrams=(n,)) for n in (1, 2))
    assert theirs == pytest.approx(0.8 * one + 0.2 * two, rel=1e-5)
    assert value("eisl", ngrams=(2, 1), weights=(0.2, 0.8)) == pytest.approx(theirs, rel=1e-5)


@pytest.mark.slow
def test_a_non_autoregressive_decoder_runs_and_is_tested_again_from_its_checkpoint(
    tmp_path, one_device
):
    config = invented.get_config()
    changes = {"model.non_autoregressive": True, "losses": ("eisl",), "noise.levels": (0.0,)}
    config.update_from_flattened_dict(TINY | changes)
    study.validate(config)
    study.train(config, tmp_path)
    rows = json.loads((tmp_path / "results.json").read_text())["systems"]
    assert [r["loss"] for r in rows] == ["start", "eisl"]
    trained = (tmp_path / "metrics.jsonl").read_text()
    study.evaluate_again(config, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["systems"] == rows
    assert (tmp_path / "metrics.jsonl").read_text() == trained


def test_long_pairs_are_left_out_of_training_and_noise_is_cut(tmp_path):
    config = invented.get_config()
    config.update_from_flattened_dict(
        TINY | {"data.vocab_size": 400, "data.max_tokens": 40, "data.train_tokens": 14}
    )
    corpus = translation.load(config, tmp_path)
    train = corpus.parts["train"]
    whole = [
        (corpus.ids([s]) != corpus.pad).sum() <= 14 and (corpus.ids([t]) != corpus.pad).sum() <= 14
        for s, t in zip(train.source, train.target, strict=True)
    ]
    assert corpus.about_cuts() == (
        "Cut: none of train, valid, test. "
        f"Left out: {len(train) - sum(whole)} train pairs of more than 14 tokens.\n"
    )
    clean = corpus.arrays("repetition", 0.0, 0)
    assert len(clean["source"]) == sum(whole) < len(train)
    assert np.array_equal(clean["target"][0], corpus.ids([train.target[whole.index(True)]])[0, :14])
    noisy = corpus.arrays("repetition", 1.0, 0)
    assert noisy["target"].shape == clean["target"].shape
    with pytest.raises(ConfigError, match=r"data\.train_tokens is 5"):
        dataclasses.replace(corpus, train_length=5).arrays("blank", 0.0, 0)
    # Cut or not, every target ends.
    assert ((noisy["target"] == corpus.end).sum(1) == 1).all()


def test_hidden_words_are_unknown_tokens_and_spelled_ones_are_words(tmp_path):
    rows = [f"w{i % 50} the <unk> </s> of" for i in range(300)]
    for name in ("a", "b"):
        (tmp_path / name).write_text("\n".join(rows) + "\n")
    config = invented.get_config()
    files = {f"data.{k}": ("a", "b") for k in ("train", "valid", "test")}
    changes = {"data.source": "files", "data.path": str(tmp_path), "data.tokenizer": "word"}
    config.update_from_flattened_dict(TINY | files | changes)
    corpus = translation.load(config, tmp_path / "w")
    clean, hidden = (corpus.arrays("blank", x, 0)["target"] for x in (0.0, 1.0))
    unknown = corpus.tokenizer.unk_token_id
    assert not (clean == unknown).any()
    assert (hidden[:, :5] == unknown).all()
    assert (hidden[:, 5] == corpus.end).all()
    assert ((clean == corpus.end).sum(1) == 1).all()


def test_a_tokenizer_that_is_not_trained_is_refused(tmp_path):
    config = invented.get_config()
    config.data.tokenizer = str(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.tokenizer is .*allowed: one of bpe, wordpiece"):
        translation.load(config, tmp_path / "w")


def test_the_fused_loss_is_the_same_loss():
    """EISL through hidden states and embedding, on one device and on a mesh, against logits."""
    config = invented.get_config()
    config.update_from_flattened_dict(TINY | {"data.vocab_size": 96, "data.max_tokens": 16})
    corpus, _ = translation.abstract(config)
    rng = np.random.default_rng(0)
    ids = jnp.asarray(rng.integers(3, 96, (8, 16)))
    source, target = ids, ids.at[:, 9:].set(jnp.asarray([2] + [0] * 6))
    model = tasks.build(config, corpus, nnx.Rngs(0))
    rule = tasks.make_loss(config, "eisl")
    want = jax.jit(rule)(model, source, target, jax.random.key(0))
    # By hand: logits on the model's own greedy output.
    own = jax.jit(lambda m, x: m.translate(x))(model, source)
    logits, _ = model.teacher_forced(source, own)
    masks = [eos_mask(y, corpus.end) for y in (own, target)]
    each = losses.eisl_loss(
        logits, target, ngrams=(1, 2, 3), logits_mask=masks[0], targets_mask=masks[1]
    )
    assert float(want) == pytest.approx(float(each.mean()), rel=1e-5)
    config.eisl.fused_bytes = 2**12
    for mesh in (None, mesh_lib.make_mesh({"data": 2, "model": 4})):
        rule = tasks.make_loss(config, "eisl", mesh)
        got = jax.jit(rule)(model, source, target, jax.random.key(0))
        assert float(got) == pytest.approx(float(want), rel=1e-5)


@pytest.mark.slow
def test_the_sharded_loss_compiles_for_a_tpu_slice():
    """The logits of one chip, 2^25 entries, are more than all it holds."""
    pytest.importorskip("libtpu")
    fields = {"width": 128, "depth": 1, "heads": 2, "remat": False, "scan": False}
    argv = [
        *(sys.executable, "-m", "experiments.eisl", "--mode=compile"),
        "--config=configs/eisl/vocab256k.py",
        "--config.mesh.topology=v5e:4x4",
        "--config.mesh.data=2",
        "--config.mesh.fsdp=2",
        "--config.train.batch_size=16",
        "--config.data.vocab_size=262144",
        f"--config.eisl.fused_bytes={2**24}",
        *(f"--config.model.{k}={v}" for k, v in fields.items()),
    ]
    env = processes.environment(for_tpu=True)
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, timeout=300, cwd=ROOT, env=env
    )
    assert done.returncode == 0, done.stderr
    assert "topology v5e:4x4: 16 chips; mesh data 2, fsdp 2, model 4" in done.stdout
    memory = float(re.search(r"temporary per chip: ([\d,.]+)", done.stdout)[1].replace(",", ""))
    assert memory < 4 * 4 * 128 * 65_536 / 2**20  # rows x length x part of V of a chip, float32
    assert re.search(r"all-reduce: [1-9]", done.stdout)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("noise.kinds", ("swap",), "noise.kinds"),
        ("noise.levels", (1.5,), "noise.levels"),
        ("losses", ("bleu",), "losses"),
        ("eisl.ngrams", (), "eisl.ngrams"),
        ("eisl.weights", (1.0,), r"eisl\.weights is \(1\.0,\), allowed: none, or 3 numbers"),
        ("eisl.weights", (0.0, 0.0, 0.0), r"eisl\.weights"),
        ("selection.every", -1, r"selection\.every is -1"),
        ("finetune.steps", 0, "finetune.steps is 0"),
        ("model.non_autoregressive", True, "losses"),
    ],
)
def test_bad_fields(field, value, message):
    config = invented.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=message):
        study.validate(config)
