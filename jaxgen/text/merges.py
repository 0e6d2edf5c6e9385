"""Vocabularies learned from counted words: byte-pair merges, word pieces, and whole words.

What comes out depends on the counts alone: pairs that are equally frequent are merged in the order of
their text, never in that of a hash map, so every process and every launch learns the same.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

Pair = tuple[str, str]

# No word that was split off at white space holds a space, so no text can spell these.
WORD_END = " "  # after the last piece of a word, of byte-pair encoding
INNER = " ##"  # before every piece but the first, of word pieces
UNKNOWN = "\uffff"  # a noncharacter (Unicode, 23.7): kept out of vocabularies, so always unknown


def words(vocab_size: int, counts: Mapping[str, int]) -> list[str]:
    """The most frequent words, at most so many; among equals the first by their text."""
    known = [w for w in counts if UNKNOWN not in w]
    return sorted(known, key=lambda w: (-counts[w], w))[:vocab_size]


def byte_pairs(vocab_size: int, counts: Mapping[str, int]) -> tuple[list[str], list[Pair]]:
    """Entries and merges of byte-pair encoding (Sennrich et al., 2016), over characters.

    Args:
      vocab_size: at most this many entries. Characters come first, the most frequent ones, each alone
        and as the end of a word, so that words of known characters can be written.
      counts: how often each word occurs; characters of words that never do come last, if there is room.
    """

    def ends(word: str) -> list[str]:
        return [*word[:-1], word[-1] + WORD_END]

    def both(character: str) -> Pair:
        return character, character + WORD_END

    return _merge(vocab_size, counts, ends, both, lambda a, b: a + b)


def word_pieces(vocab_size: int, counts: Mapping[str, int]) -> list[str]:
    """Entries of a word-piece vocabulary (Schuster and Nakajima, 2012), learned by merging pairs."""

    def inner(word: str) -> list[str]:
        return [word[0], *(INNER + c for c in word[1:])]

    def both(character: str) -> Pair:
        return character, INNER + character

    def join(a: str, b: str) -> str:
        return a + b.removeprefix(INNER)

    return _merge(vocab_size, counts, inner, both, join)[0]


def _merge(
    vocab_size: int,
    counts: Mapping[str, int],
    split: Callable[[str], list[str]],
    forms: Callable[[str], Iterable[str]],
    join: Callable[[str, str], str],
) -> tuple[list[str], list[Pair]]:
    """Merges the most frequent pair of neighbours, again and again, until the vocabulary is full."""
    known = sorted(w for w in counts if counts[w] and UNKNOWN not in w)
    pieces = [split(w) for w in known]
    times = [counts[w] for w in known]
    seen = Counter({form: 0 for c in set().union(*known) for form in forms(c)})
    for row, n in zip(pieces, times, strict=True):
        for piece in row:
            seen[piece] += n
    vocabulary = words(vocab_size, seen)
    entries = set(vocabulary)

    # A piece outside the vocabulary is unknown wherever it stands, and nothing is merged with it.
    pairs: Counter[Pair] = Counter()
    places: dict[Pair, set[int]] = {}

    def count(word: int, sign: int) -> set[Pair]:
        changed = set()
        for pair in _neighbours(pieces[word], entries):
            pairs[pair] += sign * times[word]
            if sign > 0:
                places.setdefault(pair, set()).add(word)
            changed.add(pair)
        return changed

    for word in range(len(pieces)):
        count(word, 1)
    heap = [(-n, pair) for pair, n in pairs.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(vocabulary) < vocab_size:
        n, pair = heapq.heappop(heap)
        if -n != pairs[pair] or not n:
            continue  # its count has changed since; the new one is in the heap too
        whole = join(*pair)
        merges.append(pair)
        if whole not in entries:  # two roads may lead to one piece
            entries.add(whole)
            vocabulary.append(whole)
        changed = set()
        for word in places.pop(pair):
            changed |= count(word, -1)
            pieces[word] = _replaced(pieces[word], pair, whole)
            changed |= count(word, 1)
        for other in changed:
            if pairs[other] > 0:
                heapq.heappush(heap, (-pairs[other], other))
    rest = sorted({form for c in set().union(*counts) for form in forms(c)} - entries)
    vocabulary += [form for form in rest if UNKNOWN not in form][: vocab_size - len(vocabulary)]
    return vocabulary, merges


def _neighbours(row: Sequence[str], entries: set[str]) -> Iterable[Pair]:
    return (p for p in itertools.pairwise(row) if p[0] in entries and p[1] in entries)


def _replaced(row: Sequence[str], pair: Pair, whole: str) -> list[str]:
    """The row with each occurrence of the pair, from the left, as one piece."""
    out: list[str] = []
    at = 0
    while at < len(row):
        if tuple(row[at : at + 2]) == pair:
            out.append(whole)
            at += 2
        else:
            out.append(row[at])
            at += 1
    return out
