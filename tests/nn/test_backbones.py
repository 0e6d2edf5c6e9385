import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxgen.losses import vae
from jaxgen.nn import conv, mlp, unet
from jaxgen.train.state import parameter_count


def test_timestep_embedding_values():
    e = mlp.timestep_embedding(jnp.array([0.0, 3.0]), 8)
    freqs = 10_000.0 ** (-np.arange(4) / 4)
    assert np.allclose(e[0], [1, 1, 1, 1, 0, 0, 0, 0])
    assert np.allclose(e[1], np.concatenate([np.cos(3 * freqs), np.sin(3 * freqs)]), atol=1e-6)


def make_mlp(dtype=None):
    return mlp.MLPSkipNet(5, width=16, depth=3, dtype=dtype, rngs=nnx.Rngs(0))


def test_mlp_depends_on_time_and_input(key):
    net = make_mlp()
    z = jax.random.normal(key, (4, 5))
    a, b = net(z, jnp.full(4, 1)), net(z, jnp.full(4, 500))
    assert a.shape == (4, 5)
    assert jnp.abs(a - b).max() > 1e-3
    assert jnp.allclose(net(z, jnp.full(4, 2.0)), net(z, jnp.full(4, 2)))


def test_time_scale_maps_short_chains_to_the_same_range(key):
    z = jax.random.normal(key, (4, 5))
    long = make_mlp()
    short = mlp.MLPSkipNet(5, width=16, depth=3, time_scale=10.0, rngs=nnx.Rngs(0))
    assert jnp.allclose(long(z, jnp.full(4, 500)), short(z, jnp.full(4, 50)))


@pytest.mark.parametrize("size", [4, 8, 12, 28, 64])
def test_encoder_and_decoder_shapes(size):
    shape = (size, size, 3)
    enc = conv.Encoder(shape, 7, width=8, rngs=nnx.Rngs(0))
    dec = conv.Decoder(7, shape, width=8, rngs=nnx.Rngs(0))
    x = jnp.ones((2, *shape))
    assert enc(x).shape == (2, 7)
    assert dec(enc(x)).shape == x.shape


def test_depth_to_space_places_each_channel():
    x = jnp.arange(2 * 3 * 8.0).reshape(1, 2, 3, 8)
    y = conv.depth_to_space(x)
    assert y.shape == (1, 4, 6, 2)
    for i, j, r, s, c in np.ndindex(2, 3, 2, 2, 2):
        assert y[0, 2 * i + r, 2 * j + s, c] == x[0, i, j, (r * 2 + s) * 2 + c]


def test_residual_blocks_start_as_the_identity(key):
    block = conv.ResBlock(8, 8, cond_dim=4, rngs=nnx.Rngs(0))
    x = jax.random.normal(key, (2, 4, 4, 8))
    assert jnp.array_equal(block(x, jnp.ones((2, 4))), x)


def test_unet_starts_at_zero_and_uses_time_and_condition(key):
    net = unet.UNet((8, 8, 1), width=8, cond_dim=3, rngs=nnx.Rngs(0))
    x = jax.random.normal(key, (2, 8, 8, 1))
    z = jax.random.normal(key, (2, 3))
    assert jnp.all(net(x, jnp.ones(2), z) == 0)

    def loss(net, t, z):
        return ((net(x, t, z) - x) ** 2).mean()

    value = jax.jit(loss)
    step = jax.jit(lambda m: jax.tree.map(lambda a, g: a - 0.5 * g, m, jax.grad(loss)(m, t, z)))
    t = jnp.array([10.0, 700.0])
    first = value(net, t, z)
    for _ in range(20):
        net = step(net)
    assert value(net, t, z) < 0.7 * first
    assert jnp.abs(net(x, t, z) - net(x, t[::-1], z)).max() > 1e-4
    assert jnp.abs(net(x, t, z) - net(x, t, -z)).max() > 1e-4


def test_unet_rejects_sides_that_do_not_halve():
    with pytest.raises(ValueError, match="halve the side 2 times"):
        unet.UNet((6, 6, 1), width=8, multipliers=(1, 2, 4), rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    "build",
    [
        make_mlp,
        lambda d: conv.Encoder((8, 8, 1), 5, width=8, dtype=d, rngs=nnx.Rngs(0)),
        lambda d: unet.UNet((8, 8, 1), width=8, dtype=d, rngs=nnx.Rngs(0)),
    ],
)
def test_bfloat16_computes_near_float32_with_float32_parameters(key, build):
    half, full = build(jnp.bfloat16), build(None)
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(half))
    if isinstance(full, mlp.MLPSkipNet):
        args = (jax.random.normal(key, (4, 5)), jnp.full(4, 3))
    elif isinstance(full, conv.Encoder):
        args = (jax.random.uniform(key, (4, 8, 8, 1)),)
    else:
        args = (jax.random.normal(key, (4, 8, 8, 1)), jnp.full(4, 3))
    a, b = half(*args), full(*args)
    assert a.dtype == jnp.float32
    assert jnp.abs(a - b).max() < 0.1 * jnp.abs(b).max() + 1e-6


def test_modules_are_pytrees_for_jit_grad_and_vmap(key):
    net = make_mlp()
    z, t = jax.random.normal(key, (3, 4, 5)), jnp.full(4, 7)
    out = jax.vmap(lambda z: net(z, t))(z)
    assert jnp.allclose(out[1], jax.jit(lambda m, z: m(z, t))(net, z[1]), atol=1e-5)
    g = jax.grad(lambda m: m(z[0], t).sum())(net)
    assert parameter_count(g) == parameter_count(net)
    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves(g))


@given(
    x=st.lists(st.floats(0, 1), min_size=1, max_size=6),
    mean=st.floats(-2, 2),
    std=st.floats(0.05, 3),
)
@settings(max_examples=30, deadline=None)
def test_gaussian_logprob_is_scipys(x, mean, std):
    got = conv.gaussian_logprob(jnp.array([x]), jnp.full((1, len(x)), mean), std)
    want = stats.norm.logpdf(x, mean, std).sum()
    assert np.isclose(got[0], want, rtol=1e-4, atol=1e-3)


def test_bernoulli_logprob_on_bits_and_at_extreme_logits():
    x = jnp.array([[0.0, 1.0, 1.0]])
    logits = jnp.array([[0.3, -1.2, 2.0]])
    p = 1 / (1 + np.exp(-np.asarray(logits)))
    want = np.log(np.where(np.asarray(x) == 1, p, 1 - p)).sum()
    assert np.isclose(conv.bernoulli_logprob(x, logits)[0], want, rtol=1e-5)
    assert jnp.isfinite(conv.bernoulli_logprob(x, 200.0 * logits)[0])


def test_vae_kl_against_scipy_integration_and_loss_terms(key):
    mu, log_var = 0.7, -0.9
    grid = np.linspace(-10, 10, 40_001)
    q = stats.norm(mu, np.exp(0.5 * log_var))
    want = np.sum(q.pdf(grid) * (q.logpdf(grid) - stats.norm.logpdf(grid))) * (grid[1] - grid[0])
    assert vae.kl_to_standard_normal(jnp.array([[mu]]), jnp.array([[log_var]]))[
        0, 0
    ] == pytest.approx(want, rel=1e-4)
    x = jax.random.normal(key, (8, 2))

    def loss(beta):
        return vae.loss(
            lambda x: (x, jnp.full_like(x, log_var)),
            lambda x, z: conv.gaussian_logprob(x, z, 1.0),
            x,
            key,
            beta=beta,
        )

    value, aux = loss(0.5)
    assert value == pytest.approx(float(aux["reconstruction"] + 0.5 * aux["kl"]), rel=1e-6)
    assert loss(2.0)[0] - value == pytest.approx(1.5 * float(aux["kl"]), rel=1e-4)
