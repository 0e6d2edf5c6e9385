"""Tasks on latents: losses fall, moments follow the encoder, the history of t is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgen.diffusion import schedule
from jaxgen.nn import batch_renorm, mlp
from jaxgen.train import latent_tasks, state, step

D, CHAIN = 3, schedule.linear(20, 0.01, 0.3)


class Vectors(nnx.Module):
    """A latent model of vectors [B, 4], linear both ways."""

    def __init__(self, rngs, *, predict_variance=False):
        self.latent_dim = D
        self.read = nnx.Linear(4, D * (2 if predict_variance else 1), rngs=rngs)
        self.write = nnx.Linear(D, 4, rngs=rngs)
        self.mlp = mlp.MLPSkipNet(D, width=8, depth=2, time_dim=8, rngs=rngs)

    def encode(self, x):
        return self.read(x)[:, :D]

    def posterior(self, x):
        return tuple(jnp.split(self.read(x), 2, -1))

    def denoise(self, z, t):
        return self.mlp(z, t)

    def decode_logprob(self, x, z, key=None):
        return -10.0 * ((self.decode(z) - x) ** 2).sum(-1)

    def decode(self, z):
        return self.write(z)


def x_of(batch):
    return batch["x"]


def data(scale=1.0):
    x = np.random.default_rng(0).normal(size=(64, 4)) @ np.diag([3.0, 1.0, 0.5, 0.1])
    return {"x": jnp.asarray(scale * x + 2.0, jnp.float32)}


def train(task, batch, steps=60):
    """The state after some steps on one batch, and the logged losses."""
    tx = step.optimizer(optax.constant_schedule(1e-2))
    s = jax.jit(lambda k: state.create(task.build, tx, k, extra=task.extra))(jax.random.key(0))
    one = step.make_step(task.loss, tx)
    logged = []
    for _ in range(steps):
        s, metrics = one(s, batch)
        logged.append({k: float(v) for k, v in metrics.items()})
    return s, logged


def test_the_loss_of_eddpm_falls_and_its_moments_follow_the_latents():
    task = latent_tasks.eddpm_task(Vectors, CHAIN, latent_norm="running", inputs=x_of, sigma_0=0.1)
    assert task.name == "eddpm"
    s, logged = train(task, data())
    first, last = (np.mean([r["loss"] for r in part]) for part in (logged[:10], logged[-10:]))
    assert last < 0.7 * first
    assert {"eps_mse", "reconstruction"} <= set(logged[0])
    begin, moments = batch_renorm.init(D), s.extra["moments"]
    z = s.model.encode(data()["x"])
    for then, now, want in (
        (begin.mean, moments.mean, z.mean(0)),
        (begin.var, moments.var, z.var(0)),
    ):
        assert np.abs(now - then).min() > 1e-3
        assert np.linalg.norm(now - want) < np.linalg.norm(then - want)


def test_the_history_of_t_is_kept_and_weighs_the_next_draws():
    task = latent_tasks.eddpm_task(Vectors, CHAIN, adaptive_t=True, inputs=x_of, sigma_0=0.1)
    begin = task.extra()["history"]
    s, logged = train(task, data(), steps=5)
    changed = [
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(begin), jax.tree.leaves(s.extra["history"]), strict=True)
    ]
    assert any(changed)
    assert "t" not in logged[0]
    assert "loss_at_t" not in logged[0]
    # Nothing is carried where nothing is asked for.
    assert latent_tasks.eddpm_task(Vectors, CHAIN).extra() == {}


def test_the_encoder_warms_up():
    """In the first of ten steps chain and prior have a tenth of their gradient into the encoder."""
    batch, key = data(), jax.random.key(1)

    def gradient(warmup, at, **options):
        task = latent_tasks.eddpm_task(
            Vectors, CHAIN, encoder_warmup=warmup, inputs=x_of, sigma_0=0.1, **options
        )
        model = task.build(jax.random.key(0))
        value = lambda m: task.loss(m, {}, batch, key, jnp.int32(at))[0]  # noqa: E731
        return np.asarray(jax.grad(value)(model).read.kernel[...])

    whole, none, first = gradient(0, 0), gradient(10**9, 0), gradient(10, 0)
    assert np.abs(whole - none).max() > 1e-3
    assert np.allclose(first, none + 0.1 * (whole - none), rtol=1e-3, atol=1e-4)
    assert np.allclose(gradient(10, 9), whole, rtol=1e-4, atol=1e-5)


def test_an_auxiliary_loss_is_added_and_logged():
    def auxiliary(model, z, batch):
        return {"size": (z**2).mean()}

    plain, more = (
        latent_tasks.eddpm_task(Vectors, CHAIN, inputs=x_of, sigma_0=0.1, **options)
        for options in ({}, {"auxiliary": auxiliary})
    )
    model, key = plain.build(jax.random.key(0)), jax.random.key(1)
    a, _ = plain.loss(model, {}, data(), key, jnp.int32(0))
    b, (metrics, _) = more.loss(model, {}, data(), key, jnp.int32(0))
    assert float(b - a) == pytest.approx(float(metrics["size"]), rel=1e-3)
    assert float(metrics["size"]) > 0


def test_the_loss_of_a_vae_falls_and_reads_beta_at_its_step():
    build = lambda rngs: Vectors(rngs, predict_variance=True)  # noqa: E731
    task = latent_tasks.vae_task("vae", build, lambda at: 0.5 * at, inputs=x_of)
    _, logged = train(latent_tasks.vae_task("vae", build, lambda at: 0.1, inputs=x_of), data())
    assert logged[-1]["loss"] < 0.7 * logged[0]["loss"]
    model, key = task.build(jax.random.key(0)), jax.random.key(1)
    values = [task.loss(model, None, data(), key, jnp.int32(at))[0] for at in (0, 1, 2)]
    kl = task.loss(model, None, data(), key, jnp.int32(0))[1][0]["kl"]
    assert np.allclose(np.diff(values), 0.5 * float(kl), rtol=1e-4)


def test_a_vae_may_read_something_else_and_put_a_network_before_its_decoder():
    build = lambda rngs: Vectors(rngs, predict_variance=True)  # noqa: E731
    seen = []

    def posterior(model, x, key):
        seen.append(key)
        return model.posterior(0.0 * x)

    def value(**options):
        task = latent_tasks.vae_task("vae", build, lambda at: 1.0, inputs=x_of, **options)
        model = task.build(jax.random.key(0))
        return task.loss(model, None, data(), jax.random.key(1), jnp.int32(0))[1][0]

    plain, blind = value(), value(posterior=posterior)
    assert len(seen) == 1
    assert float(blind["kl"]) < float(plain["kl"])  # the mean of q is the bias alone
    moved = value(latent=lambda model, z: z + 1.0)
    assert float(moved["kl"]) == float(plain["kl"])
    assert float(moved["reconstruction"]) != float(plain["reconstruction"])


def test_diffusion_on_latents_that_are_given():
    build = lambda rngs: mlp.MLPSkipNet(D, width=16, depth=2, time_dim=8, rngs=rngs)  # noqa: E731
    task = latent_tasks.latent_diffusion_task(build, CHAIN, num_t=4)
    z = jax.random.normal(jax.random.key(2), (64, D)) * 0.1
    _, logged = train(task, {"latent": z})
    first, last = (np.mean([r["loss"] for r in part]) for part in (logged[:10], logged[-10:]))
    assert last < 0.8 * first
    assert task.name == "two_stage"
