"""The text autoencoder: its default parts, others in their place, and five lines that train it."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.models import bert, gpt2
from jaxgen.models.latent import LatentModel
from jaxgen.models.text_autoencoder import SequenceEncoder, TextAutoencoder
from jaxgen.models.text_decoders import LatentGPT, NonAutoregressiveDecoder
from jaxgen.nn.transformer_config import TransformerConfig
from jaxgen.text import decoding

ROOT = pathlib.Path(__file__).parents[2]

V, T, D = 11, 7, 5


@pytest.fixture(scope="module")
def decoder():
    spec = gpt2.config(V, width=16, depth=2, heads=2, max_positions=T + 1, init_std=0.3)
    return LatentGPT(spec, D, length=T, begin=2, end=3, unknown=1, rngs=nnx.Rngs(0))


def tokens(rows=4, seed=0):
    return jax.random.randint(jax.random.key(seed), (rows, T), 4, V)


def test_encoder_ignores_padding():
    spec = bert.config(V, width=16, depth=2, heads=2, max_positions=12)
    encoder = SequenceEncoder(spec, D, pad=0, rngs=nnx.Rngs(0))
    x = tokens()
    longer = jnp.pad(x, ((0, 0), (0, 5)))
    assert np.allclose(encoder(x), encoder(longer), atol=1e-5)
    assert float(jnp.abs(encoder(x)[0] - encoder(x)[1]).max()) > 1e-3


def test_an_encoder_per_position_sees_the_order():
    spec = bert.config(V, width=16, depth=1, heads=2, max_positions=T, init_std=0.2)
    x = tokens()
    swapped = x[:, jnp.asarray([1, 0, 2, 3, 4, 5, 6])]
    shifts = {}
    for per_position in (0, T):
        encoder = SequenceEncoder(spec, D, pad=0, per_position=per_position, rngs=nnx.Rngs(0))
        z = encoder(x)
        shifts[per_position] = float(jnp.abs(encoder(swapped) - z).mean() / jnp.abs(z).mean())
        cut = x.at[:, 5:].set(0)
        assert np.isfinite(encoder(cut)).all()
    assert shifts[T] > 3 * shifts[0] > 0


def test_decoder_reads_z_and_only_the_past(decoder):
    x, z = tokens(), jax.random.normal(jax.random.key(1), (4, D))
    base = decoder(x, z)
    assert base.shape == (4, T, V)
    later = x.at[:, 4].set((x[:, 4] + 1) % V)
    changed = np.abs(np.asarray(decoder(later, z) - base)).max((0, 2))
    assert changed[:5].max() < 1e-6
    assert changed[5:].min() > 1e-5
    assert np.abs(decoder(x, z + 1) - base).max() > 1e-3


def test_decoding_agrees_with_teacher_forcing(decoder):
    """Greedy tokens, fed back, are the argmax of the logits; the score is their log-probability."""
    z = jax.random.normal(jax.random.key(2), (6, D))
    got = decoding.greedy(decoder.start(z, max_tokens=T), max_tokens=T)
    logits = decoder(got.tokens, z)
    assert np.array_equal(logits.argmax(-1), got.tokens)
    logp = jnp.take_along_axis(jax.nn.log_softmax(logits), got.tokens[..., None], -1)
    assert np.allclose(logp[..., 0].sum(-1), got.scores, atol=1e-4)


def test_hidden_tokens_do_not_reach_the_decoder(decoder):
    x, z = tokens(), jax.random.normal(jax.random.key(3), (4, D))
    key = jax.random.key(4)
    all_hidden = decoder(x, z, word_dropout=1.0, key=key)
    other = decoder(tokens(seed=9), z, word_dropout=1.0, key=key)
    assert np.array_equal(all_hidden, other)
    assert np.array_equal(decoder(x, z, word_dropout=0.9), decoder(x, z))


def test_the_non_autoregressive_decoder_has_a_vector_for_every_position():
    stack = TransformerConfig(width=16, depth=1, heads=2, head_dim=8, mlp_width=32, causal=False)
    decoder = NonAutoregressiveDecoder(stack, D, vocab_size=V, length=T, pad=0, rngs=nnx.Rngs(0))
    z = jax.random.normal(jax.random.key(0), (3, D))
    logits = decoder(z)
    assert logits.shape == (3, T, V)
    assert np.allclose(decoder(z[1:2])[0], logits[1], atol=1e-5)
    assert float(jnp.std(logits, axis=1).mean()) > 1e-2


def test_padding_weighs_less_where_asked():
    """The decoder's likelihood, by hand, with padding at weight 0.8."""
    stack = TransformerConfig(width=8, depth=1, heads=1, head_dim=8, mlp_width=8, causal=False)
    decoder = NonAutoregressiveDecoder(
        stack, D, vocab_size=6, length=5, pad=0, pad_weight=0.8, rngs=nnx.Rngs(0)
    )
    x = jnp.asarray([[1, 2, 0, 0, 0], [3, 4, 5, 1, 2]])
    z = jax.random.normal(jax.random.key(0), (2, D))
    logp = jax.nn.log_softmax(decoder(z))
    chosen = np.take_along_axis(np.asarray(logp), np.asarray(x)[..., None], -1)[..., 0]
    weight = np.where(np.asarray(x) == 0, 0.8, 1.0)
    assert np.allclose(decoder.logprob(x, z), (weight * chosen).sum(-1), atol=1e-4)
    assert np.array_equal(decoder.decode(z), logp.argmax(-1))


def small(**changes):
    sizes = {"width": 8, "depth": 1, "heads": 2, "denoiser_width": 8, "denoiser_depth": 2}
    return TextAutoencoder(V, T, D, **sizes, rngs=nnx.Rngs(0), **changes)


def test_a_model_of_plain_arguments_is_a_latent_model():
    model, x = small(), tokens()
    assert isinstance(model, LatentModel)
    z = model.encode(x)
    assert z.shape == model.denoise(z, jnp.asarray([1, 2, 3, 4])).shape == (4, D)
    # Greedy decoding ends at the end token (2), which fills the rest.
    said = np.asarray(model.decode(z))
    assert said.shape == (4, T)
    after = np.cumsum(said == 2, 1) - (said == 2) > 0
    assert (said[after] == 2).all()
    assert (model.decode_logprob(x, z) < 0).all()
    # The two sides of a batch may be of different tokenizers.
    sides = {"source": x, "target": jnp.flip(x, 1)}
    assert np.array_equal(model.encode(sides), z)
    assert np.array_equal(model.decode_logprob(sides, z), model.decode_logprob(sides["target"], z))


def test_what_a_model_is_not_built_with_it_refuses():
    with pytest.raises(ValueError, match="regressor is None, allowed: a model built with"):
        small().predict(jnp.zeros((1, D)))
    model = small(regressor=True, predict_variance=True)
    mean, log_var = model.posterior(tokens())
    assert mean.shape == log_var.shape == (4, D)
    assert np.array_equal(mean, model.encode(tokens()))
    assert model.predict(mean).shape == (4,)


def test_another_encoder_takes_the_place_of_the_default():
    class Counts(nnx.Module):
        def __init__(self, rngs):
            self.out = nnx.Linear(V, D, rngs=rngs)

        def __call__(self, x):
            return self.out(jax.nn.one_hot(x, V).mean(1))

    encoder = Counts(nnx.Rngs(1))
    model = small(encoder=encoder)
    assert np.array_equal(model.encode(tokens()), encoder(tokens()))


FIVE_LINES = """
import sys
sys.modules["experiments"] = sys.modules["configs"] = None  # neither can be imported
import jax, jaxgen
from flax import nnx
import jaxgen.diffusion.eddpm, jaxgen.diffusion.schedule, jaxgen.models.text_autoencoder
tokens = jax.random.randint(jax.random.key(1), (8, 18), 3, 4000)
key, chain = jax.random.key(0), jaxgen.diffusion.schedule.linear(100)

sizes = {"width": 16, "depth": 1, "heads": 2}
model = jaxgen.models.text_autoencoder.TextAutoencoder(
    vocab_size=4000, max_len=18, latent_dim=64, rngs=nnx.Rngs(0), **sizes
)
loss, aux = jaxgen.diffusion.eddpm.loss(
    model.encode, model.denoise, model.decode_logprob, tokens, key, chain
)
print(float(loss), sorted(aux))
"""


def test_five_lines_give_the_loss_of_eddpm_where_no_study_can_be_imported():
    done = subprocess.run(
        [sys.executable, "-c", FIVE_LINES], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    value, names = done.stdout.split(maxsplit=1)
    assert 0 < float(value) < 1e9
    assert "reconstruction" in names
