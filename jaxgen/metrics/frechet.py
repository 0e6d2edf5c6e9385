"""Frechet distance between two sets of feature vectors (Heusel et al., 2017)."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray


def moments(features: Float[ndarray, "N F"]) -> tuple[Float[ndarray, " F"], Float[ndarray, "F F"]]:
    """Mean and unbiased covariance, in float64.

    Raises:
      ValueError: with fewer than two rows, or a value that is not finite.
    """
    f = np.asarray(features, np.float64)
    if f.ndim != 2 or f.shape[0] < 2:
        raise ValueError(f"features have shape {f.shape}, allowed: [N, F] with N at least 2")
    if not np.isfinite(f).all():
        raise ValueError("features hold a value that is not finite")
    return f.mean(0), np.atleast_2d(np.cov(f, rowvar=False))


def frechet_distance(a: Float[ndarray, "N F"], b: Float[ndarray, "M F"]) -> float:
    """||mu_a - mu_b||^2 + tr(S_a + S_b - 2 (S_a S_b)^{1/2}) of Gaussians fitted to both sets.

    The trace of the root is taken as the sum of singular values of S_a^{1/2} S_b^{1/2}, which is
    real and stable where a covariance is singular. The estimate is biased upwards for small sets:
    compare equal sizes, and quote the distance between two real sets as the floor.
    """
    mu_a, cov_a = moments(a)
    mu_b, cov_b = moments(b)
    cross = np.linalg.svd(_sqrt(cov_a) @ _sqrt(cov_b), compute_uv=False).sum()
    value = np.sum((mu_a - mu_b) ** 2) + np.trace(cov_a) + np.trace(cov_b) - 2.0 * cross
    return float(max(value, 0.0))


def _sqrt(cov: Float[ndarray, "F F"]) -> Float[ndarray, "F F"]:
    values, vectors = np.linalg.eigh(cov)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
