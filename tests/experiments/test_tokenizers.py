"""The tokenizer of a workdir: whole or not there, the same in every launch and process."""

import json
import pathlib
import socket
import subprocess
import sys

import pytest

from configs.eddpm import grammar
from experiments.common import text
from experiments.common import tokenizers as stored
from experiments.eddpm import study, systems
from jaxgen.config import Config
from jaxgen.data import corpora
from jaxgen.errors import ConfigError
from jaxgen.text import tokenizers

ROOT = pathlib.Path(__file__).parents[2]
TEXTS = [r.text for r in corpora.grammar(200)]
SIZES = {"width": 8, "depth": 1, "heads": 2}


def config(kind="bpe", vocab_size=120):
    c = Config()
    c.data = Config({"tokenizer": kind, "vocab_size": vocab_size})
    return c


def begun(workdir):
    """From now on the workdir belongs to a config."""
    (workdir / "config.json").write_text("{}")


def content(workdir):
    return (workdir / "tokenizer" / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("state", ["empty", "half", "without names"])
def test_what_a_kill_left_is_written_again(tmp_path, state):
    first = stored.kept_tokenizer(config(), tmp_path, TEXTS)
    begun(tmp_path)
    want = content(tmp_path)
    for file in (tmp_path / "tokenizer").iterdir():
        if state == "half":
            file.write_bytes(file.read_bytes()[:100])
        elif state == "empty" or file.name == "tokenizer_config.json":
            file.unlink()
    (tmp_path / "tokenizer.tmp").mkdir()
    again = stored.kept_tokenizer(config(), tmp_path, TEXTS)
    assert content(tmp_path) == want
    assert tokenizers.digest(again) == tokenizers.digest(first)
    assert not (tmp_path / "tokenizer.tmp").exists()


def test_a_kept_tokenizer_is_not_trained_again(tmp_path, monkeypatch):
    stored.kept_tokenizer(config(), tmp_path, TEXTS)
    begun(tmp_path)
    monkeypatch.setattr(tokenizers, "train", None)
    assert len(stored.kept_tokenizer(config(), tmp_path, TEXTS)) == 120


def test_a_launch_that_failed_leaves_no_tokenizer_behind(tmp_path):
    """No config.json: the next launch may have another vocabulary."""
    assert len(stored.kept_tokenizer(config(), tmp_path, TEXTS)) == 120
    assert len(stored.kept_tokenizer(config(vocab_size=90), tmp_path, TEXTS)) == 90
    begun(tmp_path)
    assert len(stored.kept_tokenizer(config(vocab_size=90), tmp_path, TEXTS)) == 90


def test_another_tokenizer_is_refused(tmp_path):
    stored.kept_tokenizer(config(), tmp_path, TEXTS)
    begun(tmp_path)
    tokenizers.train(TEXTS[:90], vocab_size=120).save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ConfigError, match=r"was started with \(tokenizers\.json") as e:
        stored.kept_tokenizer(config(), tmp_path, TEXTS)
    assert "\n" not in str(e.value)
    # A lost folder cannot be trained again from other text.
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="was started with"):
        stored.kept_tokenizer(config(), tmp_path, TEXTS[:90])


def test_a_workdir_without_digests_goes_on(tmp_path):
    """One of a version before they were kept."""
    tokenizers.train(TEXTS[:90], vocab_size=120).save_pretrained(tmp_path / "tokenizer")
    begun(tmp_path)
    want = content(tmp_path)
    stored.kept_tokenizer(config(), tmp_path, TEXTS)
    assert content(tmp_path) == want
    assert set(json.loads((tmp_path / "tokenizers.json").read_text())) == {"data.tokenizer"}


def test_named_folders_must_stay_as_they_are(tmp_path):
    folder, workdir = tmp_path / "named", tmp_path / "w"
    workdir.mkdir()
    tokenizers.train(TEXTS, vocab_size=120).save_pretrained(folder)
    named = (workdir, "model.encoder_path", str(folder))
    stored.named_tokenizer(*named)
    begun(workdir)
    assert len(stored.named_tokenizer(*named)) == 120
    tokenizers.train(TEXTS, vocab_size=100).save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"model\.encoder_path is .* was started with"):
        stored.named_tokenizer(*named)


@pytest.mark.parametrize("where", ["a file", "nothing", "an empty folder", "a damaged one"])
def test_a_bad_folder_is_named_before_data_are_read(tmp_path, where, monkeypatch):
    folder = tmp_path / "named"
    if where == "a file":
        folder.write_text("{}")
    elif where != "nothing":
        folder.mkdir()
        if where == "a damaged one":
            (folder / "tokenizer.json").write_text("{")
    monkeypatch.setattr(text.text, "load", None)
    c = grammar.get_config()
    c.data.tokenizer = str(folder)
    with pytest.raises(ConfigError, match=r"^data\.tokenizer is '[^\n]*$") as e:
        text.load(c, tmp_path / "w")
    assert ("one of bpe, wordpiece, word, or an existing folder" in str(e.value)) == (
        where in ("a file", "nothing")
    )
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_one_process_trains_and_the_others_read(tmp_path):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    code = (
        "import pathlib, sys, time, jax; from experiments.common import tokenizers as stored\n"
        "from jaxgen.text import tokenizers; from jaxgen.config import Config\n"
        "i, workdir = int(sys.argv[1]), pathlib.Path(sys.argv[2])\n"
        f"jax.distributed.initialize('localhost:{port}', 2, i)\n"
        "train, trained = tokenizers.train, []\n"
        "def slow(*a, **k):\n"
        "    trained.append(1); time.sleep(2.0); return train(*a, **k)\n"
        "tokenizers.train = slow\n"
        "c = Config(); c.data = Config({'tokenizer': 'bpe', 'vocab_size': 60})\n"
        "t = stored.kept_tokenizer(c, workdir, ['good food here', 'bad wine'] * (i + 1))\n"
        "print(len(trained), tokenizers.digest(t))\n"
    )
    argv = [sys.executable, "-c", code]
    runs = [
        subprocess.Popen(
            [*argv, str(i), str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    lines = [run.communicate(timeout=120)[0].splitlines() for run in runs]
    (one, first), (two, second) = (line[-1].split() for line in lines)
    assert (one, two) == ("1", "0")
    assert first == second


def test_a_text_run_repeats_bit_for_bit(tmp_path, one_device):
    """The same launch in two workdirs, each with its own tokenizer; one stops on the way and goes on."""
    c = grammar.get_config()
    c.update_from_flattened_dict(
        {
            **{f"model.{side}_{k}": v for side in ("encoder", "decoder") for k, v in SIZES.items()},
            **{"data.tokenizer": "bpe", "data.vocab_size": 120, "data.limit": 300},
            **{
                "train.steps": 4,
                "train.log_every": 1,
                "train.batch_size": 8,
                "train.save_every": 4,
            },
            **{"model.latent_dim": 4, "vae.betas": (1.0,)},
        }
    )
    study.validate(c)
    curves = []
    for name in "ab":
        if name == "b":
            problem = study.open_problem(c, tmp_path / name)
            task = systems.vae_task(c, problem.networks, 1.0, with_mlp=True)
            problem.runs.fit(task, 0, problem.arrays(), until=2)
        systems.train(study.open_problem(c, tmp_path / name), "vae", 0)
        rows = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        curves.append([(r["step"], r["loss"]) for r in map(json.loads, rows)])
    assert [step for step, _ in curves[0]] == [1, 2, 3, 4]
    assert curves[0] == curves[1]
    assert content(tmp_path / "a") == content(tmp_path / "b")
