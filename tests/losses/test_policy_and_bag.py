from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.losses.bag_of_ngrams import bag_of_ngrams_loss
from jaxgen.losses.cross_entropy import sum_cross_entropy
from jaxgen.losses.policy_gradient import policy_gradient_loss


@pytest.mark.parametrize("n", [1, 2, 3])
def test_bag_of_ngrams_against_counting(n):
    rng = np.random.default_rng(n)
    logits, targets = rng.normal(size=(3, 6, 4)) * 2, rng.integers(0, 4, (3, 5))
    out_len, tgt_len = [6, 5, 4], [5, 4, 5]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    want = []
    for b in range(3):
        grams = Counter(tuple(targets[b, j : j + n]) for j in range(tgt_len[b] - n + 1))
        matched = 0.0
        for g, count in grams.items():
            expected = sum(
                np.prod([p[b, i + k, g[k]] for k in range(n)]) for i in range(out_len[b] - n + 1)
            )
            matched += min(expected, count)
        want.append(1 - matched / sum(grams.values()))
    got = bag_of_ngrams_loss(
        jnp.asarray(logits, jnp.float32),
        jnp.asarray(targets),
        n=n,
        logits_mask=jnp.arange(6)[None] < jnp.asarray(out_len)[:, None],
        targets_mask=jnp.arange(5)[None] < jnp.asarray(tgt_len)[:, None],
    )
    assert np.allclose(got, want, atol=1e-5)


def test_bag_of_ngrams_is_zero_where_all_match_in_any_order():
    y = jnp.asarray([[1, 2, 3]])
    logits = 50.0 * jax.nn.one_hot(jnp.asarray([[3, 1, 2]]), 5)
    assert float(bag_of_ngrams_loss(logits, y, n=1)[0]) == pytest.approx(0.0, abs=1e-5)
    assert float(bag_of_ngrams_loss(logits, y, n=2)[0]) == pytest.approx(0.5, abs=1e-5)
    with pytest.raises(ValueError, match="n is 4, allowed: 1 to 3"):
        bag_of_ngrams_loss(logits, y, n=4)


def test_policy_gradient_is_the_gradient_of_the_expected_reward():
    """One token of three: E[r] = sum_a p_a r_a, estimated over 60,000 draws."""
    theta, reward = jnp.asarray([0.2, -0.4, 0.1]), jnp.asarray([1.0, 0.0, 0.3])
    want = jax.grad(lambda x: jax.nn.softmax(x) @ reward)(theta)
    n = 60_000
    drawn = jax.random.categorical(jax.random.key(0), theta, shape=(n, 1))

    def loss(x):
        logits = jnp.broadcast_to(x, (n, 1, 3))
        return policy_gradient_loss(logits, drawn, reward[drawn[:, 0]]).mean()

    # Per-draw standard deviation of the estimate is below 0.5: standard error 0.002.
    assert np.allclose(-jax.grad(loss)(theta), want, atol=0.008)
    zero = policy_gradient_loss(jnp.zeros((2, 1, 3)), drawn[:2], jnp.ones(2), baseline=jnp.ones(2))
    assert np.array_equal(zero, [0.0, 0.0])


def test_masked_positions_reach_neither_value_nor_gradient(key):
    x, y = jax.random.normal(key, (2, 5, 7)), jax.random.randint(key, (2, 5), 0, 7)
    mask, rewards = jnp.arange(5) < jnp.array([[4], [2]]), jnp.array([1.0, 0.0])
    losses = (
        lambda x, y: policy_gradient_loss(x, y, rewards, mask=mask).sum(),
        lambda x, y: bag_of_ngrams_loss(x, y, logits_mask=mask, targets_mask=mask).sum(),
        lambda x, y: sum_cross_entropy(x, y, mask)[0].sum(),
    )
    for loss in losses:
        run = jax.jit(jax.value_and_grad(loss))
        value, grad = run(x, y)
        same, other = run(jnp.where(mask[..., None], x, jnp.nan), jnp.where(mask, y, -1))
        assert same == pytest.approx(float(value), rel=1e-6)
        assert jnp.abs(grad).max() > 0.01
        np.testing.assert_allclose(other, grad, atol=1e-7)


def test_batches_without_rows_and_rows_without_tokens():
    x, y = jnp.ones((3, 4, 5)), jnp.zeros((3, 4), int)
    nothing = jnp.zeros((3, 4), bool)
    assert policy_gradient_loss(x[:0], y[:0], jnp.zeros(0)).shape == (0,)
    assert policy_gradient_loss(x, y, jnp.ones(3), mask=nothing).tolist() == [0, 0, 0]
    assert bag_of_ngrams_loss(x, y, targets_mask=nothing).tolist() == [1, 1, 1]
    assert bag_of_ngrams_loss(x[:0], y[:0]).shape == (0,)
    # A single row has no others to be compared with: its baseline is 0.
    alone = policy_gradient_loss(x[:1], y[:1], jnp.array([0.5]))
    assert alone[0] == pytest.approx(0.5 * 4 * np.log(5), rel=1e-6)
