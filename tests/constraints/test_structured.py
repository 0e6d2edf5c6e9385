"""The two structured constraints: values by hand, bounds, and where their gradients go."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgen.constraints import infill, parts, steps
from jaxgen.constraints.infill import PointerMatch
from jaxgen.constraints.parts import PartAgreement

RNG = np.random.default_rng(0)


def test_agreement_weighs_pixels_by_their_intensity():
    p = RNG.dirichlet(np.ones(5), (2, 3, 3)).astype(np.float32)
    x = RNG.random((2, 3, 3)).astype(np.float32)
    r = RNG.integers(1, 5, (2, 3, 3))
    each = np.log(np.take_along_axis(p, r[..., None], -1)[..., 0])
    want = (x * each).sum((1, 2)) / x.sum((1, 2))
    got = parts.agreement(jnp.log(p), jnp.asarray(x), jnp.asarray(r), floor=-jnp.inf)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    bounded = parts.agreement(jnp.log(p), jnp.asarray(x), jnp.asarray(r))
    np.testing.assert_allclose(bounded, np.maximum(want, -math.log(5)), rtol=1e-5)
    assert (want < -math.log(5)).any() == (bounded == -math.log(5)).any()
    sure = 50.0 * jax.nn.one_hot(r, 5)
    np.testing.assert_allclose(parts.agreement(sure, jnp.asarray(x), jnp.asarray(r)), 0, atol=1e-5)
    assert parts.agreement(-sure, jnp.asarray(x), jnp.asarray(r))[0] == -jnp.log(5.0)
    assert parts.agreement(sure[0], jnp.zeros((3, 3)), jnp.asarray(r[0])) == 0
    half = parts.agreement(jnp.log(p).astype(jnp.bfloat16), jnp.asarray(x), jnp.asarray(r))
    assert half.dtype == jnp.float32


def test_a_part_constraint_teaches_parser_and_image():
    f = PartAgreement(1, 4, width=6, rngs=nnx.Rngs(0))
    x = jnp.asarray(RNG.random((2, 8, 8, 1)), jnp.float32)
    r = f.parse(x).argmax(-1)
    value, (of_f, of_x) = jax.value_and_grad(lambda f, x: f(x, r).sum(), (0, 1))(f, x)
    assert -2 * math.log(5) < float(value) < 0
    assert min(float(jnp.abs(g).max()) for g in jax.tree.leaves(of_f)) > 0
    assert float(jnp.abs(of_x).max()) > 0
    # Dilations of 1, 2, 4 and 8 see 15 pixels to each side.
    far = jax.grad(lambda x: PartAgreement(1, 4, width=6, rngs=nnx.Rngs(0)).parse(x)[0, 0, 0, 1])
    wide = far(jnp.asarray(RNG.random((1, 20, 20, 1)), jnp.float32))[0, :, :, 0]
    assert jnp.any(wide[15])
    assert not jnp.any(wide[16:])
    assert not jnp.any(wide[:, 16:])


def test_at_the_floor_gradients_may_raise_f_and_not_lower_it():
    f, low = jnp.asarray([-3.0, -1.0]), jnp.asarray(-2.0)
    np.testing.assert_array_equal(parts.floored(f, low), [-2.0, -1.0])
    lower = jax.jit(jax.grad(lambda f: parts.floored(f, low).sum()))(f)
    np.testing.assert_array_equal(lower, [0, 1])
    raise_f = jax.grad(lambda f: -2.0 * parts.floored(f, low).sum())(f)
    np.testing.assert_array_equal(raise_f, [-2, -2])
    logits = jnp.asarray(RNG.normal(size=(1, 3, 3, 5)), jnp.float32)
    logits = logits.at[..., 0].add(9.0)  # all background, where part 1 is wanted
    ones = jnp.ones((1, 3, 3))
    f = lambda logits: parts.agreement(logits, ones, ones.astype(jnp.int32)).sum()  # noqa: E731
    assert float(f(logits)) == pytest.approx(-math.log(5))
    np.testing.assert_array_equal(jax.grad(f)(logits), 0)
    up = -jax.grad(lambda logits: -f(logits))(logits)
    want = (jax.nn.one_hot(1, 5) - jax.nn.softmax(logits)) / 9
    np.testing.assert_allclose(up, want, rtol=1e-4, atol=1e-7)


def test_parses_agree_best_with_themselves_and_data_then_teach_nothing():
    wanted = jnp.asarray(RNG.normal(size=(2, 4, 4, 3)), jnp.float32)
    part = np.asarray(wanted).argmax(-1) > 0
    p = np.asarray(jax.nn.softmax(wanted))
    entropy = -(p * np.log(p)).sum(-1)
    want = [-entropy[i][part[i]].mean() for i in range(2)]
    np.testing.assert_allclose(parts.parse_agreement(wanted, wanted), want, rtol=1e-5)
    stopped = jax.grad(lambda w: parts.parse_agreement(jax.lax.stop_gradient(w), w).sum())(wanted)
    np.testing.assert_allclose(stopped, 0, atol=1e-6)
    both = jax.grad(lambda w: parts.parse_agreement(w, w).sum())(wanted)
    assert float(jnp.abs(both).max()) > 1e-3


def test_match_by_hand():
    pi = jnp.asarray([[[0.5, 0.25, 0.25], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]])
    x, a = jnp.asarray([[7, 8, 7]]), jnp.asarray([[7, 9, 5]])
    mask = jnp.asarray([[True, True, False]])
    want = (math.log(0.01 + 0.75) + math.log(0.01)) / 2
    assert float(infill.match(pi, x, a, mask, delta=0.01)[0]) == pytest.approx(want, rel=1e-5)
    soft = jax.nn.one_hot(x, 10)
    got = infill.match(pi, soft, a, mask, delta=0.01)
    assert float(got[0]) == pytest.approx(want, rel=1e-5)
    mixed = 0.5 * soft + 0.5 * jax.nn.one_hot(jnp.full_like(x, 9), 10)
    want = (math.log(0.01 + 0.375) + math.log(0.01 + 0.5)) / 2
    got = infill.match(pi, mixed, a, mask, delta=0.01)
    assert float(got[0]) == pytest.approx(want, rel=1e-5)
    assert infill.match(pi, x, a, jnp.zeros_like(mask), delta=0.01)[0] == 0
    with pytest.raises(ValueError, match=r"delta is 1\.0, allowed: above 0 and below 1"):
        infill.match(pi, x, a, mask, delta=1.0)


V, T = 12, 6


def rows(count):
    x = RNG.integers(3, V, (count, T))
    length = RNG.integers(2, T + 1, count)
    mask = np.arange(T) < length[:, None]
    content = np.take_along_axis(x, np.stack([0 * length, length - 1], -1), 1)
    template = np.where(np.arange(T) == 0, 1, x)
    arrays = [jnp.asarray(a, jnp.int32) for a in (x, template, content)]
    return *arrays, jnp.asarray(mask)


def call(f, x, template, content, mask):
    whole = jnp.ones(content.shape, bool)
    return f(x, template, content, mask=mask, template_mask=mask, content_mask=whole)


def test_a_pointer_ignores_padding_and_reads_one_hot_draws_as_tokens():
    f = PointerMatch(V, length=T, width=8, depth=1, heads=2, rngs=nnx.Rngs(0))
    x, template, content, mask = rows(5)
    value = call(f, x, template, content, mask)
    assert ((value >= math.log(1e-3)) & (value <= math.log1p(1e-3))).all()
    np.testing.assert_allclose(
        call(f, jax.nn.one_hot(x, V), template, content, mask), value, rtol=1e-4
    )
    pi = f.point(x, template, content, mask=mask, template_mask=mask)
    np.testing.assert_allclose(pi.sum(-1), 1, rtol=1e-5)
    assert (np.asarray(pi)[~np.broadcast_to(np.asarray(mask)[:, None], pi.shape)] == 0).all()
    other = jnp.where(mask, x, 3)
    np.testing.assert_array_equal(call(f, other, template, content, mask), value)


def test_a_pointer_learns_where_words_sit():
    f = PointerMatch(V, length=T, width=16, depth=1, heads=2, rngs=nnx.Rngs(0))
    x, template, content, mask = rows(64)
    tx = optax.adam(1e-2)

    def step(carry, _):
        f, opt = carry
        value, grad = jax.value_and_grad(lambda f: -call(f, x, template, content, mask).mean())(f)
        updates, opt = tx.update(grad, opt)
        return (optax.apply_updates(f, updates), opt), value

    (f, _), losses = jax.jit(lambda c: jax.lax.scan(step, c, length=150))((f, tx.init(f)))
    assert losses[-1] < 0.2 < losses[0]


def test_the_phi_step_of_a_structured_constraint_leaves_samples_alone():
    f = PartAgreement(1, 4, width=4, rngs=nnx.Rngs(0))
    x = jnp.asarray(RNG.random((3, 2, 8, 8, 1)), jnp.float32)
    data = jnp.asarray(RNG.random((3, 8, 8, 1)), jnp.float32)
    r = f.parse(data).argmax(-1)

    def loss(f, x):
        def reward(y):
            if y.ndim == 4:
                return f(y, r)
            return jax.vmap(f, (1, None), 1)(y, r)

        return steps.phi_step(reward, data, x, 2.0)[0]

    of_f, of_x = jax.grad(loss, (0, 1))(f, x)
    np.testing.assert_array_equal(of_x, 0)
    assert float(optax.global_norm(of_f)) > 0
