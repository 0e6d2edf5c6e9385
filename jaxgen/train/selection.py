"""The best of the weights that a training run passes, by a score of its own, without a second run.

best = BestModel(valid_bleu, every=100, steps=1000)
final = runs.fit(task, seed, arrays, adapt=best)
model = final if best.model is None else best.model
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from numpy import ndarray

from jaxgen.errors import require
from jaxgen.mesh import to_host
from jaxgen.train import checkpoint
from jaxgen.train import state as state_lib


class BestModel:
    """Keeps the averaged weights of the highest score; a `jaxgen.train.loop.Adapt` that changes nothing.

    Scores, steps and the best weights are in the run's checkpoints (as its `history`), so a run that goes
    on ends with the same ones, bit for bit.

    Attributes:
      model: the best weights, whole and on one device; None before a score was finite.
      curve: (step, score) of every step that was looked at.
    """

    def __init__(
        self,
        score: Callable[[PyTree], float],
        *,
        every: int,
        steps: int,
        part: Callable[[PyTree], PyTree] = lambda model: model,
    ):
        """Args:
        score: model -> a number, the higher the better; NaN is never the best.
        every: steps from one look to the next; the last of the `steps` is looked at too.
        part: of the weights, which is scored and kept; all of them by default.

        Raises:
          ValueError: `every` or `steps` below 1.
        """
        require("every", every >= 1, every, "at least 1")
        require("steps", steps >= 1, steps, "at least 1")
        self.score, self.every, self.steps, self.part = score, every, steps, part
        self.model: PyTree | None = None
        self.curve: list[tuple[int, float]] = []

    @property
    def best(self) -> tuple[int, float] | None:
        """(step, score) of `model`, the first of those that are equally high; None where there is none."""
        finite = [point for point in self.curve if not math.isnan(point[1])]
        return max(finite, key=lambda point: point[1], default=None)

    def due(self, step: int) -> bool:
        """Whether this step's weights are looked at."""
        return step % self.every == 0 or step == self.steps

    def __call__(self, step: int, state: state_lib.TrainState) -> state_lib.TrainState:
        """Looks at the weights of a step that is due; the state is returned as it is."""
        if not self.due(step):
            return state
        model = self.part(state_lib.averaged(state))
        before, value = self.best, float(self.score(model))
        self.curve.append((step, value))
        if not math.isnan(value) and (before is None or value > before[1]):
            # A copy, since the next step takes over the state's buffers.
            self.model = to_host(jax.tree.map(jnp.copy, model))
        return state

    def history(self) -> dict[str, ndarray]:
        """`steps` and `scores` [looks], and every array of the best model under `best/`."""
        arrays = {} if self.model is None else checkpoint.to_arrays(self.model)
        return {
            "steps": np.asarray([step for step, _ in self.curve], np.int64),
            "scores": np.asarray([score for _, score in self.curve], np.float64),
            **{f"best/{name}": np.asarray(a) for name, a in arrays.items()},
        }

    def resume(self, state: state_lib.TrainState, history: Mapping[str, ndarray]) -> None:
        """Goes on from the `history` of a checkpoint; one without (of a run that did not select) has none."""
        steps, scores = (history.get(name, np.zeros(0)).tolist() for name in ("steps", "scores"))
        self.curve = [(int(step), score) for step, score in zip(steps, scores, strict=True)]
        arrays = {k.removeprefix("best/"): v for k, v in history.items() if k.startswith("best/")}
        if arrays:
            template = self.part(state_lib.averaged(state))
            made = checkpoint.from_arrays(template, dict(arrays))
            self.model = jax.tree.map(jnp.asarray, made)
