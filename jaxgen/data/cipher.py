"""Word substitution ciphers: sentences with their exact decipherment, and the classical ways to find it.

Two corpora without a common sentence, one of them enciphered, and parallel sentences to test on: the task of
Shen et al. (2017) and Yang et al. (2018), section 5.1. A key replaces a share of the words, each by a symbol
of its own; the others are shared by both sides.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from jaxgen.data import kept
from jaxgen.errors import ConfigError

Key: TypeAlias = Mapping[str, str]  # word -> symbol, or symbol -> word
SYMBOL = "@"  # what symbols begin with


@dataclasses.dataclass(frozen=True)
class Decipherment:
    """A cipher's task.

    Attributes:
      words: of the plain text, the most frequent first.
      key: word -> symbol.
      plain: training sentences; `cipher` are others, enciphered.
      valid: (plain, enciphered) sentences of the same content; as `test`, none of which is trained on.
    """

    words: list[str]
    key: Key
    plain: list[str]
    cipher: list[str]
    valid: tuple[list[str], list[str]]
    test: tuple[list[str], list[str]]


def frequent_words(lines: Iterable[str]) -> list[str]:
    """All words, split by spaces, the most frequent first and those of one frequency by name."""
    counts = Counter(word for line in lines for word in line.split())
    return sorted(counts, key=lambda word: (-counts[word], word))


def make_key(words: Sequence[str], share: float, *, seed: int) -> dict[str, str]:
    """A uniformly drawn share of the words (rounded), each with a symbol "@n" of its own.

    Raises:
      ConfigError: a share outside [0, 1], or words that look like symbols.
    """
    if not 0 <= share <= 1:
        raise ConfigError("data.share", share, "0 to 1, the share of words that are enciphered")
    symbols = [word for word in words if is_symbol(word)]
    if symbols:
        raise ConfigError("data", symbols[0], f"words that are no symbols ({SYMBOL} and a number)")
    rng = np.random.default_rng([seed, len(words)])
    count = int(np.floor(share * len(words) + 0.5))
    chosen = rng.permutation(len(words))[:count]
    return {words[int(i)]: f"{SYMBOL}{n}" for n, i in enumerate(chosen)}


def is_symbol(word: str) -> bool:
    """Whether a word is a symbol of some key."""
    return word.startswith(SYMBOL) and word[1:].isdecimal()


def apply(key: Key, lines: Iterable[str]) -> list[str]:
    """Lines with each word that the key has replaced; by `invert(key)`, deciphered."""
    return [" ".join(key.get(word, word) for word in line.split()) for line in lines]


def invert(key: Key) -> dict[str, str]:
    """symbol -> word, of word -> symbol."""
    return {symbol: word for word, symbol in key.items()}


def decipherment(
    lines: Sequence[str],
    *,
    vocabulary: int,
    share: float,
    train: int,
    valid: int,
    test: int,
    max_words: int = 0,
    seed: int = 0,
) -> Decipherment:
    """Draws key and splits from distinct sentences all of whose words are among the most frequent ones.

    Args:
      lines: sentences, words split by spaces; repeated ones count once.
      vocabulary: K, number of words.
      share: of the words, that are enciphered.
      train: sentences of each side, fewer where there are not as many: what `valid` and `test` leave is
        halved.
      valid: parallel sentences; `test` of those to test on.
      max_words: longer sentences are left out; 0 keeps all.
      seed: of key and splits.

    Raises:
      ConfigError: a share outside [0, 1], fewer distinct words than K, too few sentences to split.
    """
    distinct = list(dict.fromkeys(" ".join(line.split()) for line in lines))
    distinct = [line for line in distinct if line]
    kept.left_out(len(lines) - len(distinct), "blank or repeated sentences")
    words = frequent_words(distinct)
    if len(words) < vocabulary:
        raise ConfigError("data.words", vocabulary, f"at most {len(words)}, as the text has words")
    words = words[:vocabulary]
    key, known = make_key(words, share, seed=seed), set(words)
    fitting = [
        line
        for line in distinct
        if known.issuperset(line.split()) and not 0 < max_words < len(line.split())
    ]
    kept.left_out(len(distinct) - len(fitting), "sentences with other words, or too long")
    side = min(train, (len(fitting) - valid - test) // 2)
    if min(side, valid, test) < 1:
        allowed = f"fewer: {len(fitting)} sentences fit, and each side has to have some"
        raise ConfigError("data.valid, data.test", (valid, test), allowed)
    order = np.random.default_rng([seed, len(fitting), 1]).permutation(len(fitting))
    mixed = [fitting[int(i)] for i in order]
    held, rest = mixed[: valid + test], mixed[valid + test :]
    enciphered = apply(key, held)
    return Decipherment(
        words,
        key,
        rest[:side],
        apply(key, rest[side : 2 * side]),
        (held[:valid], enciphered[:valid]),
        (held[valid:], enciphered[valid:]),
    )


def frequency_match(plain: Sequence[str], cipher: Sequence[str]) -> dict[str, str]:
    """symbol -> word by ranks: the most frequent symbol is the most frequent word that the other side lacks.

    Words that occur in the enciphered text as they are have no symbol. Symbols beyond the number of such
    words are left out.
    """
    shared = {word for line in cipher for word in line.split()}
    symbols = [word for word in frequent_words(cipher) if is_symbol(word)]
    words = [word for word in frequent_words(plain) if word not in shared]
    return dict(zip(symbols, words, strict=False))


class Bigrams:
    """A bigram model of plain text, smoothed towards its unigrams, and counts of an enciphered text.

    p(w | v) = (c(v, w) + mu (c(w) + 1) / (N + V)) / (c(v) + mu)

    Sentences begin and end with a mark of their own.
    """

    def __init__(self, plain: Sequence[str], cipher: Sequence[str], *, mu: float = 10.0):
        """Args:
        plain: what the model is of; `cipher` is what is to be deciphered.
        mu: weight of the unigrams, in counts.
        """
        self.words = ["", *dict.fromkeys(w for line in [*plain, *cipher] for w in line.split())]
        self._ids = {word: i for i, word in enumerate(self.words)}
        counts = self._count(plain)
        single = counts.sum(0) + 1.0
        total = counts.sum(1, keepdims=True)
        self._logp = np.log((counts + mu * single / single.sum()) / (total + mu))
        self._counts = self._count(cipher)

    def _count(self, lines: Sequence[str]) -> Float[ndarray, "V V"]:
        counts = np.zeros((len(self.words), len(self.words)))
        for line in lines:
            ids = [0, *(self._ids[word] for word in line.split()), 0]
            np.add.at(counts, (ids[:-1], ids[1:]), 1.0)
        return counts

    def assign(self, guess: Key) -> Int[ndarray, " V"]:
        """Of each word (the mark first), the id of what it stands for under a guess of symbols."""
        stands = np.arange(len(self.words))
        for symbol, word in guess.items():
            if symbol in self._ids and word in self._ids:
                stands[self._ids[symbol]] = self._ids[word]
        return stands

    def loss(self, guess: Key) -> float:
        """Nats a token (marks at the end included) of the text deciphered by a guess symbol -> word."""
        stands = self.assign(guess)
        return float(
            -(self._counts * self._logp[np.ix_(stands, stands)]).sum() / self._counts.sum()
        )

    def gain(self, stands: Int[ndarray, " V"], a: int, b: int) -> float:
        """By how much log p rises where ids a and b exchange what they stand for; O(V)."""
        swapped = stands.copy()
        swapped[[a, b]] = swapped[[b, a]]
        rows, n, logp = [a, b], self._counts, self._logp
        new = (n[rows] * logp[np.ix_(swapped[rows], swapped)]).sum()
        new += (n[:, rows] * logp[np.ix_(swapped, swapped[rows])]).sum()
        new -= (n[np.ix_(rows, rows)] * logp[np.ix_(swapped[rows], swapped[rows])]).sum()
        old = (n[rows] * logp[np.ix_(stands[rows], stands)]).sum()
        old += (n[:, rows] * logp[np.ix_(stands, stands[rows])]).sum()
        old -= (n[np.ix_(rows, rows)] * logp[np.ix_(stands[rows], stands[rows])]).sum()
        return float(new - old)


def climb(
    plain: Sequence[str],
    cipher: Sequence[str],
    guess: Key,
    *,
    reach: int = 20,
    sweeps: int = 3,
) -> dict[str, str]:
    """A better guess by exchanges of two symbols' words, as long as the bigram likelihood rises.

    Each sweep tries every pair of symbols that are at most `reach` ranks of frequency apart, the frequent
    ones first, and takes what helps at once; it ends when a sweep changes nothing.

    Args:
      guess: symbol -> word, such as `frequency_match`'s.
    """
    bigrams = Bigrams(plain, cipher)
    ids = {word: i for i, word in enumerate(bigrams.words)}
    symbols = [ids[word] for word in frequent_words(cipher) if word in guess]
    stands = bigrams.assign(guess)
    for _ in range(sweeps):
        changed = False
        for i, a in enumerate(symbols):
            for b in symbols[i + 1 : i + 1 + reach]:
                if bigrams.gain(stands, a, b) > 1e-9:
                    stands[[a, b]] = stands[[b, a]]
                    changed = True
        if not changed:
            break
    return {bigrams.words[s]: bigrams.words[stands[s]] for s in symbols}


def key_accuracy(guess: Key, key: Key, cipher: Sequence[str]) -> float:
    """Share of the symbols of an enciphered text that a guess (symbol -> word) reads right; NaN of none."""
    truth = invert(key)
    counts = Counter(word for line in cipher for word in line.split() if word in truth)
    right = sum(n for symbol, n in counts.items() if guess.get(symbol) == truth[symbol])
    return right / counts.total() if counts else float("nan")


def read_key(cipher: Sequence[str], written: Sequence[str]) -> dict[str, str]:
    """symbol -> the word that most often stands at its place in what was written of enciphered lines.

    Lines of another length than their source are passed over.
    """
    votes: dict[str, Counter[str]] = {}
    for source, line in zip(cipher, written, strict=True):
        pairs = list(zip(source.split(), line.split(), strict=False))
        if len(source.split()) == len(line.split()):
            for symbol, word in pairs:
                if is_symbol(symbol):
                    votes.setdefault(symbol, Counter())[word] += 1
    return {symbol: counter.most_common(1)[0][0] for symbol, counter in votes.items()}
