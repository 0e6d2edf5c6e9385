"""ROUGE (Lin, 2004), by Google's rouge_score; and the runs of places that paths share."""

from collections.abc import Sequence

import numpy as np

from jaxgen.errors import require

KINDS = ("rouge1", "rouge2", "rougeL")


def rouge(
    outputs: Sequence[str], references: Sequence[str], *, stem: bool = True
) -> dict[str, float]:
    """Mean F of {"rouge1", "rouge2", "rougeL"} over pairs, 0 to 1; NaN without any.

    Args:
      stem: words are compared by Porter's stems.

    Raises:
      ValueError: not one reference for each output.
    """
    from rouge_score.rouge_scorer import RougeScorer

    count = len(outputs)
    require("references", len(references) == count, len(references), f"{count}, as outputs")
    scorer = RougeScorer(list(KINDS), use_stemmer=stem)
    pairs = zip(outputs, references, strict=True)
    found = [scorer.score(reference, output) for output, reference in pairs]
    return {
        kind: float(np.mean([each[kind].fmeasure for each in found])) if found else float("nan")
        for kind in KINDS
    }


def run_overlap(output: Sequence[str], reference: Sequence[str]) -> float:
    """Longest common run, without gaps, over the longer length; 1 of two that are empty.

    Xiang et al. (2023) score paths so, and call it LCS.
    """
    best = 0
    row = [0] * (len(reference) + 1)
    for x in output:
        before = row
        row = [0]
        for j, y in enumerate(reference):
            row.append(before[j] + 1 if x == y else 0)
        best = max(best, *row)
    longer = max(len(output), len(reference))
    return best / longer if longer else 1.0
