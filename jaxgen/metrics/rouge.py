"""ROUGE (Lin, 2004): how much of a reference's n-grams, or of its longest common subsequence, a text has.

As Google's rouge_score counts it: words are runs of letters and digits in lower case, those above three letters
are stemmed (Porter); F is the harmonic mean of precision and recall.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxgen.errors import require
from jaxgen.metrics.stemming import porter_stem


def rouge(
    outputs: Sequence[str], references: Sequence[str], *, stem: bool = True
) -> dict[str, float]:
    """Mean F of {"rouge1", "rouge2", "rougeL"} over pairs, 0 to 1; NaN without any.

    Raises:
      ValueError: not one reference for each output.
    """
    count = len(outputs)
    require("references", len(references) == count, len(references), f"{count}, as outputs")
    found: dict[str, list[float]] = {"rouge1": [], "rouge2": [], "rougeL": []}
    for output, reference in zip(outputs, references, strict=True):
        a, b = words(output, stem=stem), words(reference, stem=stem)
        found["rouge1"].append(_ngrams(a, b, 1))
        found["rouge2"].append(_ngrams(a, b, 2))
        found["rougeL"].append(_f(common_subsequence(a, b), len(a), len(b)))
    return {name: float(np.mean(v)) if v else float("nan") for name, v in found.items()}


def words(text: str, *, stem: bool = True) -> list[str]:
    """The words that ROUGE compares."""
    found = re.findall("[a-z0-9]+", text.lower())
    return [porter_stem(w) if stem and len(w) > 3 else w for w in found]


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest subsequence, with gaps, that both have."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = row
        row = [0]
        for j, y in enumerate(b):
            row.append(before[j] + 1 if x == y else max(before[j + 1], row[j]))
    return row[-1]


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


def _ngrams(a: Sequence[str], b: Sequence[str], n: int) -> float:
    grams = [Counter(tuple(x[i : i + n]) for i in range(len(x) - n + 1)) for x in (a, b)]
    shared = sum((grams[0] & grams[1]).values())
    return _f(shared, sum(grams[0].values()), sum(grams[1].values()))


def _f(shared: int, of_output: int, of_reference: int) -> float:
    total = of_output + of_reference
    return 2 * shared / total if total else 0.0
