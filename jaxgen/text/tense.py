"""Tense of an English sentence by rules: lists of auxiliaries and of common verbs.

Rule-made labels are accepted practice for small studies of tense transfer; they are not a parser.
A sentence with signs of past and of present at once, or with none, gets no label.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray

_FUTURE = {"will", "'ll", "shall", "gonna", "wo", "won't"}
_PAST = set(
    [
        "was",
        "were",
        "wasn't",
        "weren't",
        "did",
        "didn't",
        "had",
        "hadn't",
        "went",
        "got",
        "came",
        "said",
        "told",
        "took",
        "gave",
        "made",
        "ate",
        "felt",
        "left",
        "found",
        "thought",
        "knew",
        "saw",
        "paid",
        "sat",
        "stood",
        "brought",
        "bought",
        "spent",
        "kept",
        "heard",
        "became",
        "began",
        "ran",
        "waited",
        "asked",
        "ordered",
        "tried",
        "loved",
        "enjoyed",
        "liked",
        "hated",
        "wanted",
        "needed",
        "walked",
        "called",
        "arrived",
        "received",
        "seemed",
        "looked",
        "tasted",
        "noticed",
        "decided",
        "ended",
        "started",
        "stopped",
        "helped",
        "served",
        "used",
        "visited",
        "returned",
    ]
)
_PRESENT = set(
    [
        "is",
        "are",
        "am",
        "isn't",
        "aren't",
        "'s",
        "'re",
        "'m",
        "do",
        "does",
        "don't",
        "doesn't",
        "has",
        "have",
        "haven't",
        "hasn't",
        "love",
        "loves",
        "enjoy",
        "enjoys",
        "like",
        "likes",
        "hate",
        "hates",
        "want",
        "wants",
        "need",
        "needs",
        "go",
        "goes",
        "get",
        "gets",
        "come",
        "comes",
        "make",
        "makes",
        "know",
        "knows",
        "think",
        "thinks",
        "feel",
        "feels",
        "serve",
        "serves",
        "offer",
        "offers",
        "seem",
        "seems",
        "look",
        "looks",
        "recommend",
        "keep",
        "keeps",
    ]
)


def tense(sentence: str) -> int:
    """Index into `jaxgen.data.corpora.TENSES`, or -1 where the rules cannot tell."""
    words = sentence.lower().split()
    going = any(a == "going" and b == "to" for a, b in itertools.pairwise(words))
    if going or _FUTURE & set(words):
        return 2
    past = any(w in _PAST for w in words)
    present = any(w in _PRESENT for w in words)
    if past == present:
        return -1
    return 0 if past else 1


def label(sentences: Sequence[str]) -> Int[ndarray, " N"]:
    """`tense` of each sentence."""
    return np.array([tense(s) for s in sentences], np.int32)
