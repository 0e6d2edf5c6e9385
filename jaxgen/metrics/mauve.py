"""MAUVE: how near the distribution of samples is to that of real data (Pillutla et al., 2021; JMLR 2023).

Features of both sets are quantised together by k-means, P and Q are the two histograms, and with their
mixtures R_w = w P + (1 - w) Q the curve of exp(-c KL(Q || R_w)) and exp(-c KL(P || R_w)) has an area: 1 where P
equals Q, 1 / binomial(2c, c) where they share nothing. Two samples of one distribution score below 1, and
the fewer there are the further below: quote the value of real data against real data.
"""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from jaxgen.errors import require


def mauve(
    real: Float[ndarray, "N F"],
    made: Float[ndarray, "M F"],
    *,
    buckets: int = 0,
    scale: float = 5.0,
    variance: float = 0.9,
    seed: int = 0,
) -> float:
    """The area under the divergence curve, in [0, 1].

    Args:
      real, made: features of a model that knows neither; symmetric up to k-means's start.
      buckets: of k-means; 0 takes a tenth of the smaller set, at least 2.
      scale: c, 5 in the paper.
      variance: share of the features' variance that is kept, by principal axes.
      seed: of k-means.

    Raises:
      ValueError: fewer than two rows in a set, features that are not finite, more buckets than rows.
    """
    p, q = histograms(real, made, buckets=buckets, variance=variance, seed=seed)
    return area(divergence_curve(p, q, scale=scale))


def histograms(
    real: Float[ndarray, "N F"],
    made: Float[ndarray, "M F"],
    *,
    buckets: int = 0,
    variance: float = 0.9,
    seed: int = 0,
) -> tuple[Float[ndarray, " K"], Float[ndarray, " K"]]:
    """Shares of each set in each of K clusters of both together; features have unit length first.

    Args, errors: as of `mauve`.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import normalize

    fewest = min(len(real), len(made))
    require("rows of a set", fewest >= 2, fewest, "at least 2")
    require("variance", 0 < variance < 1, variance, "above 0 and below 1")
    both = np.concatenate([real, made]).astype(np.float64)
    require("features", bool(np.isfinite(both).all()), "not finite", "finite")
    count = buckets or max(2, round(fewest / 10))
    require("buckets", 2 <= count <= len(both), count, f"2 to {len(both)}, or 0")
    both = normalize(both)
    # A set of equal rows has no variance to share out.
    if np.ptp(both, axis=0).max() > 0:
        pca = PCA(svd_solver="full").fit(both)
        kept = int(np.argmax(np.cumsum(pca.explained_variance_ratio_) >= variance)) + 1
        both = pca.transform(both)[:, :kept]
    count = min(count, len(np.unique(both, axis=0)))
    means = KMeans(count, n_init=5, max_iter=500, random_state=seed)
    place = means.fit_predict(both)
    p = np.bincount(place[: len(real)], minlength=count) / len(real)
    q = np.bincount(place[len(real) :], minlength=count) / len(made)
    return p, q


def divergence_curve(
    p: Float[ndarray, " K"], q: Float[ndarray, " K"], *, scale: float = 5.0, points: int = 25
) -> Float[ndarray, "W 2"]:
    """(exp(-c KL(Q || R_w)), exp(-c KL(P || R_w))) for W - 2 mixtures, and the two ends (1, 0) and (0, 1).

    Args:
      p, q: probabilities.
      scale: c.
      points: mixtures, w evenly between 0 and 1, which are left out.

    Raises:
      ValueError: a scale that is not above 0, fewer than one point.
    """
    require("scale", 0 < scale < np.inf, scale, "above 0, finite")
    require("points", points >= 1, points, "at least 1")
    w = np.linspace(1e-6, 1.0 - 1e-6, points)[:, None]
    mixed = w * p + (1.0 - w) * q
    inner = np.exp(-scale * np.stack([_kl(q, mixed), _kl(p, mixed)], -1))
    return np.concatenate([[[1.0, 0.0]], inner, [[0.0, 1.0]]])


def _kl(p: Float[ndarray, " K"], mixed: Float[ndarray, "W K"]) -> Float[ndarray, " W"]:
    """KL(p || row) of each row, none of which is 0 where p is not."""
    some = p > 0
    return (p[some] * np.log(p[some] / mixed[:, some])).sum(-1)


def area(curve: Float[ndarray, "W 2"]) -> float:
    """Under a curve of points that falls from (0, 1) to (1, 0), by the trapezoidal rule along both axes."""
    sides = []
    for axis in (0, 1):
        # Points of one abscissa in the order in which the curve falls.
        order = np.lexsort((-curve[:, 1 - axis], curve[:, axis]))
        x, y = curve[order, axis], curve[order, 1 - axis]
        sides.append(float(np.trapezoid(y, x)))
    return sum(sides) / 2
