import jax.numpy as jnp
import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.metrics.sentence_bleu import sentence_bleu


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_against_sacrebleu(seed):
    """Its add-k smoothing with k = 1 is the same rule."""
    rng = np.random.default_rng(seed)
    n, m = rng.integers(1, 10, 2)
    out, target = rng.integers(0, 4, n), rng.integers(0, 4, m)
    metric = sacrebleu.BLEU(
        smooth_method="add-k", smooth_value=1, tokenize="none", force=True, effective_order=False
    )
    want = metric.sentence_score(" ".join(map(str, out)), [" ".join(map(str, target))]).score / 100

    def padded(a):
        row = np.full((1, 10), 9)
        row[0, : len(a)] = a
        return jnp.asarray(row), jnp.arange(10)[None] < len(a)

    (a, mask_a), (b, mask_b) = padded(out), padded(target)
    got = float(sentence_bleu(a, b, mask_a, mask_b)[0])
    if not set(out) & set(target):
        assert got < 0.01  # sacrebleu smooths this to 0, we to the floor of the first order
    else:
        assert got == pytest.approx(want, abs=1e-4)


def test_equal_rows_score_one_and_empty_ones_nothing():
    x, mask = (
        jnp.asarray([[1, 2, 3, 4, 5], [0, 0, 0, 0, 0]]),
        jnp.asarray([[True] * 5, [False] * 5]),
    )
    assert np.allclose(sentence_bleu(x, x, mask, mask), [1.0, 0.0])
    with pytest.raises(ValueError, match="order is 0"):
        sentence_bleu(x, x, mask, mask, order=0)
