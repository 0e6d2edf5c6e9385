"""The command line as a user meets it: one clear line and exit code 2, or a finished run."""

import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from jaxgen.config import Config
from jaxgen.errors import ConfigError
from jaxgen.launch import check_workdir, clear, write_config
from tests import processes

ROOT = pathlib.Path(__file__).parents[1]
DIGITS = "--config=configs/eddpm/digits.py"
TINY = [
    "--config.train.steps=12",
    "--config.train.save_every=5",
    "--config.train.log_every=4",
    "--config.train.batch_size=16",
    "--config.classifier.steps=12",
    "--config.classifier.width=4",
    "--config.model.width=4",
    "--config.model.denoiser_width=16",
    "--config.model.denoiser_depth=2",
    "--config.sample.steps=5",
    "--config.sample.count=40",
    "--config.ddpm.multipliers=(1,2)",
    "--config.vae.betas=(1.0,)",
]


def command(*args):
    return [sys.executable, "-m", "experiments.eddpm", *args], {
        "cwd": ROOT,
        "env": processes.environment(for_tpu="--mode=compile" in args),
    }


def launch(*args, timeout=400):
    argv, kwargs = command(*args)
    return subprocess.run(
        argv, check=False, capture_output=True, text=True, timeout=timeout, **kwargs
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config.trian.steps=3"], "no field 'trian' in the config; Did you mean 'train'"),
        (["--config.train.steps=many"], "--config.train.steps=many"),
        (["--config.train.steps=-5"], "train.steps is -5, allowed: at least 1"),
        (
            ["--config.schedule.beta_max=1.0"],
            "schedule.beta_max is 1.0, allowed: above 0 and below",
        ),
        (["--config.schedule.num_steps=0"], "schedule.num_steps is 0"),
        (
            ["--config.train.batch_size=12", "--config.mesh.host_devices=8"],
            "train.batch_size is 12, allowed: a multiple of 8",
        ),
        (["--config.mesh.data=3", "--config.mesh.host_devices=8"], "product 8"),
        (["--config.train.accumulate=3"], "train.accumulate is 3"),
        (["--config.data.source=folder", "--config.data.path=/no/where"], "'/no/where'"),
        (["--config.model.decoder=gan"], "one of gaussian, bernoulli, diffusion"),
        (["--config.systems=('gan',)"], "some of eddpm"),
        (["--mode=fly"], "mode is 'fly', allowed: one of train, eval"),
        (["--mode=eval"], "a trained workdir for --mode=eval"),
        (["--colour=red"], "Unknown command line flag 'colour'"),
        (["stray"], "'stray', allowed: flags only"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, args, message):
    begin = time.monotonic()
    done = launch(DIGITS, f"--workdir={tmp_path / 'w'}", *args)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not (tmp_path / "w").exists()
    assert time.monotonic() - begin < 30  # about 1.5 s on an idle machine


def test_missing_config_and_workdir(tmp_path):
    for args, message in [
        (["--config=configs/none.py", "--workdir=x"], "an existing config file"),
        ([f"--workdir={tmp_path}"], "config is None"),
        ([DIGITS], "workdir is ''"),
    ]:
        done = launch(*args)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_modes_that_train_may_begin_a_workdir(tmp_path):
    check_workdir(tmp_path / "new", Config(), "train_vae", may_begin=True)
    with pytest.raises(ConfigError, match="a trained workdir for --mode=edit"):
        check_workdir(tmp_path / "new", Config(), "edit", may_begin=False)


@pytest.mark.parametrize("at", ["", "variant-0"])
def test_a_launch_that_failed_before_a_checkpoint_does_not_mark_its_workdir(tmp_path, at):
    config = Config({"train": {"steps": 3}, "data": {"vocab_size": 50}})
    other = Config({"train": {"steps": 3}, "data": {"vocab_size": 60}})
    write_config(tmp_path, config)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    (tmp_path / "mine.txt").write_text("kept")
    run = tmp_path / at / "checkpoints" / "eddpm-0"
    (run / "5.orbax-checkpoint-tmp-123").mkdir(parents=True)  # begun, not finished
    with pytest.raises(ConfigError, match="vocab_size: 50 -> 60"):
        check_workdir(tmp_path, other, "eval", may_begin=False)
    (run / "5").mkdir()
    with pytest.raises(ConfigError, match="vocab_size: 50 -> 60"):
        check_workdir(tmp_path, other, "train", may_begin=True)
    (run / "5").rename(run / "unreadable-5")
    with pytest.raises(ConfigError, match="vocab_size: 50 -> 60"):
        check_workdir(tmp_path, other, "train", may_begin=True)
    (run / "unreadable-5").rmdir()
    assert not check_workdir(tmp_path, config, "train", may_begin=True)
    assert check_workdir(tmp_path, other, "train", may_begin=True)
    assert (tmp_path / "tokenizer").exists()
    clear(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} - {"variant-0"} == {"mine.txt"}


COMPILES = """
import pathlib, sys, jax
from jaxgen import launch
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
launch.keep_programs(pathlib.Path(sys.argv[1]))
print(jax.config.jax_compilation_cache_dir)
print(float(jax.jit(lambda x: (x @ x).sum())(jax.numpy.full((3, 3), 2.0))))
"""


def compiles(workdir, **variables):
    """What a program prints that compiles one function as a launch on that workdir does."""
    env = processes.environment()
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    argv = [sys.executable, "-c", COMPILES, str(workdir)]
    return subprocess.run(
        argv, cwd=ROOT, env=env | variables, capture_output=True, text=True, check=True
    ).stdout.split()


def test_programs_are_kept_beside_the_workdir_and_a_damaged_one_is_compiled_again(tmp_path):
    kept = tmp_path / ".jax_cache"
    assert compiles(tmp_path / "run") == [str(kept), "108.0"]
    entries = sorted(kept.glob("*-cache"))
    assert entries
    written = {entry: entry.read_bytes() for entry in entries}
    for entry in entries:
        entry.write_bytes(written[entry][: len(written[entry]) // 2])
    assert compiles(tmp_path / "other") == [str(kept), "108.0"]
    # A place where nothing can be written, a place that the user chose.
    (tmp_path / "file").write_text("")
    blocked = compiles(tmp_path / "file" / "run")
    assert blocked[1] == "108.0"
    mine = str(tmp_path / "mine")
    assert compiles(tmp_path / "run", JAX_COMPILATION_CACHE_DIR=mine) == [mine, "108.0"]


def test_unreadable_image_is_named(tmp_path):
    for i in range(20):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(np.full((9, 9), i, np.uint8)).save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "images" / "7.png").write_bytes(b"not an image")
    done = launch(
        DIGITS,
        f"--workdir={tmp_path / 'w'}",
        "--config.data.source=folder",
        f"--config.data.path={tmp_path / 'images'}",
    )
    assert done.returncode == 2
    assert "7.png" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study") / "w"
    done = launch(DIGITS, f"--workdir={workdir}", *TINY)
    assert done.returncode == 0, done.stderr
    return workdir, done


@pytest.mark.slow
def test_whole_study_writes_its_report(finished):
    workdir, done = finished
    assert f"report: {workdir}/report.html" in done.stdout
    results = json.loads((workdir / "results.json").read_text())
    names = [r["system"] for r in results["systems"]]
    assert names == ["EDDPM", "two-stage", "VAE (beta 1)", "DDPM (pixels)"]
    for row in results["systems"]:
        for metric in ("reconstruction_mse", "frechet_test", "probe_accuracy"):
            assert np.isfinite(row[metric])
    floors = results["floors"]
    assert 0.05 < floors["mean image"]["reconstruction_mse"] < 0.2
    assert floors["majority class"]["probe_accuracy"] < 0.15  # of ten digits
    assert floors["data"]["frechet_test"] == results["real"]["frechet_floor"]
    report = (workdir / "report.md").read_text()
    assert "\n| mean image | " in report
    pictures = re.findall(r"\]\((samples/[^)]+\.png)\)", report)
    assert len(pictures) >= 14
    for picture in pictures:
        with Image.open(workdir / picture) as image:
            assert np.asarray(image).std() > 0
    page = (workdir / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(pictures)
    assert (workdir / "metrics.jsonl").stat().st_size > 0


@pytest.mark.slow
def test_eval_repeats_the_numbers_and_sample_adds_samples(finished):
    workdir, _ = finished
    before = json.loads((workdir / "results.json").read_text())
    trained = (workdir / "metrics.jsonl").read_text()
    done = launch(DIGITS, f"--workdir={workdir}", *TINY, "--mode=eval")
    assert done.returncode == 0, done.stderr
    after = json.loads((workdir / "results.json").read_text())
    assert after.pop("command") == before.pop("command") + " --mode=eval"
    assert after == before
    assert (workdir / "metrics.jsonl").read_text() == trained
    done = launch(DIGITS, f"--workdir={workdir}", *TINY, "--mode=sample")
    assert done.returncode == 0, done.stderr
    assert np.load(workdir / "samples" / "EDDPM-new.npz")["samples"].shape == (40, 8, 8, 1)


@pytest.mark.slow
def test_workdir_of_another_config_is_refused(finished):
    workdir, _ = finished
    done = launch(DIGITS, f"--workdir={workdir}", *TINY, "--config.train.learning_rate=0.5")
    assert done.returncode == 2
    assert "train.learning_rate: 0.003 -> 0.5" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [
        ["--config.model.decoder=diffusion", "--config.model.dtype=bfloat16"],
        [
            "--config.model.decoder=bernoulli",
            "--config.eddpm.weighting=elbo",
            "--config.eddpm.alignment=joint",
            "--config.eddpm.mse_weight=1.0",
            "--config.eddpm.encoder_warmup=5",
            "--config.eddpm.adaptive_t=True",
            "--config.eddpm.decoder_noise=0.1",
            "--config.sample.sampler=ode",
        ],
        [
            "--config.mesh.host_devices=8",
            "--config.mesh.fsdp=2",
            "--config.schedule.kind=cosine",
            "--config.sample.sampler=ancestral",
            "--config.schedule.num_steps=50",
        ],
    ],
)
def test_every_option_runs(tmp_path, args):
    done = launch(
        DIGITS, f"--workdir={tmp_path / 'w'}", *TINY, "--config.systems=('eddpm',)", *args
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "w" / "results.json").read_text())
    assert np.isfinite(results["systems"][0]["frechet_test"])


@pytest.mark.slow
def test_sigterm_saves_and_exits_0(tmp_path):
    args = [
        DIGITS,
        f"--workdir={tmp_path / 'w'}",
        *TINY,
        "--config.classifier.steps=2000000",
        "--config.systems=('eddpm',)",
    ]
    argv, kwargs = command(*args)
    child = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, **kwargs)
    metrics = tmp_path / "w" / "metrics.jsonl"
    for _ in range(600):
        if metrics.exists() and metrics.stat().st_size:
            break
        time.sleep(0.2)
    child.send_signal(signal.SIGTERM)
    _, stderr = child.communicate(timeout=120)
    assert child.returncode == 0, stderr
    step = int(re.search(r"SIGTERM, saved step (\d+)", stderr).group(1))
    assert (tmp_path / "w" / "checkpoints" / "classifier-0" / str(step)).is_dir()
    done = launch(*args, "--mode=eval")
    assert done.returncode == 2
    assert "one where classifier-0 is trained" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["size=1m", "nr_inodes=120"])
def test_a_full_disk_is_one_line_and_goes_on_when_there_is_room(finished, tmp_path, limit):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", limit, "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a small file system needs to be root")
    try:
        args = [DIGITS, f"--workdir={disk / 'w'}", *TINY]
        done = launch(*args)
        assert done.returncode == 1
        lines = [x for x in done.stderr.splitlines() if ": step " not in x]
        assert len(lines) == 1, done.stderr
        assert "No space left" in lines[0] or "may be needed" in lines[0]
        # Beside finished steps there may be the one that the disk had no room for.
        steps = (disk / "w/checkpoints/classifier-0").iterdir()
        saved = [int(p.name) for p in steps if p.name.isdigit()]
        assert len(saved) == 2
        room = ["mount", "-o", "remount,size=64m,nr_inodes=10000", str(disk)]
        subprocess.run(room, check=True)
        done = launch(*args)
        assert done.returncode == 0, done.stderr
        assert f"classifier-0: resumed at step {max(saved)}\n" in done.stderr
        names = ("results.json", "metrics.jsonl")
        want, got = ([(w / n).read_text() for n in names] for w in (finished[0], disk / "w"))
        same = [json.loads(each[0]) for each in (want, got)]
        for results in same:
            del results["command"]  # it names the workdir
        assert same[0] == same[1]
        assert len(got[1].splitlines()) == len(want[1].splitlines())
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_two_processes_train_as_one(finished, tmp_path):
    """Two processes of two devices each, against one process: the same loss curve."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    children = []
    for i in range(2):
        argv, kwargs = command(
            DIGITS,
            *TINY,
            "--config.systems=('eddpm',)",
            f"--workdir={tmp_path}",
            "--config.mesh.fsdp=2",
            "--config.mesh.processes=2",
            f"--config.mesh.process_id={i}",
            f"--config.mesh.coordinator=localhost:{port}",
            "--config.mesh.host_devices=2",
        )
        children.append(subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, **kwargs))
    outputs = [c.communicate(timeout=400)[1] for c in children]
    assert [c.returncode for c in children] == [0, 0], outputs

    def curve(workdir):
        rows = [json.loads(r) for r in (workdir / "metrics.jsonl").read_text().splitlines()]
        return [r["loss"] for r in rows if r["run"] == "eddpm-0"]

    one, two = curve(finished[0]), curve(tmp_path)
    assert len(one) == 3
    # Sums in another order drift apart; one process with 1 or 4 devices differs by as much.
    assert np.allclose(one, two, rtol=1e-3)
    assert np.isclose(one[0], two[0], rtol=1e-4)
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_compiles_ahead_of_time_for_a_tpu_slice():
    pytest.importorskip("libtpu")
    done = launch(
        DIGITS, "--mode=compile", "--config.mesh.topology=v5e:4x4", "--config.mesh.fsdp=2"
    )
    assert done.returncode == 0, done.stderr
    assert "topology v5e:4x4: 16 chips; mesh data 8, fsdp 2" in done.stdout
    memory = float(re.search(r"memory per chip: ([\d,.]+) MiB", done.stdout).group(1))
    assert 1 < memory < 16_000
    assert re.search(r"FLOPs per step \(matrix products\): \d", done.stdout)
    assert re.search(r"all-reduce: [1-9]", done.stdout)
