"""A judge of proteins' values: gradient-boosted trees on one-hot letters."""

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from jaxgen.data.tokens import TokenIds, TokenShape


@runtime_checkable
class Regressor(Protocol):
    """As scikit-learn's."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Values of rows."""
        ...


@dataclasses.dataclass(frozen=True)
class ProteinRegressor:
    """Sequences -> values, standardised as in training."""

    model: Regressor
    letters: int

    @classmethod
    def train(
        cls, shape: TokenShape, sequences: TokenIds, values: Float[np.ndarray, " N"]
    ) -> "ProteinRegressor":
        """On real sequences."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        model = HistGradientBoostingRegressor(max_iter=300, random_state=0)
        return cls(model.fit(_one_hot(sequences, shape.size), values), shape.size)

    def predict(self, sequences: TokenIds) -> Float[np.ndarray, " N"]:
        """Values of sequences."""
        return self.model.predict(_one_hot(sequences, self.letters))


def _one_hot(sequences: TokenIds, letters: int) -> Float[np.ndarray, "N TV"]:
    return (
        (sequences[..., None] == np.arange(letters)).reshape(len(sequences), -1).astype(np.float32)
    )
