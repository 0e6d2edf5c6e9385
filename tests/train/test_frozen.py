"""Training a part of a model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgen import mesh as mesh_lib
from jaxgen.train import frozen, state, step
from jaxgen.train.runs import Runs, TrainOptions, TrainTask


class Net(nnx.Module):
    def __init__(self, rngs):
        self.body = nnx.Linear(3, 4, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(self.body(x)))


def build(key):
    return Net(nnx.Rngs(key))


def loss(model, extra, batch, key, count):
    return ((model(batch["x"]) - batch["y"]) ** 2).mean(), ({}, extra)


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 3)).astype(np.float32)
    return {"x": x, "y": np.asarray(x[:, :2] * 2 + 1, np.float32)}


BODY = ("^body/",)


def test_part_and_rest_are_the_model(key):
    model = build(key)
    part = frozen.trained_part(model, BODY)
    assert [a.shape for a in jax.tree.leaves(part)] == [(2,), (4, 2)]
    moved = jax.tree.map(lambda a: a + 1, part)
    again = frozen.whole(moved, model)
    assert np.array_equal(again.body.kernel[...], model.body.kernel[...])
    assert np.array_equal(again.head.kernel[...], model.head.kernel[...] + 1)
    assert frozen.trained_part(model, ()) is model


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_step_is_optax_on_the_trained_part_alone(key, accumulate):
    tx = step.optimizer(optax.constant_schedule(0.1), clip=0.5)
    s = state.create(build, tx, key, frozen=BODY)
    assert len(jax.tree.leaves(s.ema)) == 2
    mu = s.opt_state[1][0].mu
    assert [a.shape for a in jax.tree.leaves(mu)] == [(2,), (4, 2)]
    body, head = s.model.body, s.model.head

    def of_head(head):
        return ((head(jnp.tanh(body(data()["x"]))) - data()["y"]) ** 2).mean()

    grads = jax.grad(of_head)(head)
    updates, _ = tx.update(grads, tx.init(head), head)
    want = optax.apply_updates(head, updates)
    kept = np.asarray(body.kernel[...])
    run = step.make_step(loss, tx, ema_decay=0.5, accumulate=accumulate, frozen=BODY)
    new, metrics = run(s, data())
    assert np.array_equal(new.model.body.kernel[...], kept)
    assert np.allclose(new.model.head.kernel[...], want.kernel[...], atol=1e-6)
    assert metrics["grad_norm"] == pytest.approx(float(optax.global_norm(grads)), rel=1e-5)
    average = state.averaged(new)
    assert np.array_equal(average.body.kernel[...], kept)
    assert not np.array_equal(average.head.kernel[...], new.model.head.kernel[...])


def test_no_gradient_of_what_is_frozen_is_computed(key):
    """Of the backward pass only the product that gives the head's weights is left."""

    def products(patterns):
        tx = optax.sgd(0.1)
        s = state.create(build, tx, key, use_ema=False, frozen=patterns)
        text = step.make_step(loss, tx, frozen=patterns).lower(s, data()).as_text()
        return text.count("dot_general")

    assert (products(()), products(BODY)) == (5, 3)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            ("bdy",),
            r"frozen has 'bdy', allowed: expressions that each match a parameter: body/bias",
        ),
        (("(",), "frozen is .*, allowed: regular expressions"),
        (("body", "head"), "frozen is .*, allowed: such that some parameter is trained"),
    ],
)
def test_what_cannot_be_frozen(key, patterns, message):
    with pytest.raises(ValueError, match=message):
        frozen.trained_part(build(key), patterns)


def test_a_run_starts_from_given_weights_and_goes_on_bit_for_bit(tmp_path):
    given = build(jax.random.key(7))
    task = TrainTask(
        "net", build, loss, pretrained=lambda model: build(jax.random.key(7)), frozen=BODY
    )
    options = TrainOptions(batch_size=16, save_every=2, log_every=1, ema_decay=0.9)
    mesh = mesh_lib.make_mesh({"data": 1}, jax.devices()[:1])

    def fit(folder, until=None):
        runs = Runs(tmp_path / folder, mesh, options)
        return runs.fit(task, 0, data(), steps=6, until=until)

    straight = fit("a")
    fit("b", until=4)
    resumed = fit("b")
    assert np.array_equal(straight.body.kernel[...], given.body.kernel[...])
    assert not np.allclose(straight.head.kernel[...], given.head.kernel[...])
    same = functools.partial(np.testing.assert_array_equal, strict=True)
    jax.tree.map(same, straight, resumed)
