import itertools
from collections import Counter

import numpy as np
import pytest

from jaxgen.text import merges


def slowly(counts, split, join, steps):
    """Pairs merged one after the other, each time by counting all of them anew."""
    rows = {w: split(w) for w in counts}
    done = []
    while len(done) < steps:
        pairs = Counter()
        for word, row in rows.items():
            for pair in itertools.pairwise(row):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        done.append(best)
        for word, row in rows.items():
            out = []
            for piece in row:
                # From the left: in a row of three equal pieces the first two are joined.
                if out and out[-1:] == [(best[0],)] and piece == best[1]:
                    out[-1] = join(*best)
                else:
                    out.append((piece,) if piece == best[0] else piece)
            rows[word] = [p[0] if isinstance(p, tuple) else p for p in out]
    return done


def random_words(seed):
    rng = np.random.default_rng(seed)
    draw = ["".join(rng.choice(list("abc"), rng.integers(1, 9))) for _ in range(60)]
    return Counter({w: int(rng.integers(1, 4)) for w in draw})


@pytest.mark.parametrize("seed", range(5))
def test_merges_are_those_of_counting_anew(seed):
    counts = random_words(seed)
    entries, got = merges.byte_pairs(60, counts)
    want = slowly(counts, lambda w: [*w[:-1], w[-1] + " "], lambda a, b: a + b, len(got))
    assert len(got) >= 54  # six forms of three characters
    assert got == want
    assert sorted(entries[:6]) == ["a", "a ", "b", "b ", "c", "c "]
    assert entries[6:] == list(dict.fromkeys(a + b for a, b in got))

    pieces = merges.word_pieces(60, counts)
    want = slowly(
        counts,
        lambda w: [w[0], *(" ##" + c for c in w[1:])],
        lambda a, b: a + b.removeprefix(" ##"),
        54,
    )
    assert pieces[6:] == list(dict.fromkeys(a + b.removeprefix(" ##") for a, b in want))[:54]


def test_ties_go_by_text_and_not_by_the_order_of_words():
    counts = {"xy": 2, "ab": 2, "cd": 2, "abcd": 1}
    turned = dict(reversed(counts.items()))
    assert list(counts) != list(turned)
    entries, pairs = merges.byte_pairs(19, counts)
    # "ab" and "cd" at the end of a word occur three and two times, "xy" two times.
    assert pairs[:3] == [("c", "d "), ("a", "b "), ("x", "y ")]
    assert (entries, pairs) == merges.byte_pairs(19, turned)
    assert merges.word_pieces(19, counts) == merges.word_pieces(19, turned)
    assert merges.words(3, {"b": 1, "c": 2, "a": 1}) == ["c", "a", "b"]


def test_a_vocabulary_is_never_larger_than_asked():
    counts = {"aab": 5, "c": 1}
    assert merges.byte_pairs(3, counts) == (["a", "b ", "c "], [])
    # "aab " is whole after two merges; then there is nothing to merge.
    entries, pairs = merges.byte_pairs(50, counts)
    assert pairs == [("a", "a"), ("aa", "b ")]
    assert entries[:3] == ["a", "b ", "c "]
    assert sorted(entries[3:]) == ["a ", "aa", "aab ", "b", "c"]
    assert merges.byte_pairs(50, {}) == ([], [])


def test_words_that_never_occur_lend_their_characters_if_there_is_room():
    entries, pairs = merges.byte_pairs(50, {"ab": 1, "xa": 0})
    assert pairs == [("a", "b ")]
    assert entries[-2:] == ["x", "x "]
    assert "x" not in merges.byte_pairs(5, {"ab": 1, "xa": 0})[0]
    assert merges.words(2, {"ab": 1, "xa": 0}) == ["ab", "xa"]


def test_the_unknown_word_is_never_learned():
    counts = {"a": 3, merges.UNKNOWN: 9, "a" + merges.UNKNOWN: 9}
    for found in (
        merges.words(9, counts),
        merges.byte_pairs(9, counts)[0],
        merges.word_pieces(9, counts),
    ):
        assert found
        assert not any(merges.UNKNOWN in entry for entry in found)
