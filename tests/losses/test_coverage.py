"""Exact coverage: what it is 0 for, what it counts, and what it does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.losses.coverage import exact_coverage, possible_nll, shared_values

STEPS = jnp.arange(6) < 4  # the fourth is the end token


def hard(*places, steps=6, items=3):
    """One row: step t copies item places[t], or none where that is -1."""
    places = [*places, *[-1] * (steps - len(places))]
    return jax.nn.one_hot(jnp.array([places]), items)


def coverage(a, tuples=3, **options):
    real = jnp.arange(a.shape[-1])[None] < tuples
    return float(exact_coverage(a, step_mask=STEPS[None], tuple_mask=real, **options)[0])


def test_a_permutation_of_hard_copies_has_none():
    assert coverage(hard(2, 0, 1)) == 0.0
    assert coverage(hard(-1, 1, 0, 2)) == 0.0
    assert coverage(hard(1, 0), tuples=2) == 0.0


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4])
def test_k_copies_of_a_tuple(k):
    assert coverage(hard(*[0] * k), tuples=1) == (k - 1) ** 2


def test_nothing_after_the_end_token_counts():
    a = hard(2, 0, 1)
    assert coverage(a.at[:, 4:].set(jnp.nan)) == 0.0
    assert coverage(hard(2, 0, -1, -1, 1)) == 1.0
    slope = jax.grad(coverage_sum)(a.at[:, 4:].set(7.0))
    assert (slope[:, 4:] == 0).all()


def coverage_sum(a):
    return exact_coverage(a, step_mask=STEPS[None], tuple_mask=jnp.ones((1, 3), bool)).sum()


def test_padding_tuples_do_not_count():
    a = hard(0, 1, 2, 2)
    assert coverage(a, tuples=2) == 0.0
    assert coverage(a.at[..., 2].set(jnp.nan), tuples=2) == 0.0


def test_tuples_of_one_value_and_owner_may_be_a_group():
    value, owner = jnp.array([[7, 7, 7, 5]]), jnp.array([[1, 1, 2, 1]])
    groups = shared_values(value, owner, jnp.ones((1, 4), bool))
    assert groups.tolist() == [[0, 0, 2, 3]]
    half = 0.5 * (hard(0, 2, 3, items=4) + hard(1, 2, 3, items=4))  # one token for the first two
    assert coverage(half, 4) == pytest.approx(0.5)
    assert coverage(half, 4, groups=groups) == 0.0
    assert coverage(hard(0, 1, 2, 3, items=4), 4) == 0.0
    assert coverage(hard(0, 1, 2, 3, items=4), 4, groups=groups) == 1.0
    assert coverage(half, 3, groups=groups) == 0.0  # the last one is padding
    masked = shared_values(value, owner, jnp.array([[False, True, True, True]]))
    assert masked.tolist() == [[1, 1, 2, 3]]


def test_it_works_under_transformations_and_in_half_precision():
    rng = np.random.default_rng(0)
    a = jnp.asarray(rng.random((5, 6, 3)), jnp.float32)
    steps, real = jnp.asarray(rng.random((5, 6)) < 0.7), jnp.asarray(rng.random((5, 3)) < 0.7)
    want = exact_coverage(a, step_mask=steps, tuple_mask=real)
    total = np.where(steps[..., None], a, 0).sum(1)
    assert np.allclose(want, (np.where(real, total - 1, 0) ** 2).sum(-1), atol=1e-5)

    def one(a, s, r):
        return exact_coverage(a[None], step_mask=s[None], tuple_mask=r[None])[0]

    assert np.allclose(jax.jit(jax.vmap(one))(a, steps, real), want, atol=1e-5)
    half = exact_coverage(a.astype(jnp.bfloat16), step_mask=steps, tuple_mask=real)
    assert half.dtype == jnp.float32
    assert np.allclose(half, want, rtol=0.03)


def test_impossible_targets_are_counted_and_left_out():
    logprobs = jnp.array([[-1.0, -jnp.inf, -2.0, -jnp.inf], [-jnp.inf] * 4])
    mask = jnp.array([[True, True, True, False]] * 2)
    nats, counted, impossible = possible_nll(logprobs, mask)
    assert nats.tolist() == [3.0, 0.0]
    assert counted.tolist() == [2, 0]
    assert impossible.tolist() == [1, 3]
    slope = jax.grad(lambda x: possible_nll(x, mask)[0].sum())(logprobs)
    assert slope.tolist() == [[-1, 0, -1, 0], [0, 0, 0, 0]]
