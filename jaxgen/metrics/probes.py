"""How much a representation holds: probes fitted on train latents, scored on test latents."""

import warnings
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from jaxgen.errors import require

Probe: TypeAlias = Any  # a fitted sklearn.pipeline.Pipeline, which takes a second to import


def linear_probe(
    z_train: Float[ndarray, "N D"],
    y_train: Int[ndarray, " N"],
    z_test: Float[ndarray, "M D"],
    y_test: Int[ndarray, " M"],
    *,
    max_iter: int = 1000,
) -> tuple[float, Probe]:
    """Accuracy of logistic regression on standardised latents, and the fitted pipeline.

    Raises:
      ValueError: fewer than two labels to tell apart.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kinds = len(np.unique(y_train))
    require("number of labels in y_train", kinds >= 2, kinds, "at least 2")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=max_iter))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(z_train, y_train)
    return float(probe.score(z_test, y_test)), probe


def ridge_probe(
    z_train: Float[ndarray, "N D"],
    y_train: Float[ndarray, " N"],
    z_test: Float[ndarray, "M D"],
    y_test: Float[ndarray, " M"],
    *,
    alpha: float = 1.0,
) -> tuple[float, float, Probe]:
    """R^2 and Spearman correlation of ridge regression on standardised latents, and the pipeline."""
    from scipy.stats import spearmanr
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(z_train, y_train)
    rank = spearmanr(probe.predict(z_test), y_test).statistic
    return float(probe.score(z_test, y_test)), float(rank), probe


def knn_accuracy(
    z_train: Float[ndarray, "N D"],
    y_train: Int[ndarray, " N"],
    z_test: Float[ndarray, "M D"],
    y_test: Int[ndarray, " M"],
    *,
    k: int = 5,
) -> float:
    """Accuracy of k nearest neighbours in Euclidean distance.

    Raises:
      ValueError: k that is not between 1 and N.
    """
    from sklearn.neighbors import KNeighborsClassifier

    require("k", 1 <= k <= len(z_train), k, f"1 to {len(z_train)}")
    model = KNeighborsClassifier(n_neighbors=k).fit(z_train, y_train)
    return float(model.score(z_test, y_test))


def probe_direction(probe: Probe, label: int) -> Float[ndarray, " D"]:
    """Unit vector in latent space along which the probe's logit of `label` rises fastest.

    Args:
      probe: what `linear_probe` returned.
      label: a class value that the probe saw.
    """
    scaler, model = probe.steps[0][1], probe.steps[1][1]
    row = int(np.flatnonzero(model.classes_ == label)[0])
    coef = model.coef_ if len(model.classes_) > 2 else np.stack([-model.coef_[0], model.coef_[0]])
    direction = coef[row] / scaler.scale_
    return direction / np.linalg.norm(direction)
