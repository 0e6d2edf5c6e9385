"""The best weights of a run: which they are, and that a run that was stopped has the same."""

import os
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgen import mesh as mesh_lib
from jaxgen.data import pipeline
from jaxgen.train import checkpoint, loop
from jaxgen.train.preemption import Preempted
from jaxgen.train.selection import BestModel
from jaxgen.train.writers import read_jsonl

DATA = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
SCORES = {3: 1.0, 6: 5.0, 9: 5.0, 12: float("nan"), 15: 2.0, 17: 4.0}


def scripted(stop=0):
    """A score by the number of looks alone; a signal comes with the look at step `stop`."""
    looks = iter(SCORES)

    def score(model):
        step = looks_at.pop(0)
        if step == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return SCORES[step]

    looks_at = list(looks)
    return BestModel(score, every=3, steps=17), looks_at


def fit(workdir, steps=17, best=None, seen=None, **options):
    def loss(model, extra, batch, key, step):
        noise = jax.random.normal(key, batch["x"].shape)
        return ((model(batch["x"] + noise) - batch["x"]) ** 2).mean(), ({}, extra)

    return loop.fit(
        "run",
        lambda key: nnx.Linear(4, 4, rngs=nnx.Rngs(key)),
        loss,
        optax.adam(1e-2),
        pipeline.batches({"x": DATA}, 8, seed=1),
        jax.random.key(3),
        loop.Options(
            steps=steps, save_every=5, log_every=1, ema_decay=0.9, eval_every=3, **options
        ),
        workdir=pathlib.Path(workdir),
        mesh=mesh_lib.make_mesh({"data": 1}, jax.devices()[:1]),
        adapt=best,
        evaluate=None if best is None else lambda _: {"valid": last(best)},
    )


def last(best):
    """The newest score; a step between two looks has none of its own."""
    return best.curve[-1][1] if best.curve else -1.0


def arrays(model):
    return {k: np.asarray(v) for k, v in checkpoint.to_arrays(model).items()}


def same(a, b):
    a, b = arrays(a), arrays(b)
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    best, _ = scripted()
    final = fit(workdir, best=best)
    return workdir, best, final


def test_it_takes_the_first_of_the_best_and_never_nan(straight, tmp_path):
    workdir, best, final = straight
    assert [step for step, _ in best.curve] == list(SCORES)
    assert best.best == (6, 5.0)
    same(best.model, fit(tmp_path / "six", steps=6).ema)  # the averaged weights of that step
    same(final, fit(tmp_path / "all"))  # training itself is as it was without
    with pytest.raises(AssertionError):
        same(best.model, final.ema)
    rows = [r for r in read_jsonl(workdir / "metrics.jsonl") if "valid" in r]
    assert [r["step"] for r in rows] == list(SCORES)
    assert [r["valid"] for r in rows[:3]] == [1.0, 5.0, 5.0]


@pytest.mark.parametrize("stop", [3, 9])
def test_a_run_that_was_stopped_has_the_same_best_bit_for_bit(straight, tmp_path, stop):
    _, whole, final = straight
    first, left = scripted(stop)
    with pytest.raises(Preempted):
        fit(tmp_path, best=first)
    second, looks = scripted()
    looks[:] = left  # the scores that are still to come
    same(fit(tmp_path, best=second), final)
    assert repr(second.curve) == repr(whole.curve)  # NaN differs from itself
    same(second.model, whole.model)
    # A finished run gives them back without a step.
    third, _ = scripted()
    same(fit(tmp_path, best=third), final)
    assert third.best == (6, 5.0)
    same(third.model, whole.model)


def test_without_a_finite_score_there_is_no_best(tmp_path):
    best = BestModel(lambda model: float("nan"), every=5, steps=10)
    fit(tmp_path, steps=10, best=best)
    assert best.best is None
    assert best.model is None
    again = BestModel(lambda model: 0.0, every=5, steps=10)
    fit(tmp_path, steps=10, best=again)
    assert [step for step, _ in again.curve] == [5, 10]


def test_a_checkpoint_of_a_run_that_did_not_select_has_none(tmp_path):
    fit(tmp_path, steps=5)
    best = BestModel(lambda model: float(jnp.abs(model.kernel[...]).sum()), every=5, steps=10)
    fit(tmp_path, steps=10, best=best)
    assert [step for step, _ in best.curve] == [10]
    with pytest.raises(ValueError, match="every is 0"):
        BestModel(lambda model: 0.0, every=0, steps=1)
