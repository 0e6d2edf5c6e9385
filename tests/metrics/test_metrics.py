import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from jaxgen.metrics import frechet, probes


@given(seed=st.integers(0, 1000), dim=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_frechet_is_the_textbook_formula(seed, dim):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(200, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim)
    b = rng.normal(size=(150, dim)) @ rng.normal(size=(dim, dim))
    sa, sb = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
    cross = np.trace(np.real(linalg.sqrtm(sa @ sb)))
    want = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sa) + np.trace(sb) - 2 * cross
    assert np.isclose(frechet.frechet_distance(a, b), want, rtol=1e-4, atol=1e-6)


def test_frechet_of_known_gaussians():
    rng = np.random.default_rng(0)
    n = 200_000
    a, b = rng.normal(0, 1, (n, 2)), rng.normal(3, 2, (n, 2))
    # Per axis: (3 - 0)^2 + (2 - 1)^2.
    assert frechet.frechet_distance(a, b) == pytest.approx(20.0, rel=0.02)
    assert frechet.frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)


def test_frechet_with_singular_covariance():
    a = np.zeros((10, 3))
    a[:, 0] = np.arange(10)
    assert frechet.frechet_distance(a, a + np.array([0, 2, 0])) == pytest.approx(4.0)


@pytest.mark.parametrize("bad", [np.ones((1, 3)), np.full((5, 2), np.nan)])
def test_frechet_rejects(bad):
    with pytest.raises(ValueError, match="features"):
        frechet.moments(bad)


def blobs(seed, n=300):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    centres = np.array([[0, 0, 0], [4, 0, 0], [0, 4, 0]])
    return centres[y] + rng.normal(0, 0.5, (n, 3)), y


def test_probes_on_separable_and_on_shuffled_labels():
    (x, y), (u, v) = blobs(0), blobs(1)
    accuracy, probe = probes.linear_probe(x, y, u, v)
    assert accuracy > 0.98
    assert probes.knn_accuracy(x, y, u, v) > 0.98
    shuffled = np.random.default_rng(2).permutation(y)
    assert probes.linear_probe(x, shuffled, u, v)[0] < 0.6
    moved = u[v == 0] + 4.0 * probes.probe_direction(probe, 1)
    assert (probe.predict(moved) == 1).mean() > 0.9


def test_probe_direction_of_two_classes():
    x, y = blobs(0)
    keep = y < 2
    _, probe = probes.linear_probe(x[keep], y[keep], x[keep], y[keep])
    d0, d1 = probes.probe_direction(probe, 0), probes.probe_direction(probe, 1)
    assert np.allclose(d0, -d1)
    assert d1[0] > 0.9
    assert np.isclose(np.linalg.norm(d1), 1)
