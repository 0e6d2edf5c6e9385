"""The image autoencoder: its three likelihoods by hand, decoding in [0, 1], and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.models.image_autoencoder import DECODERS, ImageAutoencoder, pixel_chain
from jaxgen.models.latent import LatentModel

SHAPE, D = (8, 8, 1), 4


def make(decoder="gaussian", **changes):
    sizes = {"latent_dim": D, "width": 4, "denoiser_width": 8, "denoiser_depth": 2}
    return ImageAutoencoder(SHAPE, decoder=decoder, rngs=nnx.Rngs(0), **(sizes | changes))


def images(count=3):
    return jnp.asarray(np.random.default_rng(0).random((count, *SHAPE)), jnp.float32)


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_makes_a_latent_model(decoder):
    model, x, key = make(decoder, decode_steps=3), images(), jax.random.key(0)
    assert isinstance(model, LatentModel)
    z = model.encode(x)
    assert z.shape == model.denoise(z, jnp.asarray([1, 2, 3])).shape == (3, D)
    assert model.decode_logprob(x, z, key).shape == (3,)
    out = jax.jit(lambda m, z: m.decode(z))(model, z)
    assert out.shape == x.shape
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    assert np.allclose(model.decode(z), out, atol=1e-4)  # deterministic, without a key


def test_the_gaussian_likelihood_and_its_mse_term_by_hand():
    x, z, std = images(), jnp.ones((3, D)), 0.2
    plain, more = make(decoder_std=std), make(decoder_std=std, mse_weight=5.0)
    error = np.asarray((x - plain.decoder(z)) ** 2).sum((1, 2, 3))
    want = -error / (2 * std**2) - 64 * np.log(std * np.sqrt(2 * np.pi))
    assert np.allclose(plain.decode_logprob(x, z), want, rtol=1e-4)
    assert np.allclose(more.decode_logprob(x, z), want - 5.0 * error, rtol=1e-4)


def test_the_bernoulli_likelihood_by_hand():
    model, x, z = make("bernoulli"), images(), jnp.ones((3, D))
    p = np.asarray(jax.nn.sigmoid(model.decoder(z)), np.float64)
    want = (np.asarray(x) * np.log(p) + (1 - np.asarray(x)) * np.log1p(-p)).sum((1, 2, 3))
    assert np.allclose(model.decode_logprob(x, z), want, rtol=1e-3)
    assert np.allclose(model.decode(z), p, atol=1e-5)


def test_the_diffusion_bound_needs_a_key_and_weighs_by_the_std():
    x, z, key = images(), jnp.ones((3, D)), jax.random.key(1)
    one, two = (make("diffusion", decoder_std=std).decode_logprob(x, z, key) for std in (0.1, 0.2))
    assert np.allclose(one, 4 * two, rtol=1e-4)
    assert (one < 0).all()
    assert pixel_chain().num_steps == 1000
    with pytest.raises(ValueError, match="key is None, allowed: a key, for the diffusion"):
        make("diffusion").decode_logprob(x, z)


def test_an_encoder_of_mean_and_variance():
    model, x = make(predict_variance=True), images()
    mean, log_var = model.posterior(x)
    assert mean.shape == log_var.shape == (3, D)
    assert np.array_equal(model.encode(x), mean)


def test_a_last_bias_may_be_left_out():
    assert make().encoder.out.bias is not None
    assert make(encoder_bias=False).encoder.out.bias is None


def test_an_unknown_decoder_is_named():
    with pytest.raises(
        ValueError, match="decoder is 'gan', allowed: gaussian, bernoulli, diffusion"
    ):
        make("gan")
