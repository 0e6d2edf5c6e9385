"""MAUVE against closed forms: what is equal, what is disjoint, and histograms that are known."""

import math

import numpy as np
import pytest
from numpy.polynomial.legendre import leggauss

from jaxgen.metrics import mauve

RNG = np.random.default_rng(0)


def test_equal_histograms_have_the_whole_square():
    p = RNG.dirichlet(np.ones(7))
    assert mauve.area(mauve.divergence_curve(p, p)) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("scale", [1.0, 2.0, 5.0])
def test_disjoint_histograms_have_one_over_a_binomial(scale):
    """KL(Q || R) = -log(1 - w) and KL(P || R) = -log w: the area is Gamma(c+1)^2 / Gamma(2c+1)."""
    p, q = np.array([0.3, 0.7, 0.0, 0.0]), np.array([0.0, 0.0, 0.6, 0.4])
    got = mauve.area(mauve.divergence_curve(p, q, scale=scale, points=4000))
    assert got == pytest.approx(1.0 / math.comb(round(2 * scale), round(scale)), rel=1e-4)


def test_area_of_two_coins_against_quadrature():
    """Integral of x dy over w by Gauss-Legendre, with the derivative of the curve in closed form."""
    p, q, scale = np.array([0.8, 0.2]), np.array([0.35, 0.65]), 5.0
    node, weight = leggauss(200)
    w, weight = 0.5 * (node + 1.0), 0.5 * weight
    mixed = w[:, None] * p + (1.0 - w[:, None]) * q
    x = np.exp(-scale * (q * np.log(q / mixed)).sum(1))
    y = np.exp(-scale * (p * np.log(p / mixed)).sum(1))
    slope = y * scale * (p * (p - q) / mixed).sum(1)
    # Below w = 0 the curve is the straight line down to (1, 0), at x = 1; above w = 1 it is at y = 1.
    want = (x * slope * weight).sum() + np.exp(-scale * (p * np.log(p / q)).sum())
    curve = mauve.divergence_curve(p, q, scale=scale, points=2000)
    assert mauve.area(curve) == pytest.approx(want, rel=1e-4)
    # The 25 points of the definition are near.
    assert mauve.area(mauve.divergence_curve(p, q)) == pytest.approx(want, rel=2e-3)


def test_clusters_are_counted():
    """Five far directions with known shares; all four principal axes are kept."""
    centres = np.eye(5)
    a, b = (
        RNG.permutation(np.repeat(np.arange(5), n))
        for n in ([10, 20, 30, 40, 0], [0, 20, 30, 40, 10])
    )
    real, made = (centres[i] + 0.01 * RNG.normal(size=(100, 5)) for i in (a, b))
    p, q = mauve.histograms(real, made, buckets=5, variance=0.999)
    assert sorted(zip(p.tolist(), q.tolist(), strict=True)) == [
        (0.0, 0.1),
        (0.1, 0.0),
        (0.2, 0.2),
        (0.3, 0.3),
        (0.4, 0.4),
    ]
    want = mauve.area(mauve.divergence_curve(p, q))
    assert mauve.mauve(real, made, buckets=5, variance=0.999) == pytest.approx(want)


def test_value_of_one_distribution_of_another_and_of_a_collapsed_one():
    draw = lambda shift: RNG.normal(size=(500, 8)) + shift  # noqa: E731
    real, same, near, far = draw(0.0), draw(0.0), draw(0.5), draw(20.0)
    values = [mauve.mauve(real, x) for x in (real, same, near, far)]
    assert values[0] == pytest.approx(1.0)
    # 50 buckets of 10 a set: sampling alone leaves KL(P || R) of about 49 / 4000 at w = 1/2.
    assert values[1] > 0.9
    assert values[1] > values[2] > values[3]
    assert values[3] < 0.02
    collapsed = np.repeat(real[:1], 500, 0)
    assert mauve.mauve(real, collapsed) < 0.1
    assert mauve.mauve(collapsed, collapsed) == pytest.approx(1.0)


def test_values_that_cannot_be():
    x = np.ones((3, 2))
    with pytest.raises(ValueError, match="rows of a set is 1, allowed: at least 2"):
        mauve.mauve(x[:1], x)
    with pytest.raises(ValueError, match="features is 'not finite'"):
        mauve.mauve(x, x * np.nan)
    with pytest.raises(ValueError, match="buckets is 7, allowed: 2 to 6"):
        mauve.mauve(x, x, buckets=7)
    with pytest.raises(ValueError, match="scale is 0"):
        mauve.divergence_curve(x[0] / 2, x[0] / 2, scale=0.0)
    with pytest.raises(ValueError, match=r"variance is 1\.0"):
        mauve.histograms(x, x, variance=1.0)
