"""Measures of generated and reconstructed text. Strings or token ids in, plain numbers out."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray

from jaxgen.errors import require


def bleu(outputs: Sequence[str], references: Sequence[str], *, tokenize: str = "none") -> float:
    """Corpus BLEU-4 of sacrebleu (Post, 2018), 0 to 100.

    NaN where there is nothing to compare: no outputs, or not one reference for each of them.

    Args:
      tokenize: sacrebleu's name; "none" for text that is split by spaces already, "13a" for prose.
    """
    import sacrebleu

    if not outputs or len(outputs) != len(references):
        return float("nan")
    # force: text that is tokenised already is meant.
    return float(
        sacrebleu.corpus_bleu(
            list(outputs), [list(references)], tokenize=tokenize, force=True
        ).score
    )


def self_bleu(texts: Sequence[str], *, count: int = 200, references: int = 500) -> float:
    """Mean BLEU-4 of the first `count` texts against others (Zhu et al., 2018); high means alike.

    NaN of fewer than two texts.

    Args:
      references: each text is compared with at most this many others; the value grows with it.

    Raises:
      ValueError: count or references below 1.
    """
    import sacrebleu

    require("count", count >= 1, count, "at least 1")
    require("references", references >= 1, references, "at least 1")
    metric = sacrebleu.BLEU(tokenize="none", effective_order=True, force=True)
    scores: list[float] = []
    if len(texts) < 2:
        return float("nan")
    for i, text in enumerate(texts[:count]):
        others = [*texts[:i], *texts[i + 1 :]][:references]
        scores.append(metric.sentence_score(text, list(others)).score)
    return float(np.mean(scores))


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams over all n-grams, words split by spaces (Li et al., 2016); 0 without any.

    Raises:
      ValueError: n below 1.
    """
    require("n", n >= 1, n, "at least 1")
    grams = _grams(texts, n)
    return len(grams) / max(sum(grams.values()), 1)


def diversity(texts: Sequence[str], *, ngrams: Sequence[int] = (2, 3, 4)) -> float:
    """Product over n of `distinct_n` (Su et al., 2022); high means few repeated phrases, 0 without any.

    It falls with the number of texts: compare as many, and quote real texts' own value.

    Raises:
      ValueError: n below 1.
    """
    return float(np.prod([distinct_n(texts, n) for n in ngrams]))


def memorised(texts: Sequence[str], train: Iterable[str], n: int = 4) -> float:
    """Share of the texts' n-grams that stand in a training text, words split by spaces; NaN without any.

    As in the evaluation of Lovelace et al. (2023), latent diffusion for language generation. Quote the
    value of real texts that were not trained on: short sentences of one domain share many phrases.

    Raises:
      ValueError: n below 1.
    """
    require("n", n >= 1, n, "at least 1")
    made, known = _grams(texts, n), set(_grams(train, n))
    total = sum(made.values())
    return sum(c for gram, c in made.items() if gram in known) / total if total else float("nan")


def _grams(texts: Iterable[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(words[i : i + n])
        for words in map(str.split, texts)
        for i in range(len(words) - n + 1)
    )


def token_accuracy(
    outputs: Int[ndarray, "N T"], targets: Int[ndarray, "N T"], mask: Bool[ndarray, "N T"]
) -> float:
    """Share of real target positions where the output has the same token; NaN without any."""
    return _mean((outputs == targets)[mask])


def exact_match(outputs: Sequence[object], targets: Sequence[object]) -> float:
    """Share of outputs that equal their target; NaN of none.

    Raises:
      ValueError: not as many targets as outputs.
    """
    return _mean(np.array([a == b for a, b in zip(outputs, targets, strict=True)]))


def _mean(same: Bool[ndarray, "..."] | Float[ndarray, "0"]) -> float:
    return float(same.mean()) if same.size else float("nan")


def perplexity(
    score: Callable[[Shaped[ndarray, "B ..."]], tuple[ArrayLike, ArrayLike]],
    rows: Shaped[ndarray, "N ..."],
    *,
    batch: int = 256,
) -> float:
    """exp of the mean negative log-likelihood of a token; NaN where there is no token.

    Args:
      score: a batch of rows -> (nll [B], number of tokens [B]), such as a
        jitted `jaxgen.losses.sum_cross_entropy`.
      rows: an array [N, ...]; the last batch is padded by its last row, which is not counted.
    """
    total, count = 0.0, 0
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        padded = np.concatenate([part, np.repeat(part[-1:], batch - len(part), 0)])
        value, tokens = score(padded)
        total += float(np.asarray(value)[: len(part)].astype(np.float64).sum())
        count += int(np.asarray(tokens)[: len(part)].sum())
    with np.errstate(over="ignore"):
        return float(np.exp(total / count)) if count else float("nan")
