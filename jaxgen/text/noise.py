"""Noise on target sentences by kind and level, seeded (Liu et al., 2022, section 4.1)."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

KINDS = ("shuffle", "repetition", "blank", "mix", "combined")
BLANK = "<unk>"


def corrupt(
    sentences: Sequence[str], kind: str, level: float, *, seed: int = 0, blank: str = BLANK
) -> list[str]:
    """Sentences with a share `level` of their words (split by spaces) disturbed.

    shuffle: that many words, chosen at random, change places among themselves.
    repetition: after each of that many words, the word again.
    blank: that many words become `blank`.
    mix: each sentence gets one of the three at random.
    combined: each word, with probability 2 x level (at most 1), appears twice, gives way to another word of
      the sentences (each as likely) or to `blank`, a third each; then along a random order of the positions
      ceil(level x words) swaps of one with the next. So the authors' data with all noises have it.

    The noise of a sentence depends on seed, kind, level and the sentence's place alone; `combined` on the
    words of all sentences too.

    Args:
      level: in [0, 1]; the number of words is rounded at random so that its mean is exact.

    Raises:
      ValueError: an unknown kind or a level outside [0, 1].
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, allowed: {', '.join(KINDS)}")
    if not 0 <= level <= 1:
        raise ValueError(f"level is {level}, allowed: 0 to 1")
    known = list(dict.fromkeys(w for s in sentences for w in s.split()))
    out = []
    for i, sentence in enumerate(sentences):
        rng = np.random.default_rng([seed, KINDS.index(kind), round(level * 1_000_000), i])
        words = sentence.split()
        if kind == "combined":
            out.append(" ".join(_combined(words, level, rng, known, blank)))
            continue
        one = KINDS[int(rng.integers(3))] if kind == "mix" else kind
        exact = level * len(words)
        count = min(int(exact) + int(rng.random() < exact - int(exact)), len(words))
        places: list[int] = sorted(rng.choice(len(words), count, replace=False).tolist())
        if one == "shuffle":
            taken = [words[p] for p in places]
            for p, q in zip(places, rng.permutation(count), strict=True):
                words[p] = taken[q]
        elif one == "repetition":
            chosen = set(places)
            words = [w for p, word in enumerate(words) for w in [word] * (1 + (p in chosen))]
        else:
            for p in places:
                words[p] = blank
        out.append(" ".join(words))
    return out


def _combined(
    words: list[str], level: float, rng: np.random.Generator, known: list[str], blank: str
) -> list[str]:
    said: list[str] = []
    for word in words:
        if rng.random() >= 2 * level:
            said.append(word)
            continue
        kind = int(rng.integers(3))
        said += ([word, word], [known[int(rng.integers(len(known)))]], [blank])[kind]
    # A single swap is none, and there is one swap less than there are positions (as theirs).
    swaps = min(math.ceil(level * len(said)), len(said) - 1)
    order: list[int] = rng.permutation(len(said)).tolist()
    for p, q in list(itertools.pairwise(order))[: swaps if swaps > 1 else 0]:
        said[p], said[q] = said[q], said[p]
    return said
