import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgen import mesh as mesh_lib
from jaxgen.data import pipeline
from jaxgen.errors import RunError
from jaxgen.train import checkpoint, loop, state
from jaxgen.train.preemption import Preempted
from jaxgen.train.writers import read_jsonl

ROOT = pathlib.Path(__file__).parents[2]
DATA = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)


def build(key):
    return nnx.Linear(6, 6, rngs=nnx.Rngs(key))


def loss(model, extra, batch, key, step):
    noise = jax.random.normal(key, batch["x"].shape)
    error = model(batch["x"] + 0.1 * noise) - batch["x"]
    return (error**2).mean(), ({"noise": noise.mean()}, extra + 1)


TX = optax.adam(1e-2)


def fit(
    workdir, steps=40, *, save_every=10, loss=loss, shape=None, devices=1, adapt=None, **options
):
    mesh = mesh_lib.make_mesh(shape or {"data": devices}, jax.devices()[:devices])
    return loop.fit(
        "run",
        build,
        loss,
        TX,
        pipeline.batches({"x": DATA}, 16, seed=1),
        jax.random.key(3),
        loop.Options(steps=steps, save_every=save_every, log_every=1, ema_decay=0.9, **options),
        workdir=pathlib.Path(workdir),
        mesh=mesh,
        extra=lambda: jnp.zeros(()),
        adapt=adapt,
    )


def numbers(s):
    return {k: np.asarray(v) for k, v in checkpoint.to_arrays(s).items()}


def assert_same(a, b):
    a, b = numbers(a), numbers(b)
    for name in a:
        assert np.array_equal(a[name], b[name]), name


def metrics(workdir):
    rows = read_jsonl(pathlib.Path(workdir) / "metrics.jsonl")
    return [{k: v for k, v in r.items() if k != "steps_per_second"} for r in rows]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    return fit(workdir), metrics(workdir)


def test_metrics_are_written_for_every_logged_step(straight):
    _, rows = straight
    assert [r["step"] for r in rows] == list(range(1, 41))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert {"loss", "noise", "grad_norm"} <= rows[0].keys()


def test_tensorboard_events_hold_the_same_numbers(tmp_path):
    fit(tmp_path, steps=5)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard" / "run"))
    events.Reload()
    got = [(e.step, e.value) for e in events.Scalars("loss")]
    want = [(r["step"], r["loss"]) for r in metrics(tmp_path)]
    assert [s for s, _ in got] == [s for s, _ in want]
    assert np.allclose([v for _, v in got], [v for _, v in want])


class Interrupt(Exception):
    pass


def interrupted_at(n):
    """The data iterator raises after n batches, wherever the loop is."""

    class Stops:
        def __init__(self, inner):
            self.inner, self.count = inner, 0

        def __next__(self):
            self.count += 1
            if self.count > n:
                raise Interrupt
            return next(self.inner)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    return Stops


@pytest.mark.parametrize("at", [3, 20, 27])
def test_interrupted_run_resumes_bit_for_bit(tmp_path, straight, monkeypatch, at):
    real = pipeline.batches
    with monkeypatch.context() as m:
        m.setattr(pipeline, "batches", lambda *a, **k: interrupted_at(at)(real(*a, **k)))
        with pytest.raises(Interrupt):
            fit(tmp_path)
    s = fit(tmp_path)
    assert_same(s, straight[0])
    assert metrics(tmp_path) == straight[1]


def test_finished_run_returns_its_state_without_a_step(tmp_path, straight):
    fit(tmp_path)
    before = metrics(tmp_path)
    assert_same(fit(tmp_path), straight[0])
    assert metrics(tmp_path) == before


def test_resumes_on_another_mesh(tmp_path, straight):
    fit(tmp_path, steps=20, shape={"data": 2, "fsdp": 4}, devices=8)
    s = fit(tmp_path, steps=40, devices=1)
    for name, value in numbers(s).items():
        assert np.allclose(value, numbers(straight[0])[name], rtol=1e-4, atol=1e-5), name


def test_accumulation_and_resume(tmp_path):
    a = fit(tmp_path / "a", steps=12, save_every=6, accumulate=2)
    fit(tmp_path / "b", steps=6, save_every=6, accumulate=2)
    assert_same(fit(tmp_path / "b", steps=12, save_every=6, accumulate=2), a)


def test_nan_stops_with_the_metric_named_and_keeps_the_last_checkpoint(tmp_path):
    def poisoned(model, extra, batch, key, step):
        value, (aux, extra) = loss(model, extra, batch, key, step)
        aux["ratio"] = jnp.where(step >= 24, jnp.nan, 1.0)
        return value, (aux, extra)

    with pytest.raises(
        loop.NonFinite, match=r"'ratio' is nan at step 25; the checkpoint of step 20"
    ):
        fit(tmp_path, loss=poisoned)
    assert checkpoint.Checkpointer(tmp_path / "checkpoints" / "run").steps() == [10, 20]


def test_profile_is_written_on_demand(tmp_path):
    fit(tmp_path, steps=6, profile_at=3, profile_steps=2)
    assert list((tmp_path / "profile" / "run").rglob("*.xplane.pb"))


@pytest.mark.parametrize("at", [13, 40])  # 40 is the last
def test_sigterm_saves_the_reached_step(tmp_path, straight, at):
    class Terminates:
        def __init__(self, inner):
            self.inner, self.count = inner, 0

        def __next__(self):
            self.count += 1
            if self.count == at:
                os.kill(os.getpid(), signal.SIGTERM)
            return next(self.inner)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    real = pipeline.batches
    with pytest.MonkeyPatch.context() as m:
        m.setattr(pipeline, "batches", lambda *a, **k: Terminates(real(*a, **k)))
        with pytest.raises(loop.Preempted, match=f"saved step {at}"):
            fit(tmp_path)
    assert_same(fit(tmp_path), straight[0])


CHILD = textwrap.dedent(
    """
    import sys
    sys.path[:0] = [{tests!r}, {root!r}]
    import jax
    jax.config.update("jax_platforms", "cpu")
    import test_loop
    test_loop.fit(sys.argv[1], steps=400, save_every=7)
    """
)


@pytest.mark.slow
def test_sigkill_at_random_instants_resumes_bit_for_bit(tmp_path):
    """Killed four times without warning, then left to finish: as if nothing had happened."""
    want = fit(tmp_path / "straight", steps=400, save_every=7)
    rows = metrics(tmp_path / "straight")
    code = CHILD.format(tests=str(pathlib.Path(__file__).parent), root=str(ROOT))
    workdir = tmp_path / "killed"
    rng = random.Random(0)
    killed = 0
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(workdir)], stderr=subprocess.DEVNULL
        )
        # From the first logged row on, any instant.
        begin = time.monotonic()
        seen = len(read_jsonl(workdir / "metrics.jsonl"))
        while child.poll() is None and time.monotonic() - begin < 120:
            if len(read_jsonl(workdir / "metrics.jsonl")) > seen + 2:
                time.sleep(rng.uniform(0.0, 1.0))
                break
            time.sleep(0.01)
        child.kill()
        killed += child.wait() == -signal.SIGKILL
    assert killed >= 2
    assert_same(fit(workdir, steps=400, save_every=7), want)
    assert metrics(workdir) == rows


def test_half_written_last_line_is_dropped(tmp_path, straight):
    fit(tmp_path, steps=20)
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write(json.dumps({"run": "run", "step": 21, "loss": 1.0}) + '\n{"run": "ru')
    fit(tmp_path)
    assert metrics(tmp_path) == straight[1]


def test_full_disk_is_reported_and_the_last_checkpoint_survives(tmp_path, monkeypatch):
    fit(tmp_path, steps=20)
    save = checkpoint.Checkpointer.save

    def full(self, step, *args):
        if step > 20:
            raise OSError(28, "No space left on device")
        return save(self, step, *args)

    with monkeypatch.context() as m:
        m.setattr(checkpoint.Checkpointer, "save", full)
        with pytest.raises(OSError, match="No space left"):
            fit(tmp_path)
    assert int(fit(tmp_path, steps=20).step) == 20


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff\xfe not text\n",
        b"3\n",
        b'{"run": "run", "step": "four"}\n',
        b'{"loss": 1.0}\n',
        b'{"run": "other", "step": 3, "loss": 2.0}\n',
        b"\x00" * 40 + b"\n",
    ],
)
def test_foreign_and_damaged_rows_are_passed_over(tmp_path, straight, bad):
    fit(tmp_path, steps=20)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5], bad, *lines[5:]]))
    damaged = path.read_bytes()
    fit(tmp_path)
    foreign = b"other" in bad
    assert [r for r in metrics(tmp_path) if r["run"] == "run"] == straight[1]
    assert len(metrics(tmp_path)) == 40 + foreign
    if not foreign:
        assert (tmp_path / "metrics.damaged.jsonl").read_bytes() == damaged


def test_a_damaged_data_state_is_told_in_one_line(tmp_path, monkeypatch):
    fit(tmp_path, steps=20)
    real = pipeline.batches

    class Refuses:
        def __init__(self, inner):
            self.inner = inner

        def set_state(self, state):
            self.inner.set_state({"unknown": state})

        def __getattr__(self, name):
            return getattr(self.inner, name)

    with monkeypatch.context() as m:
        m.setattr(pipeline, "batches", lambda *a, **k: Refuses(real(*a, **k)))
        with pytest.raises(RunError, match="the data iterator cannot go on"):
            fit(tmp_path)
    assert int(fit(tmp_path, steps=20).step) == 20


def test_history_of_an_adaptation_is_in_the_checkpoint(tmp_path, straight):
    """What a FlexMoE-like hook remembers comes back, also from a stop at the first step."""

    class Remembers:
        def __init__(self):
            self.steps, self.first = [], None

        def __call__(self, step, state):
            self.steps.append(step)
            if step in stops:
                os.kill(os.getpid(), signal.SIGTERM)
            return state

        def history(self):
            return {"steps": np.array(self.steps), "nothing": np.zeros((0, 3))}

        def resume(self, state, history):
            self.first = int(state.step)
            self.steps = history["steps"].tolist()
            assert history["nothing"].shape == (0, 3)

    stops = {1, 17}
    for at in (1, 17):
        with pytest.raises(Preempted, match=f"saved step {at}"):
            fit(tmp_path, adapt=Remembers())
    last = Remembers()
    assert_same(fit(tmp_path, adapt=last), straight[0])
    assert last.first == 17
    assert last.steps == list(range(1, 41))
    finished = Remembers()
    fit(tmp_path, adapt=finished)
    assert finished.steps == list(range(1, 41))


def test_state_has_all_parts(straight):
    s = straight[0]
    assert isinstance(s, state.TrainState)
    assert s.step == 40
    assert s.extra == 40
