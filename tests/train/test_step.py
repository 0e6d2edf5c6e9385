import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgen import mesh as mesh_lib
from jaxgen.data import images, pipeline
from jaxgen.diffusion import schedule
from jaxgen.models.image_autoencoder import ImageAutoencoder
from jaxgen.train import latent_tasks, state, step


def build(key):
    return nnx.Linear(3, 2, rngs=nnx.Rngs(key))


def loss(model, extra, batch, key, count):
    error = model(batch["x"]) - batch["y"]
    value = (error**2).mean()
    seen = None if extra is None else extra + 1
    return value, ({"abs": jnp.abs(error).mean()}, seen)


def data(n=16):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    return {"x": jnp.asarray(x), "y": jnp.asarray(x[:, :2] * 2 + 1)}


def test_one_step_is_optax_written_out(key):
    tx = step.optimizer(optax.constant_schedule(0.1), clip=0.5)
    s = state.create(build, tx, key)
    grads = jax.grad(lambda m: loss(m, None, data(), None, 0)[0])(s.model)
    updates, _ = tx.update(grads, tx.init(s.model), s.model)
    want = optax.apply_updates(s.model, updates)
    decay = 0.1  # (1 + 0) / (10 + 0)
    want_ema = jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, s.ema, want)
    norm = optax.global_norm(grads)
    new, metrics = step.make_step(loss, tx, ema_decay=0.9)(s, data())
    for a, b in zip(jax.tree.leaves(new.model), jax.tree.leaves(want), strict=True):
        assert np.allclose(a, b, atol=1e-6)
    for a, b in zip(jax.tree.leaves(new.ema), jax.tree.leaves(want_ema), strict=True):
        assert np.allclose(a, b, atol=1e-6)
    assert new.step == 1
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_clipping_bounds_the_update(key):
    """With plain SGD behind the clip, the step length is the clip times the rate."""
    clip = step.optimizer(optax.constant_schedule(1.0), clip=0.01)
    s = state.create(build, clip, key)
    g = jax.tree.map(lambda a: 100 * jnp.ones_like(a), s.model)
    clipped, _ = optax.clip_by_global_norm(0.01).update(g, optax.EmptyState())
    assert optax.global_norm(clipped) == pytest.approx(0.01, rel=1e-5)
    assert len(jax.tree.leaves(step.optimizer(optax.constant_schedule(1.0), clip=0.0).init(g))) > 0


def test_parameters_learn_and_are_clipped_at_rates_of_their_own(key):
    """As two optimisers, each with its part of the gradient alone."""
    make = lambda factor: step.optimizer(optax.constant_schedule(0.1 * factor), clip=0.5)  # noqa: E731
    tx = step.by_rate({"^bias": 0.2}, make)
    s = state.create(build, tx, key)
    grads = jax.grad(lambda m: loss(m, None, data(), None, 0)[0])(s.model)
    new, _ = step.make_step(loss, tx)(s, data())
    before = build(jax.random.split(key)[0])
    for name, factor in (("kernel", 1.0), ("bias", 0.2)):
        old, g = getattr(before, name)[...], getattr(grads, name)[...]
        one = make(factor)
        update, _ = one.update(g, one.init(old), old)
        np.testing.assert_allclose(getattr(new.model, name)[...], old + update, rtol=1e-5)


def test_adafactor_steps_in_proportion_to_the_parameter():
    """A parameter ten times as large, with a gradient of any size, moves ten times as far."""
    tx = step.optimizer(optax.constant_schedule(0.1), kind="adafactor", clip=0.0)
    w = jax.random.normal(jax.random.key(0), (4, 5))
    g = jax.random.normal(jax.random.key(1), (4, 5))
    update, _ = tx.update(g, tx.init(w), w)
    large, _ = tx.update(3.0 * g, tx.init(w), 10.0 * w)
    assert np.allclose(large, 10.0 * update, rtol=1e-5)
    # Adafactor's first second moments are the squared gradients: the step is 0.1 rms(w) sign(g).
    want = -0.1 * jnp.sqrt((w**2).mean()) * jnp.sign(g)
    assert np.allclose(update, want, rtol=1e-4)
    with pytest.raises(ValueError, match="optimizer is 'sgd', allowed: adamw, adafactor"):
        step.optimizer(optax.constant_schedule(0.1), kind="sgd")


def test_accumulation_gives_the_gradient_of_the_whole_batch(key):
    tx = optax.sgd(0.1)
    results = []
    for parts in (1, 2, 4, 8):
        s = state.create(build, tx, key)
        new, metrics = step.make_step(loss, tx, accumulate=parts)(s, data())
        results.append((np.asarray(new.model.kernel[...]), float(metrics["loss"])))
    for kernel, value in results[1:]:
        assert np.allclose(kernel, results[0][0], atol=1e-6)
        assert value == pytest.approx(results[0][1], rel=1e-5)


def test_accumulation_carries_the_loss_state(key):
    tx = optax.sgd(0.1)
    s = state.create(build, tx, key, extra=lambda: jnp.zeros(()))
    s, _ = step.make_step(loss, tx, accumulate=4)(s, data())
    assert s.extra == 4


def test_each_step_has_its_own_key(key):
    def noise(model, extra, batch, k, count):
        return model(batch["x"]).sum() * 0 + jax.random.normal(k, ()), ({}, extra)

    tx = optax.sgd(0.0)
    s = state.create(build, tx, key)
    f = step.make_step(noise, tx)
    seen = []
    for _ in range(4):
        s, metrics = f(s, data())
        seen.append(float(metrics["loss"]))
    assert len(set(seen)) == 4


def test_donated_buffers_are_gone(key):
    tx = optax.adam(0.1)
    s = jax.jit(lambda k: state.create(build, tx, k))(key)
    old = s.model.kernel[...]
    step.make_step(loss, tx)(s, data())
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(old)


def test_a_stepper_is_the_step_bit_for_bit(key):
    tx = step.optimizer(optax.constant_schedule(0.1))
    make = jax.jit(lambda k: state.create(build, tx, k))
    one = step.make_step(loss, tx, ema_decay=0.9)
    s, stepper = make(key), step.Stepper(one, make(key))
    for _ in range(5):
        s, want = one(s, data())
        got = stepper(data())
        jax.tree.map(np.testing.assert_array_equal, got, want)
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.random.key_data(stepper.state.key),
        jax.random.key_data(s.key),
    )
    for a, b in zip(
        *(jax.tree.leaves((x.step, x.model, x.ema, x.opt_state)) for x in (stepper.state, s)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    made = jax.tree.leaves(stepper.lower(data()).out_info)
    assert [m.shape for m in made] == [a.shape for a in jax.tree.leaves((stepper.state, got))]
    # A state that was changed between steps is what goes on.
    stepper.state = dataclasses.replace(stepper.state, step=jnp.int32(40))
    stepper(data())
    assert stepper.state.step == 41


def test_a_steppers_state_keeps_its_tree_and_its_places(key):
    def grows(model, extra, batch, k, count):
        return loss(model, None, batch, k, count)[0], ({}, (count,))

    tx = optax.sgd(0.1)
    s = jax.jit(lambda k: state.create(build, tx, k))(key)
    with pytest.raises(TypeError, match="the same tree as before"):
        step.Stepper(step.make_step(grows, tx), s)(data())
    mesh = mesh_lib.make_mesh({"data": 1, "fsdp": 8}, jax.devices())
    s, where = state.create_sharded(lambda k: state.create(build, tx, k), key, mesh)
    stepper = step.Stepper(step.make_step(loss, tx, shardings=where), s)
    stepper(mesh_lib.put_batch(data(), mesh))
    for a, place in zip(jax.tree.leaves(stepper.state), jax.tree.leaves(where), strict=True):
        assert a.sharding.is_equivalent_to(place, a.ndim)


@pytest.mark.parametrize("kind", step.SCHEDULES)
def test_learning_rates(kind):
    f = step.learning_rate(kind, 0.5, steps=100, warmup=10, final=0.1)
    assert f(0) == 0
    assert f(5) == pytest.approx(0.25)
    assert f(10) == pytest.approx(0.5)
    end = {"constant": 0.5, "cosine": 0.05, "rsqrt": 0.5 * np.sqrt(10 / 100)}[kind]
    assert f(100) == pytest.approx(end, rel=1e-3)
    with pytest.raises(ValueError, match="allowed: constant"):
        step.learning_rate("step", 0.1, steps=5, warmup=1)


@pytest.mark.parametrize(
    "shape",
    [
        {"data": 8},
        {"data": 4, "fsdp": 2},
        {"data": 1, "fsdp": 8},
        {"data": 2, "fsdp": 2, "model": 2},
    ],
)
def test_eight_devices_follow_the_loss_curve_of_one(shape):
    """EDDPM's own loss and optimiser on digits, 20 steps, every mesh: equal to 1e-5."""
    curve = run_curve({"data": 1}, 1)
    split = run_curve(shape, 8)
    assert np.allclose(curve, split, rtol=1e-5)
    assert curve[-1] < curve[0]


_cache = {}


def run_curve(shape, devices, slices=0):
    if devices in _cache and devices == 1:
        return _cache[devices]
    mesh = mesh_lib.make_mesh(shape, jax.devices()[:devices], slices=slices)
    # As the digits study, with narrower networks.
    sizes = {"latent_dim": 32, "width": 8, "denoiser_width": 64, "encoder_bias": False}
    task = latent_tasks.eddpm_task(
        lambda rngs: ImageAutoencoder((8, 8, 1), rngs=rngs, **sizes),
        schedule.linear(1000, 1e-4, 0.02),
        latent_norm="running",
        inputs=lambda batch: batch["image"],
        sigma_0=0.03,
        diffusion_weight=0.1,
        num_t=8,
    )
    tx = step.optimizer(optax.constant_schedule(1e-3))

    def init(k):
        return state.create(task.build, tx, k, extra=task.extra)

    s, where = state.create_sharded(init, jax.random.key(0), mesh)
    f = step.make_step(task.loss, tx, ema_decay=0.99, shardings=where)
    it = pipeline.batches({"image": images.load("digits")["train"].image}, 64, seed=0)
    values = []
    for _ in range(20):
        s, metrics = f(s, mesh_lib.put_batch(next(it), mesh))
        values.append(float(metrics["loss"]))
    if shape.get("fsdp", 1) > 1:
        kernel = s.model.mlp.layers[1].kernel[...]
        assert (
            kernel.addressable_shards[0].data.size * shape["fsdp"] * shape.get("model", 1)
            == kernel.size
        )
        moment = next(a for a in jax.tree.leaves(s.opt_state) if a.shape == kernel.shape)
        assert moment.addressable_shards[0].data.size < kernel.size
    _cache[devices] = values
    return values
