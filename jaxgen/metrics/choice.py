"""Choosing among given answers by what a language model says of them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from jaxgen.errors import require

NORMS = ("ln", "un")


def option_scores(
    logprobs: Sequence[Float[ndarray, " _"]],
    *,
    norm: str,
    unconditional: Sequence[Float[ndarray, " _"]] | None = None,
) -> Float[ndarray, " K"]:
    """A score for each of K options; the highest is the answer (`choose`).

    Args:
      logprobs: of each option, log p of each of its tokens given the prompt.
      norm: "ln", the mean over tokens; or "un", the sum less that of `unconditional`: how much likelier the
        prompt makes it (Holtzman et al., 2021).
      unconditional: the same after a prompt that asks nothing, such as `Answer:`; for "un".

    Raises:
      ValueError: another norm, "un" without `unconditional`, or an option without tokens.
    """
    require("norm", norm in NORMS, norm, "one of " + ", ".join(NORMS))
    require("options", all(len(p) for p in logprobs), len(logprobs), "options of one token or more")
    if norm == "ln":
        return np.array([float(np.mean(p)) for p in logprobs])
    given = unconditional is not None and len(unconditional) == len(logprobs)
    require("unconditional", given, unconditional and len(unconditional), "one of each option")
    pairs = zip(logprobs, unconditional or (), strict=True)
    return np.array([float(np.sum(p)) - float(np.sum(q)) for p, q in pairs])


def choose(scores: Float[ndarray, " K"]) -> int:
    """The option of the highest score, the first on ties."""
    return int(np.argmax(scores))


def accuracy(chosen: Sequence[str], answers: Sequence[str]) -> float:
    """Share of questions answered right; NaN without any.

    Raises:
      ValueError: not one answer for each.
    """
    require("answers", len(chosen) == len(answers), len(answers), f"{len(chosen)}, as chosen")
    same = [a == b for a, b in zip(chosen, answers, strict=True)]
    return float(np.mean(same)) if same else float("nan")
