"""Sampling from any latent model by every sampler, and models whose latents are standardised."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.diffusion import samplers, schedule
from jaxgen.models.latent import (
    SAMPLERS,
    LatentModel,
    Standardised,
    TwoStage,
    sample,
    sample_latents,
)

D, CHAIN = 3, schedule.linear(50, 1e-3, 0.25)
MEAN, STD = np.array([2.0, -1.0, 0.5]), 0.3


def exact(z, t):
    """The noise in z_t, at whole or real t, where z_0 is normal with MEAN and STD."""
    a = jnp.exp(CHAIN.log_alpha_bar_at(t.astype(jnp.float32)))[:, None]
    score = -(z - jnp.sqrt(a) * MEAN) / (a * STD**2 + 1 - a)
    return -jnp.sqrt(1 - a) * score


class Exact(nnx.Module):
    """A latent model with the exact noise predictor; x is 2 z + 1."""

    def __init__(self):
        self.latent_dim, self.scale = D, nnx.Param(jnp.asarray(2.0))

    def encode(self, x):
        return (x - 1.0) / self.scale[...]

    def denoise(self, z, t):
        return exact(z, t)

    def decode_logprob(self, x, z, key=None):
        return -((self.decode(z) - x) ** 2).sum(-1)

    def decode(self, z):
        return self.scale[...] * z + 1.0


def test_it_is_a_latent_model():
    assert isinstance(Exact(), LatentModel)
    assert not isinstance(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), LatentModel)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [("ddim", {}), ("ddim", {"eta": 1.0, "steps": 50}), ("ancestral", {}), ("ode", {})],
)
def test_every_sampler_draws_the_distribution_that_was_learned(sampler, options):
    z = sample_latents(Exact(), jax.random.key(0), 4000, CHAIN, sampler=sampler, **options)
    assert z.shape == (4000, D)
    # By hand, DDIM of 32 steps ends at a std of 0.268 and a mean that is 0.017 short.
    assert np.allclose(z.mean(0), MEAN, atol=0.05)
    assert np.allclose(z.std(0), STD, atol=0.06)
    assert set(SAMPLERS) == {"ddim", "ancestral", "ode"}


def test_samples_are_decoded_latents_and_repeat():
    draw = functools.partial(sample, Exact(), n=8, chain=CHAIN, steps=4)
    x = draw(jax.random.key(1))
    z = sample_latents(Exact(), jax.random.key(1), 8, CHAIN, steps=4)
    assert np.allclose(x, 2 * z + 1, atol=1e-5)
    assert np.array_equal(x, draw(jax.random.key(1)))
    assert not np.array_equal(x, draw(jax.random.key(2)))


def test_steps_are_at_most_those_of_the_chain():
    many, all_of_them = (
        sample_latents(Exact(), jax.random.key(0), 4, CHAIN, steps=n) for n in (1000, 50)
    )
    assert np.array_equal(many, all_of_them)


def test_ddim_is_that_of_the_diffusion_package():
    key_start, key_steps = jax.random.split(jax.random.key(3))
    noise = jax.random.normal(key_start, (4, D))
    want = samplers.ddim(exact, noise, CHAIN, num_steps=8, eta=0.5, key=key_steps)
    got = sample_latents(Exact(), jax.random.key(3), 4, CHAIN, steps=8, eta=0.5)
    assert np.allclose(got, want, atol=1e-5)


def test_an_unknown_sampler_is_named():
    with pytest.raises(ValueError, match="sampler is 'euler', allowed: ddim, ancestral, ode"):
        sample_latents(Exact(), jax.random.key(0), 4, CHAIN, sampler="euler")


def test_standardised_latents_change_the_encoder_alone():
    mean, std = jnp.asarray([1.0, 2.0, 3.0]), jnp.asarray([0.5, 1.0, 2.0])
    inner = Exact()
    model = Standardised(inner, mean, std)
    assert isinstance(model, LatentModel)
    x, z, t = jnp.ones((4, D)) * 5.0, jnp.ones((4, D)), jnp.asarray([1, 2, 3, 50])
    run = jax.jit(lambda m: (m.encode(x), m.denoise(z, t), m.decode_logprob(x, z), m.decode(z)))
    encoded, noise, logprob, decoded = run(model)
    assert model.latent_dim == D
    assert np.allclose(encoded, (inner.encode(x) - mean) / std)
    assert np.allclose(noise, inner.denoise(z, t), atol=1e-6)
    assert np.allclose(logprob, inner.decode_logprob(x, z), rtol=1e-5)
    assert np.allclose(decoded, inner.decode(z))


def test_two_stages_decode_on_the_first_stage_s_scale():
    mean, std = jnp.asarray([1.0, 2.0, 3.0]), jnp.asarray([0.5, 1.0, 2.0])
    inner, net = Exact(), nnx.Linear(D, D, rngs=nnx.Rngs(0))
    model = TwoStage(inner, lambda z, t: net(z), mean, std)
    assert isinstance(model, LatentModel)
    x, z = jnp.ones((4, D)) * 5.0, jnp.ones((4, D))
    assert np.allclose(model.decode(model.encode(x)), x, atol=1e-5)
    assert np.allclose(model.decode_logprob(x, model.encode(x)), 0.0, atol=1e-6)
    assert np.allclose(model.denoise(z, jnp.ones(4)), net(z))
    assert np.allclose(model.decode(z), inner.decode(mean + std * z))
    assert model.latent_dim == D


def test_two_stages_are_one_pytree():
    """With both networks in it, so that it is an argument of a jitted function."""
    model = TwoStage(Exact(), jax.tree_util.Partial(exact), jnp.zeros(D), jnp.ones(D))
    z = sample_latents(model, jax.random.key(0), 2000, CHAIN)
    assert np.allclose(z.mean(0), MEAN, atol=0.05)
    assert len(jax.tree.leaves(model)) == 3
