"""Scores of sequences that need a system and a split alone: probes, the joint regressor, interpolations."""

import jax
import numpy as np
from jaxtyping import Array

from experiments.eddpm.systems import System
from jaxgen.data.tokens import TextSplit
from jaxgen.evaluators.common import batched_apply, decode
from jaxgen.metrics import probes
from jaxgen.train.latent_tasks import Batch


@jax.jit
def _predict(system: System, x: Batch) -> Array:
    return system.predict(x)


def regression(system: System, test: TextSplit) -> dict[str, float]:
    """How well the joint regressor predicts the test split's values."""
    from scipy.stats import spearmanr

    guess, value = batched_apply(_predict, system, test.x), np.asarray(test.value)
    return {
        "regressor_r2": 1.0 - float(((guess - value) ** 2).mean() / value.var()),
        "regressor_spearman": float(spearmanr(guess, value).statistic),
    }


def valid_protein(sequence: str, low: int, high: int) -> bool:
    """Whether gaps stand at the ends only and the length is one that training data have."""
    inner = sequence.strip("J-.")
    return low <= len(inner) <= high and not set(inner) & set("J-.")


def representation(
    z_train: np.ndarray, train: TextSplit, z_test: np.ndarray, test: TextSplit
) -> dict[str, float]:
    """Linear probes of what the data have: labels, values, or both."""
    out = {"latent_std": float(z_train.std(0).mean())}
    if train.value is not None:
        out["probe_r2"], out["probe_spearman"], _ = probes.ridge_probe(
            z_train, train.value, z_test, np.asarray(test.value)
        )
    if train.label is not None:
        out["probe_accuracy"], _ = probes.linear_probe(
            z_train, train.label, z_test, np.asarray(test.label)
        )
    return out


def interpolate(system: System, part: TextSplit, a: np.ndarray, b: np.ndarray) -> list[list[str]]:
    """Texts along the straight line from each row of a to that of b, ends included."""
    weights = np.linspace(0.0, 1.0, 6)[:, None, None]
    z = (1 - weights) * a + weights * b
    flat = batched_apply(decode, system, z.reshape(-1, a.shape[-1]))
    texts = part.vocabulary.decode(flat)
    return [texts[i :: len(a)] for i in range(len(a))]
