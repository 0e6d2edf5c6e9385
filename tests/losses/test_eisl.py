"""EISL against brute force in float64 and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.losses import eisl
from jaxgen.losses.pair_logprobs import pair_logprobs


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def brute_force(logits, targets, ngrams, out_len, tgt_len, weights=None, temperature=1.0):
    """All (i, j, k) by loops, in float64."""
    logp = log_softmax(np.asarray(logits, np.float64))
    weights = weights or [1 / len(ngrams)] * len(ngrams)
    result = []
    for b in range(len(targets)):
        t, s, total = out_len[b], tgt_len[b], 0.0
        for n, w in zip(ngrams, weights, strict=True):
            size = n if n >= 1 else s + n
            if size < 1:
                continue
            values = []
            for j in range(s - size + 1):
                m = [
                    sum(logp[b, i + k, targets[b, j + k]] for k in range(size)) / size
                    for i in range(t - size + 1)
                ]
                if m:
                    e = np.exp(np.array(m) / temperature - max(m) / temperature)
                    values.append(float((e / e.sum()) @ np.array(m)))
            total -= w * np.mean(values) if values else 0.0
        result.append(total)
    return np.array(result)


def masks(out_len, tgt_len, t, s):
    return (
        jnp.arange(t)[None] < jnp.asarray(out_len)[:, None],
        jnp.arange(s)[None] < jnp.asarray(tgt_len)[:, None],
    )


@settings(deadline=None, max_examples=12)
@given(data=st.data())
def test_brute_force_in_float64(data):
    t, s = data.draw(st.integers(2, 7)), data.draw(st.integers(2, 7))
    most = min(t, s)
    ngrams = data.draw(st.lists(st.integers(-1, most), min_size=1, max_size=3))
    lens = st.lists(st.integers(1, t), min_size=2, max_size=2)
    out_len = data.draw(lens)
    tgt_len = data.draw(st.lists(st.integers(1, s), min_size=2, max_size=2))
    temperature = data.draw(st.sampled_from([0.5, 1.0, 3.0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    logits = rng.normal(size=(2, t, 5)) * 2
    targets = rng.integers(0, 5, (2, s))
    want = brute_force(logits, targets, ngrams, out_len, tgt_len, temperature=temperature)
    mask_i, mask_j = masks(out_len, tgt_len, t, s)

    @jax.jit
    def loss(logits):
        return eisl.eisl_loss(
            logits,
            jnp.asarray(targets),
            ngrams=ngrams,
            logits_mask=mask_i,
            targets_mask=mask_j,
            temperature=temperature,
        )

    with jax.enable_x64(True):
        got = loss(jnp.asarray(logits))
        assert got.dtype == jnp.float64
        assert np.allclose(got, want, atol=1e-10)
    assert np.allclose(loss(jnp.asarray(logits, jnp.float32)), want, atol=1e-4)


def random_case(seed=0, b=3, t=6, s=6, v=11, scale=2.0):
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(rng.normal(size=(b, t, v)) * scale, jnp.float32)
    return logits, jnp.asarray(rng.integers(0, v, (b, s)))


@pytest.mark.parametrize("n", [6, 0])
def test_the_longest_ngram_is_cross_entropy(n):
    logits, targets = random_case()
    ce = optax.softmax_cross_entropy_with_integer_labels(logits, targets)

    def loss(x):
        each = eisl.eisl_loss(x, targets, ngrams=(n,))
        return each.sum(), each

    grad, each = jax.jit(jax.grad(loss, has_aux=True))(logits)
    assert np.allclose(each, ce.mean(1), atol=1e-5)
    want = jax.grad(
        lambda x: optax.softmax_cross_entropy_with_integer_labels(x, targets).mean(1).sum()
    )(logits)
    assert np.allclose(grad, want, atol=1e-6)


def peaked(tokens, v, length, height=30.0):
    """Logits that all but surely say these tokens."""
    return height * jax.nn.one_hot(jnp.asarray(tokens + [v - 1] * (length - len(tokens))), v)[None]


@pytest.mark.parametrize("shift", [1, 2])
def test_a_shifted_target_costs_nothing(shift):
    target = [3, 1, 4, 2, 5]
    logits = peaked([7] * shift + target, 9, 9)
    y = jnp.asarray([target])
    assert float(eisl.eisl_loss(logits, y, ngrams=(2, 3), temperature=0.1)[0]) < 1e-3
    ce = optax.softmax_cross_entropy_with_integer_labels(logits[:, :5], y).mean()
    assert float(ce) > 20


def test_swapping_blocks_of_the_target_leaves_the_ngrams_within_them():
    """Two blocks of two: the bigrams inside each block stay, only the one across changes."""
    logits, _ = random_case(1, b=1, t=8)
    a, b = [1, 2], [3, 4]

    def inside(tokens):
        y = jnp.asarray([tokens])
        c = pair_logprobs(logits, y)
        m = 0.5 * (c[:, :-1, :-1] + c[:, 1:, 1:])
        w = jax.nn.softmax(m, 1)
        return (w * m).sum(1)[0, jnp.asarray([0, 2])].sum()

    assert float(inside(a + b)) == pytest.approx(float(inside(b + a)), abs=1e-5)
    one = eisl.eisl_loss(logits, jnp.asarray([a + b]), ngrams=(1,))
    two = eisl.eisl_loss(logits, jnp.asarray([b + a]), ngrams=(1,))
    assert float(one[0]) == pytest.approx(float(two[0]), abs=1e-5)
    ce = [
        float(
            optax.softmax_cross_entropy_with_integer_labels(logits[:, :4], jnp.asarray([y])).mean()
        )
        for y in (a + b, b + a)
    ]
    assert abs(ce[0] - ce[1]) > 0.05


def test_gradient_against_finite_differences_in_float64():
    rng = np.random.default_rng(2)
    with jax.enable_x64(True):
        logits = jnp.asarray(rng.normal(size=(2, 5, 6)))
        targets = jnp.asarray(rng.integers(0, 6, (2, 4)))
        mask_i, mask_j = masks([5, 4], [4, 3], 5, 4)

        def loss(x):
            return eisl.eisl_loss(
                x, targets, ngrams=(1, 2, -1), logits_mask=mask_i, targets_mask=mask_j
            ).sum()

        got, h = jax.jit(jax.grad(loss))(logits), 1e-5
        steps = h * jnp.eye(logits.size).reshape(-1, *logits.shape)
        each = jax.jit(jax.vmap(loss))
        want = (each(logits + steps) - each(logits - steps)) / (2 * h)
        assert np.allclose(got.reshape(-1), want, rtol=0, atol=1e-8)


def test_pair_logprobs_and_its_gradient_against_autodiff():
    logits, targets = random_case(3, b=2, t=4, s=7, v=5)  # repeated targets add up

    def plain(x):
        logp = jax.nn.log_softmax(x)
        return jnp.take_along_axis(logp, jnp.broadcast_to(targets[:, None], (2, 4, 7)), -1)

    g = jax.random.normal(jax.random.key(0), (2, 4, 7))
    want, pull = jax.vjp(plain, logits)
    got, pull_ours = jax.vjp(lambda x: pair_logprobs(x, targets), logits)
    assert np.allclose(got, want, atol=1e-5)
    assert np.allclose(pull_ours(g)[0], pull(g)[0], atol=1e-5)


def test_padding_changes_neither_value_nor_gradient():
    logits, targets = random_case(4)
    pad_x = jnp.concatenate([logits, jnp.full((3, 4, 11), 50.0)], 1)
    pad_y = jnp.concatenate([targets, jnp.zeros((3, 2), targets.dtype)], 1)
    mask_i, mask_j = masks([6] * 3, [6] * 3, 10, 8)

    def short(x):
        return eisl.eisl_loss(x, targets, ngrams=(2, 3, 0, -1)).sum()

    def long(x):
        return eisl.eisl_loss(
            x, pad_y, ngrams=(2, 3, 0, -1), logits_mask=mask_i, targets_mask=mask_j
        ).sum()

    value, grad = jax.jit(jax.value_and_grad(short))(logits)
    padded, padded_grad = jax.jit(jax.value_and_grad(long))(pad_x)
    assert float(value) == pytest.approx(float(padded), abs=1e-5)
    assert np.allclose(padded_grad[:, :6], grad, atol=1e-6)
    assert np.array_equal(padded_grad[:, 6:], np.zeros((3, 4, 11)))


def test_bfloat16_agrees_with_float32():
    logits, targets = random_case(5)
    low = logits.astype(jnp.bfloat16)
    full = low.astype(jnp.float32)
    a = eisl.eisl_loss(low, targets)
    assert np.allclose(a, eisl.eisl_loss(full, targets), atol=1e-2)
    grad = jax.grad(lambda x: eisl.eisl_loss(x, targets).sum())(low)
    assert grad.dtype == jnp.bfloat16
    want = jax.grad(lambda x: eisl.eisl_loss(x, targets).sum())(full)
    assert np.allclose(grad.astype(jnp.float32), want, atol=1e-2)


def test_gumbel_weights_average_over_draws_and_differ_by_key():
    logits, targets = random_case(6)
    a = eisl.eisl_loss(logits, targets, key=jax.random.key(0))
    b = eisl.eisl_loss(logits, targets, key=jax.random.key(1))
    assert not np.allclose(a, b)
    assert np.array_equal(a, eisl.eisl_loss(logits, targets, key=jax.random.key(0)))
    # At a high temperature the noise drowns in it and both weights become uniform.
    hot = eisl.eisl_loss(logits, targets, key=jax.random.key(0), temperature=1e4)
    assert np.allclose(hot, eisl.eisl_loss(logits, targets, temperature=1e4), atol=1e-2)


def test_clipping_bounds_the_loss_and_stops_the_gradient():
    logits = peaked([1, 2, 3], 5, 3, height=60.0)
    y = jnp.asarray([[4, 4, 4]])
    assert float(eisl.eisl_loss(logits, y, ngrams=(2,), clip=-20.0)[0]) == pytest.approx(20.0)
    grad = jax.grad(lambda x: eisl.eisl_loss(x, y, ngrams=(2,), clip=-20.0).sum())(logits)
    assert float(jnp.abs(grad).max()) == 0.0


def test_mixture_with_cross_entropy_and_smoothing():
    logits, y = random_case(7)
    mask = jnp.arange(6)[None] < jnp.asarray([6, 4, 3])[:, None]
    one_hot = optax.smooth_labels(jax.nn.one_hot(y, 11), 0.1)
    ce = (optax.softmax_cross_entropy(logits, one_hot) * mask).sum(1) / mask.sum(1)
    ngram = eisl.eisl_loss(logits, y, logits_mask=mask, targets_mask=mask)
    got = eisl.mixed_loss(
        logits, y, mask=mask, ngram_factor=0.7, ce_factor=0.3, label_smoothing=0.1
    )
    assert np.allclose(got, 0.7 * ngram + 0.3 * ce, atol=1e-5)
    plain = eisl.mixed_loss(logits, y, mask=mask, ngram_factor=0.0)
    want = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    assert np.allclose(plain, (want * mask).sum(1) / mask.sum(1), atol=1e-5)


def test_under_jit_and_vmap():
    logits, targets = random_case(8)
    want = eisl.eisl_loss(logits, targets)
    assert np.allclose(jax.jit(eisl.eisl_loss)(logits, targets), want, atol=1e-6)
    rows = jax.vmap(lambda x, y: eisl.eisl_loss(x[None], y[None])[0])(logits, targets)
    assert np.allclose(rows, want, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ngrams": ()}, r"ngrams is \(\)"),
        ({"ngrams": (-2,)}, r"ngrams is \(-2,\)"),
        ({"ngrams": (7,)}, "at most 6"),
        ({"weights": (1.0,)}, "weights are 1, allowed: 3"),
        ({"temperature": 0.0}, "temperature is 0"),
    ],
)
def test_bad_settings(options, message):
    logits, targets = random_case()
    with pytest.raises(ValueError, match=message):
        eisl.eisl_loss(logits, targets, **options)


def test_an_impossible_token_matters_only_in_n_grams_that_count():
    """Token 0 is impossible at output 1; the bigram that starts there touches padding."""
    logits, _ = random_case(b=1, t=3, s=3, v=5)
    targets, mask = jnp.asarray([[0, 1, 2]]), jnp.asarray([[True, True, False]])
    banned = logits.at[0, 1, 0].set(-jnp.inf)

    def loss(logits):
        return eisl.eisl_loss(logits, targets, ngrams=(2,), logits_mask=mask).sum()

    value, grads = jax.value_and_grad(loss)(banned)
    possible = loss(banned.at[0, 1, 0].set(-50.0))
    assert float(value) == pytest.approx(float(possible), rel=1e-6)
    assert np.isfinite(grads).all()


def noisy_padding(key, fill):
    """Logits [2, 5, 7], the same with `fill` at every masked position, targets and mask."""
    x = jax.random.normal(key, (2, 5, 7))
    y = jax.random.randint(key, (2, 5), 0, 7)
    mask = jnp.arange(5) < jnp.array([[4], [2]])
    return x, jnp.where(mask[..., None], x, fill), y, mask


@pytest.mark.parametrize("fill", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y, mask: eisl.eisl_loss(
            x, y, ngrams=(1, 2, 0), logits_mask=mask, targets_mask=mask
        ),
        lambda x, y, mask: eisl.mixed_loss(x, y, ngrams=(1, 2), mask=mask, label_smoothing=0.1),
    ],
)
def test_what_stands_at_masked_positions_reaches_neither_value_nor_gradient(key, fill, loss):
    x, filled, y, mask = noisy_padding(key, fill)
    run = jax.jit(jax.value_and_grad(lambda x, y: loss(x, y, mask).sum()))
    want, grad = run(x, y)
    # A target there may be a token that does not exist, such as -100.
    got, same = run(filled, jnp.where(mask, y, -100))
    assert got == pytest.approx(float(want), rel=1e-6)
    assert jnp.abs(grad).max() > 0.01
    np.testing.assert_allclose(same, grad, atol=1e-7)


@pytest.mark.parametrize("key", [None, jax.random.key(2)])
def test_a_temperature_next_to_zero_takes_the_best_match(key):
    x, y = jax.random.normal(jax.random.key(0), (2, 6, 5)), jnp.array([[1, 2, 1], [0, 0, 4]])
    c = pair_logprobs(x, y)
    noise = 0 if key is None else jax.random.gumbel(jax.random.fold_in(key, 0), c.shape)
    best = (c + noise).argmax(1, keepdims=True)
    want = -jnp.take_along_axis(c, best, 1)[:, 0].mean(-1)
    run = jax.jit(
        jax.value_and_grad(
            lambda x, t: eisl.eisl_loss(x, y, ngrams=(1,), temperature=t, key=key).sum()
        )
    )
    for temperature in (1e-6, 1e-38):
        value, grad = run(x, temperature)
        assert value == pytest.approx(float(want.sum()), rel=1e-5)
        assert jnp.isfinite(grad).all()
    # Equal matches share, and their gradient stays bounded.
    tied = jax.grad(lambda x: eisl.eisl_loss(x, y, ngrams=(1,), temperature=1e-38).sum())
    assert jnp.abs(tied(jnp.zeros((2, 6, 5)))).max() < 1


def test_temperature_and_factors_may_be_traced_and_annealed(key):
    x, y = jax.random.normal(key, (2, 5, 7)), jax.random.randint(key, (2, 5), 0, 7)

    def loss(t, n=0.7, ce=0.3, smoothing=0.1):
        return eisl.mixed_loss(
            x,
            y,
            ngrams=(1, 2),
            temperature=t,
            ngram_factor=n,
            ce_factor=ce,
            label_smoothing=smoothing,
        ).sum()

    assert jax.jit(loss)(0.5, 0.7, 0.3, 0.1) == pytest.approx(float(loss(0.5)), rel=1e-5)
    slope = jax.grad(loss)(0.5)
    assert slope == pytest.approx(float(loss(0.51) - loss(0.49)) / 0.02, rel=0.02)
    for bad in (float("nan"), -1.0, 0.0, float("inf"), jnp.float32(jnp.nan)):
        with pytest.raises(ValueError, match=r"temperature is .*above 0"):
            loss(bad)
    with pytest.raises(ValueError, match="ce_factor is nan"):
        loss(1.0, ce=float("nan"))


def test_impossible_targets_cost_infinity_and_unknown_ones_are_nan():
    x = jnp.zeros((1, 3, 4)).at[..., 0].set(-jnp.inf)
    everywhere = eisl.eisl_loss(x, jnp.zeros((1, 3), int), ngrams=(1,))
    assert everywhere[0] == jnp.inf
    # Possible at one position only: that is where it is matched.
    once = eisl.eisl_loss(x.at[0, 1, 0].set(0.0), jnp.zeros((1, 3), int), ngrams=(1,))
    assert once[0] == pytest.approx(np.log(4), rel=1e-5)
    for token in (4, -1):
        unknown = jax.jit(lambda y: eisl.eisl_loss(x, y, ngrams=(1,)))(jnp.array([[1, token, 2]]))
        assert jnp.isnan(unknown[0])


def test_batches_without_rows_or_real_tokens():
    x, y = jnp.ones((2, 3, 4)), jnp.zeros((2, 3), int)
    nothing = jnp.zeros((2, 3), bool)
    options = {"logits_mask": nothing, "targets_mask": nothing, "ngrams": (1, 0)}
    value, grad = jax.value_and_grad(lambda x: eisl.eisl_loss(x, y, **options).sum())(x)
    assert value == 0
    assert (grad == 0).all()
    assert eisl.eisl_loss(x[:0], y[:0], ngrams=(1, 2)).shape == (0,)
    assert eisl.mixed_loss(x[:, :0], y[:, :0], ngram_factor=0.0).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match=r"ngrams is .*at most 0"):
        eisl.eisl_loss(x, y[:, :0])
