"""Log-probabilities of pairs: values and gradients of log_softmax, by kept and by repeated exponentials."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.losses.pair_logprobs import pair_logprobs

B, T, S, V = 2, 5, 4, 11
Y = jnp.asarray([[3, 0, 7, 7], [10, 2, 0, 5]])


@pytest.fixture(params=["cpu", "default"])
def platform(request, monkeypatch):
    """Both forms; the one of other platforms runs here too."""

    def choose(*args, default, **branches):
        return branches.get(request.param, default)(*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", choose)
    return request.param


def written_out(logits, targets):
    log_p = jax.nn.log_softmax(logits, -1)
    return jnp.take_along_axis(log_p, jnp.repeat(targets[:, None], logits.shape[1], 1), -1)


def logits(scale=1.0, dtype=jnp.float32):
    return (scale * jax.random.normal(jax.random.key(0), (B, T, V))).astype(dtype)


def value_and_grad(f, x):
    w = jax.random.normal(jax.random.key(1), (B, T, S))
    return jax.jit(jax.value_and_grad(lambda x: (f(x, Y) * w).sum()))(x)


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0, 1e4])
def test_values_and_gradients(platform, scale):
    """At 300 the sum from a target's logit overflows, at 1e4 so do most exponentials."""
    (got, d), (want, e) = (value_and_grad(f, logits(scale)) for f in (pair_logprobs, written_out))
    np.testing.assert_allclose(got, want, rtol=2e-6)
    np.testing.assert_allclose(d, e, atol=1e-5)


@pytest.mark.parametrize(("dtype", "away"), [(jnp.float16, 4e-3), (jnp.bfloat16, 4e-2)])
@pytest.mark.parametrize("scale", [1.0, 8.0, 40.0])
def test_logits_of_16_bits(platform, dtype, away, scale):
    x = logits(scale, dtype)
    got, d = value_and_grad(pair_logprobs, x)
    want, e = value_and_grad(written_out, x.astype(jnp.float32))
    assert d.dtype == dtype
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(d, np.float32), e, atol=away)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_both_forms_are_traced_to_one_type(dtype):
    """Without a choice made for them, as programs for several platforms are."""
    d = jax.jit(jax.grad(lambda x: pair_logprobs(x, Y).sum()))(logits(1.0, dtype))
    want = jax.grad(lambda x: written_out(x, Y).sum())(logits(1.0, dtype).astype(jnp.float32))
    assert d.dtype == dtype
    np.testing.assert_allclose(np.asarray(d, np.float32), want, atol=8 * jnp.finfo(dtype).eps)


@pytest.mark.parametrize("away", [20.0, 34.0, 36.0, 80.0, 1e4])
def test_a_small_gradient_survives_a_large_sum(platform, away):
    """Targets far below the maximum, on both sides of where the sum is taken again."""
    x = jnp.zeros((1, 1, V)).at[0, 0, 10].set(away)
    f = lambda f: jax.grad(lambda x: 1e-12 * f(x, Y[:1, :1]).sum())(x)  # noqa: E731
    np.testing.assert_allclose(f(pair_logprobs), f(written_out), rtol=1e-5)


def test_impossible_tokens(platform):
    x = logits().at[:, :, 1].set(-jnp.inf).at[0, 2, 3].set(-jnp.inf)
    c = pair_logprobs(x, Y)
    np.testing.assert_array_equal(jnp.isneginf(c), written_out(x, Y) == -jnp.inf)
    d = jax.grad(lambda x: jnp.where(jnp.isfinite(c), pair_logprobs(x, Y), 0.0).sum())(x)
    e = jax.grad(lambda x: jnp.where(jnp.isfinite(c), written_out(x, Y), 0.0).sum())(x)
    np.testing.assert_allclose(d, e, atol=1e-6)
    assert (d[:, :, 1] == 0).all()


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_rows_that_do_not_count_spoil_no_others(platform, bad):
    x = logits().at[0, 3].set(bad)
    counts = jnp.ones((B, T, S)).at[0, 3].set(0.0)
    f = lambda f, x: jnp.where(counts > 0, f(x, Y), 0.0).sum()  # noqa: E731
    got, d = jax.value_and_grad(lambda x: f(pair_logprobs, x))(x)
    clean = jnp.where(jnp.isfinite(x), x, 0.0)
    want, e = jax.value_and_grad(lambda x: f(written_out, x))(clean)
    assert float(got) == pytest.approx(float(want), rel=1e-5)
    np.testing.assert_allclose(d, e, atol=1e-6)


def test_many_at_once_and_without_targets(platform):
    x = jnp.stack([logits(), logits(300.0)])
    got = jax.vmap(jax.grad(lambda x: pair_logprobs(x, Y).sum()))(x)
    want = jnp.stack([jax.grad(lambda x: written_out(x, Y).sum())(a) for a in x])
    np.testing.assert_allclose(got, want, atol=1e-4)  # logsumexp of 300 is rounded to 3e-5
    none = Y[:, :0]
    assert pair_logprobs(x[0], none).shape == (B, T, 0)
    assert not jax.grad(lambda x: pair_logprobs(x, none).sum())(x[0]).any()


def test_the_gradient_holds_one_array_of_the_logits_size():
    shape = (8, 32, 8000)
    x, y = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((8, 32), jnp.int32)
    f = jax.jit(jax.grad(lambda x, y: pair_logprobs(x, y).mean()))
    memory = f.lower(x, y).compile().memory_analysis()
    assert memory.output_size_in_bytes == 4 * np.prod(shape)
    assert memory.temp_size_in_bytes < 0.2 * memory.output_size_in_bytes


@pytest.mark.parametrize(("platform", "count"), [("cpu", 2), ("tpu", 3)])
def test_exponentials_are_kept_on_cpu_alone(platform, count):
    """In the program: one pass and the one from the maximum, and elsewhere one more for the gradient."""
    f = jax.jit(jax.grad(lambda x: pair_logprobs(x, Y).sum()))
    text = f.trace(logits()).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.exponential") == count
