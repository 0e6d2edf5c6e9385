"""Runs of a launch: what they train, what they refuse, and rows that are kept from launch to launch."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen import mesh as mesh_lib
from jaxgen.errors import ConfigError
from jaxgen.train import writers
from jaxgen.train.runs import Runs, TrainOptions, TrainTask

OPTIONS = TrainOptions(steps=3, batch_size=4, log_every=1, save_every=1, warmup=1)
FORM = {"bleu": float, "samples": list}
ROW = {"bleu": 1.5, "samples": ["a"], "seed": 0}
ARRAYS = {"x": np.eye(4, dtype=np.float32)}


def make(workdir, **changes):
    mesh = mesh_lib.make_mesh({"data": 1}, jax.devices()[:1])
    return Runs(workdir, mesh, OPTIONS, **changes)


def line(name="line", **changes):
    """A linear layer that learns to copy."""

    def loss(model, extra, batch, key, step):
        return ((model(batch["x"]) - batch["x"]) ** 2).mean(), ({}, extra)

    return TrainTask(name, lambda key: nnx.Linear(4, 4, rngs=nnx.Rngs(key)), loss, **changes)


def test_a_run_is_trained_once_and_named_by_task_and_seed(tmp_path):
    runs = make(tmp_path)
    model = runs.fit(line(), 7, ARRAYS)
    logged = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(r)["run"] for r in logged.splitlines()] == ["line-7"] * 3
    again = runs.fit(line(), 7, ARRAYS)
    assert np.array_equal(model.kernel[...], again.kernel[...])
    assert (tmp_path / "metrics.jsonl").read_text() == logged
    other = runs.fit(line(), 8, ARRAYS)
    assert not np.array_equal(model.kernel[...], other.kernel[...])


def test_tasks_that_share_a_key_train_the_same_model(tmp_path):
    runs = make(tmp_path)
    one, two = (runs.fit(line(n, key="shared"), 0, ARRAYS) for n in "ab")
    assert np.array_equal(one.kernel[...], two.kernel[...])
    assert not np.array_equal(one.kernel[...], runs.fit(line("c"), 0, ARRAYS).kernel[...])


def test_a_run_stops_on_the_way_and_goes_on(tmp_path):
    whole = make(tmp_path / "a").fit(line(), 0, ARRAYS)
    runs = make(tmp_path / "b")
    runs.fit(line(), 0, ARRAYS, until=2)
    model = runs.fit(line(), 0, ARRAYS)
    assert np.array_equal(model.kernel[...], whole.kernel[...])


def test_what_is_not_trained_is_refused_unless_it_belongs_to_judging(tmp_path):
    asleep = make(tmp_path, may_train=False)
    with pytest.raises(ConfigError, match="one where line-0 is trained"):
        asleep.fit(line(), 0, ARRAYS)
    make(tmp_path).fit(line(), 0, ARRAYS, until=2)
    with pytest.raises(ConfigError, match="one where line-0 is trained"):
        asleep.fit(line(), 0, ARRAYS)
    make(tmp_path).fit(line(), 0, ARRAYS)
    asleep.fit(line(), 0, ARRAYS)
    asleep.fit(line("judge"), 0, ARRAYS, judging=True)


def test_weights_that_are_split_over_devices_stay_there(tmp_path):
    mesh = mesh_lib.make_mesh({"fsdp": 8})
    task = TrainTask(
        "wide",
        lambda key: nnx.Linear(64, 1024, rngs=nnx.Rngs(key)),
        lambda model, extra, batch, key, step: ((model(batch["x"]) ** 2).mean(), ({}, extra)),
    )
    arrays = {"x": np.ones((8, 64), np.float32)}
    model = Runs(tmp_path, mesh, OPTIONS).fit(task, 0, arrays, batch_size=8)
    kernel = model.kernel[...]
    assert kernel.addressable_shards[0].data.size == kernel.size // 8


class Evaluated:
    """An `evaluate` that counts its calls; its rows are of `FORM`."""

    def __init__(self):
        self.calls = []

    def __call__(self, cell, seed):
        self.calls.append((cell, seed))
        return [{"bleu": float(len(self.calls)), "samples": [str(cell)]}]

    def done(self):
        calls, self.calls = self.calls, []
        return calls


@pytest.fixture
def evaluate():
    return Evaluated()


def test_a_further_cell_or_seed_adds_to_what_is_there(tmp_path, evaluate):
    runs = make(tmp_path)
    first = runs.rows([0], ["a"], evaluate, form=FORM)
    assert first == [{"bleu": 1.0, "samples": ["a"], "seed": 0}]
    rows = runs.rows([0, 1], ["a", "b"], evaluate, form=FORM)
    assert evaluate.done() == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert rows[0] == first[0]
    assert [(r["samples"], r["seed"]) for r in rows] == [
        (["a"], 0),
        (["b"], 0),
        (["a"], 1),
        (["b"], 1),
    ]
    assert runs.rows([1, 0], ["b"], evaluate, form=FORM) == [rows[3], rows[1]]
    assert evaluate.done() == []
    assert json.loads((tmp_path / "results" / "b-1.json").read_text()) == {
        "setting": {},
        "rows": [rows[3]],
    }


def test_another_setting_is_made_again(tmp_path, evaluate):
    runs = make(tmp_path)
    for setting, calls in ((None, 1), ({}, 0), ({"steps": (1, 2)}, 1), ({"steps": [1, 2]}, 0)):
        runs.rows([0], ["a"], evaluate, setting=setting, form=FORM)
        assert len(evaluate.done()) == calls
    runs.rows([0], ["a"], evaluate, setting={"steps": [1, 3]}, form=FORM)
    assert evaluate.done() == [("a", 0)]


def test_fresh_seeds_and_launches_that_evaluate_again_reuse_nothing(tmp_path, evaluate):
    runs = make(tmp_path)
    runs.rows([0, 1], ["a"], evaluate, form=FORM)
    evaluate.done()
    runs.rows([0, 1], ["a"], evaluate, form=FORM, fresh=[0])
    assert evaluate.done() == [("a", 0)]
    runs.rows([0, 1], ["a"], evaluate, form=FORM, reuse=False)
    assert evaluate.done() == [("a", 0), ("a", 1)]
    asleep = make(tmp_path, may_train=False)
    asleep.rows([0, 1], ["a"], evaluate, form=FORM)
    assert evaluate.done() == [("a", 0), ("a", 1)]
    asleep.rows([0, 1], ["a"], evaluate, form=FORM, reuse=True)
    assert evaluate.done() == []


def kept(*rows, setting=None):
    return json.dumps({"setting": setting or {}, "rows": rows})


FOREIGN = {
    "a list": "[]",
    "nothing": "{}",
    "null": "null",
    "a number": "3",
    "numbers": "[3]",
    "an earlier version's": '[{"loss": "ce"}]',
    "an earlier version's system": json.dumps({"sample": {}, "row": ROW}),
    "deep": "[" * 100_000,
    "cut": "{",
    "empty": "",
    "no rows": kept(),
    "rows of numbers": kept(3),
    "a row of nothing": kept({}),
    "rows that are none": '{"setting": {}, "rows": {"seed": 0}}',
    "no setting": json.dumps({"rows": [ROW]}),
    "another setting": kept(ROW, setting={"steps": 3}),
    "another seed": kept(ROW | {"seed": 1}),
    "a seed as text": kept(ROW | {"seed": "0"}),
    "a missing field": kept({"bleu": 1.5, "seed": 0}),
    "a field of another type": kept(ROW | {"bleu": "x"}),
    "one bad row of two": kept(ROW, ROW | {"bleu": "x"}),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_file_that_holds_something_else_is_done_again(tmp_path, evaluate, what):
    path = tmp_path / "results" / "a-0.json"
    path.parent.mkdir()
    path.write_text(FOREIGN[what])
    rows = make(tmp_path).rows([0], ["a"], evaluate, form=FORM)
    assert evaluate.done() == [("a", 0)]
    assert json.loads(path.read_text())["rows"] == rows


def test_a_file_is_read_for_what_it_is_of(tmp_path, evaluate):
    writers.write_atomic(tmp_path / "results" / "blank-0.json", kept(ROW, ROW | {"bleu": 2.5}))
    cells = [("blank", 0.5)]
    rows = make(tmp_path).rows([0], cells, evaluate, name=lambda cell: cell[0], form=FORM)
    assert rows == [ROW, ROW | {"bleu": 2.5}]
    assert evaluate.done() == []


def test_a_failed_evaluation_keeps_what_was_done_before_it(tmp_path, evaluate):
    runs = make(tmp_path)

    def stop(cell, seed):
        if cell == "b":
            raise KeyboardInterrupt
        return evaluate(cell, seed)

    with pytest.raises(KeyboardInterrupt):
        runs.rows([0], ["a", "b"], stop, form=FORM)
    assert evaluate.done() == [("a", 0)]
    runs.rows([0], ["a", "b"], evaluate, form=FORM)
    assert evaluate.done() == [("b", 0)]


def test_options_make_their_optimiser():
    """Nothing but the clip: a gradient of length 1 under clip 0.5 and a rate of 1."""
    options = TrainOptions(optimizer="adafactor", clip=0.5)
    tx = options.make_optimizer(lambda step: 1.0)
    w = jnp.ones((3, 4))
    update, _ = tx.update(w, tx.init(w), w)
    assert update.shape == w.shape
    with pytest.raises(ValueError, match="optimizer is 'sgd'"):
        TrainOptions(optimizer="sgd").make_optimizer(lambda step: 1.0)
