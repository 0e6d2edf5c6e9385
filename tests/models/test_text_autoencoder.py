import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.losses import vae
from jaxgen.models import bert, gpt2
from jaxgen.nn import sequence
from jaxgen.nn.transformer import TransformerConfig
from jaxgen.text import decoding, masking

V, T, D = 11, 7, 5


@pytest.fixture(scope="module")
def decoder():
    spec = gpt2.config(V, width=16, depth=2, heads=2, max_positions=T + 1, init_std=0.3)
    return sequence.LatentGPT(spec, D, rngs=nnx.Rngs(0))


def tokens(rows=4, seed=0):
    return jax.random.randint(jax.random.key(seed), (rows, T), 4, V)


def test_encoder_ignores_padding():
    spec = bert.config(V, width=16, depth=2, heads=2, max_positions=12)
    encoder = sequence.SequenceEncoder(spec, D, pad=0, rngs=nnx.Rngs(0))
    x = tokens()
    longer = jnp.pad(x, ((0, 0), (0, 5)))
    assert np.allclose(encoder(x), encoder(longer), atol=1e-5)
    assert float(jnp.abs(encoder(x)[0] - encoder(x)[1]).max()) > 1e-3


def test_an_encoder_with_places_sees_the_order():
    spec = bert.config(V, width=16, depth=1, heads=2, max_positions=T, init_std=0.2)
    x = tokens()
    swapped = x[:, jnp.asarray([1, 0, 2, 3, 4, 5, 6])]
    shifts = {}
    for per_position in (0, T):
        encoder = sequence.SequenceEncoder(
            spec, D, pad=0, per_position=per_position, rngs=nnx.Rngs(0)
        )
        z = encoder(x)
        shifts[per_position] = float(jnp.abs(encoder(swapped) - z).mean() / jnp.abs(z).mean())
        cut = x.at[:, 5:].set(0)
        assert np.isfinite(encoder(cut)).all()
    assert shifts[T] > 3 * shifts[0] > 0


def test_positions_until_the_end():
    x = jnp.asarray([[5, 3, 3, 0], [3, 5, 5, 5], [5, 5, 5, 5]])
    want = [[True, True, False, False], [True, False, False, False], [True] * 4]
    assert masking.eos_mask(x, 3).tolist() == want


def test_deleted_tokens_close_up_and_are_as_many_as_asked():
    rows = jnp.where(jnp.arange(T) < 5, tokens(4000), 0)
    out = np.asarray(masking.delete_tokens(rows, jax.random.key(0), rate=0.3, pad=0))
    left = (out != 0).sum(1)
    assert abs(left.mean() - 3.5) < 4 * np.sqrt(5 * 0.3 * 0.7 / 4000)
    assert ((out != 0) == (np.arange(T) < left[:, None])).all()
    for before, after in zip(np.asarray(rows)[:50].tolist(), out[:50].tolist(), strict=True):
        rest = iter(before)
        assert all(token in rest for token in after if token)  # in the order they had
    assert (masking.delete_tokens(rows, jax.random.key(0), rate=0.0, pad=0) == rows).all()


def test_decoder_reads_z_and_only_the_past(decoder):
    x, z = tokens(), jax.random.normal(jax.random.key(1), (4, D))
    base = decoder(x, z, begin=2)
    assert base.shape == (4, T, V)
    later = x.at[:, 4].set((x[:, 4] + 1) % V)
    changed = np.abs(np.asarray(decoder(later, z, begin=2) - base)).max((0, 2))
    assert changed[:5].max() < 1e-6
    assert changed[5:].min() > 1e-5
    assert np.abs(decoder(x, z + 1, begin=2) - base).max() > 1e-3


def test_decoding_agrees_with_teacher_forcing(decoder):
    """Greedy tokens, fed back, are the argmax of the logits; the score is their log-probability."""
    z = jax.random.normal(jax.random.key(2), (6, D))
    got = decoding.greedy(decoder.start(z, begin=2, max_tokens=T), max_tokens=T)
    logits = decoder(got.tokens, z, begin=2)
    assert np.array_equal(logits.argmax(-1), got.tokens)
    logp = jnp.take_along_axis(jax.nn.log_softmax(logits), got.tokens[..., None], -1)
    assert np.allclose(logp[..., 0].sum(-1), got.scores, atol=1e-4)


def test_hidden_tokens_do_not_reach_the_decoder(decoder):
    x, z = tokens(), jax.random.normal(jax.random.key(3), (4, D))
    key = jax.random.key(4)
    all_hidden = decoder(x, z, begin=2, unknown=1, word_dropout=1.0, key=key)
    other = decoder(tokens(seed=9), z, begin=2, unknown=1, word_dropout=1.0, key=key)
    assert np.array_equal(all_hidden, other)
    assert np.array_equal(
        decoder(x, z, begin=2, unknown=1, word_dropout=0.9), decoder(x, z, begin=2)
    )


def test_parallel_decoder_has_a_place_for_every_position():
    stack = TransformerConfig(width=16, depth=1, heads=2, head_dim=8, mlp_width=32, causal=False)
    decoder = sequence.ParallelDecoder(stack, V, T, D, rngs=nnx.Rngs(0))
    z = jax.random.normal(jax.random.key(0), (3, D))
    logits = decoder(z)
    assert logits.shape == (3, T, V)
    assert np.allclose(decoder(z[1:2])[0], logits[1], atol=1e-5)
    assert float(jnp.std(logits, axis=1).mean()) > 1e-2


def test_free_bits_cost_what_they_leave():
    mu, log_var = jnp.zeros((4, 3)), jnp.asarray([[0.0, 0.5, 2.0]] * 4)
    kl = np.asarray(vae.kl_to_standard_normal(mu, log_var)).mean(0)
    value, aux = vae.loss(
        lambda x: (mu, log_var),
        lambda x, z: jnp.zeros(4),
        None,
        jax.random.key(0),
        beta=2.0,
        free_bits=0.5,
    )
    assert float(value) == pytest.approx(2.0 * np.maximum(kl, 0.5).sum(), rel=1e-6)
    assert float(aux["kl"]) == pytest.approx(kl.sum(), rel=1e-6)
    assert kl[1] < 0.5 < kl[2]


def test_cyclical_beta():
    """Periods of 8: four steps at 0, a rise over two, two at 1."""
    beta = jax.vmap(lambda s: vae.cyclical_beta(s, period=8))(jnp.arange(16))
    assert np.allclose(beta, [0, 0, 0, 0, 0, 0.5, 1, 1] * 2)
    with pytest.raises(ValueError, match="period is 0"):
        vae.cyclical_beta(0, period=0)
    with pytest.raises(ValueError, match="shares of at most 1"):
        vae.cyclical_beta(0, period=8, zero=0.9, rise=0.2)
