"""Noise on target sentences by kind and level, seeded (Liu et al., 2022, section 4.1)."""

from collections.abc import Sequence

import numpy as np

KINDS = ("shuffle", "repetition", "blank", "mix")
BLANK = "<unk>"


def corrupt(
    sentences: Sequence[str], kind: str, level: float, *, seed: int = 0, blank: str = BLANK
) -> list[str]:
    """Sentences with a share `level` of their words (split by spaces) disturbed.

    shuffle: that many words, chosen at random, change places among themselves.
    repetition: after each of that many words, the word again.
    blank: that many words become `blank`.
    mix: each sentence gets one of the three at random.

    The noise of a sentence depends on seed, kind, level and the sentence's place alone.

    Args:
      level: in [0, 1]; the number of words is rounded at random so that its mean is exact.

    Raises:
      ValueError: an unknown kind or a level outside [0, 1].
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, allowed: {', '.join(KINDS)}")
    if not 0 <= level <= 1:
        raise ValueError(f"level is {level}, allowed: 0 to 1")
    out = []
    for i, sentence in enumerate(sentences):
        rng = np.random.default_rng([seed, KINDS.index(kind), round(level * 1_000_000), i])
        words = sentence.split()
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
