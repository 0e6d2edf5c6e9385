import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.data import pipeline


def ids(iterator, n):
    return [b["x"].tolist() for b in itertools.islice(iterator, n)]


@given(n=st.integers(3, 40), batch=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_each_epoch_is_a_permutation_and_fields_stay_together(n, batch, seed):
    x = np.arange(n)
    it = pipeline.batches({"x": x, "y": x * 10}, batch, seed=seed)
    got = list(itertools.islice(it, -(-2 * n // batch)))
    flat = np.concatenate([b["x"] for b in got])
    assert np.array_equal(np.concatenate([b["y"] for b in got]), 10 * flat)
    assert sorted(flat[:n]) == list(range(n))
    assert sorted(flat[n : 2 * n]) == list(range(n))


def test_order_depends_on_the_seed_alone_and_changes_each_epoch():
    x = np.arange(64)
    a = ids(pipeline.batches({"x": x}, 64, seed=1), 2)
    assert a == ids(pipeline.batches({"x": x}, 64, seed=1, threads=1), 2)
    assert a != ids(pipeline.batches({"x": x}, 64, seed=2), 2)
    assert a[0] != a[1]


@pytest.mark.parametrize("taken", [0, 1, 7, 23])
def test_state_resumes_exactly(taken):
    import json

    x = np.arange(50)
    it = pipeline.batches({"x": x}, 8, seed=3)
    ids(it, taken)
    saved = json.loads(json.dumps(it.get_state()))
    want = ids(it, 10)
    fresh = pipeline.batches({"x": x}, 8, seed=3)
    fresh.set_state(saved)
    assert ids(fresh, 10) == want


def test_processes_share_the_global_batch(monkeypatch):
    """Rows of both processes, in order, are the rows of one process."""
    x = np.arange(40)
    whole = ids(pipeline.batches({"x": x}, 8, seed=5), 6)
    parts = []
    for index in range(2):
        monkeypatch.setattr("jax.process_count", lambda: 2)
        monkeypatch.setattr("jax.process_index", lambda index=index: index)
        parts.append(ids(pipeline.batches({"x": x}, 8, seed=5), 6))
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


def test_bad_input():
    with pytest.raises(ValueError, match=r"lengths \[3, 4\]"):
        pipeline.batches({"x": np.arange(3), "y": np.arange(4)}, 2, seed=0)
    with pytest.raises(ValueError, match="above 0"):
        pipeline.batches({"x": np.arange(0)}, 2, seed=0)
    with pytest.raises(ValueError, match="batch size is 0"):
        pipeline.batches({"x": np.arange(3)}, 0, seed=0)
