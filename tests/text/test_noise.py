from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.text import noise

WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "h"]), min_size=0, max_size=12)


@settings(deadline=None, max_examples=60)
@given(words=WORDS, level=st.sampled_from([0.0, 0.25, 0.5, 1.0]), seed=st.integers(0, 9))
def test_what_each_kind_keeps(words, level, seed):
    text = " ".join(words)

    def get(kind):
        return noise.corrupt([text], kind, level, seed=seed)[0].split()

    shuffled, repeated, blanked = get("shuffle"), get("repetition"), get("blank")
    most = int(np.ceil(level * len(words)))
    assert Counter(shuffled) == Counter(words)
    assert sum(a != b for a, b in zip(shuffled, words, strict=True)) <= most
    assert len(words) <= len(repeated) <= len(words) + most
    assert not Counter(words) - Counter(repeated)
    assert len(blanked) == len(words)
    changed = [a for a, b in zip(blanked, words, strict=True) if a != b]
    assert set(changed) <= {noise.BLANK}
    assert len(changed) in {int(level * len(words)), most}
    assert get("shuffle") == shuffled
    if level == 0:
        assert shuffled == repeated == blanked == words


def test_mean_level_is_exact_and_the_mix_has_all_kinds():
    texts = ["a b c d e f g"] * 3000
    blanked = noise.corrupt(texts, "blank", 0.3, seed=1)
    share = np.mean([t.split().count(noise.BLANK) / 7 for t in blanked])
    # The number of blanks is 2 or 3: standard error sqrt(0.1 * 0.9) / 7 / sqrt(3000) = 0.0008.
    assert share == pytest.approx(0.3, abs=0.004)
    mixed = noise.corrupt(texts, "mix", 0.3, seed=1)
    kinds = Counter(
        "blank" if noise.BLANK in t else "longer" if len(t.split()) > 7 else "shuffle"
        for t in mixed
    )
    assert all(abs(kinds[k] / 3000 - 1 / 3) < 0.05 for k in ("blank", "longer", "shuffle"))
    assert noise.corrupt(texts, "mix", 0.3, seed=2) != mixed


def test_the_combined_noise_has_the_rates_that_it_states():
    """Of 7 words at 0.2, each is disturbed with probability 0.4, a third each way; then two swaps."""
    words = [f"w{i}" for i in range(7)]
    texts = [" ".join(words)] * 3000 + ["other words there"]
    said = [t.split() for t in noise.corrupt(texts, "combined", 0.2, seed=3)[:3000]]
    n = 7 * 3000
    blanks = sum(s.count(noise.BLANK) for s in said) / n
    # Standard error of a share p of 21,000 words: below 0.0024; of the length, one more with 0.4 / 3.
    assert blanks == pytest.approx(0.4 / 3, abs=0.01)
    assert sum(map(len, said)) / n == pytest.approx(1 + 0.4 / 3, abs=0.01)
    foreign = sum(w in {"other", "words", "there"} for s in said for w in s) / n
    assert foreign == pytest.approx(0.4 / 3 * 3 / 10, abs=0.007)
    assert all(len(s) >= 7 for s in said)
    # Sentences of the same words show the two swaps, ceil(0.2 x 7), which move three words.
    moved = [s for s in said if sorted(s) == words]
    assert len(moved) > 50  # 3000 x 0.6 ** 7 = 84
    apart = [sum(a != b for a, b in zip(s, words, strict=True)) for s in moved]
    assert (
        apart.count(3) >= len(moved) - 5
    )  # one in a hundred has two words drawn in each other's place
    assert noise.corrupt(texts, "combined", 0.0, seed=3) == texts
    assert noise.corrupt(["a", "", "a"], "combined", 0.0) == ["a", "", "a"]
    assert noise.corrupt(["", "a b"], "combined", 1.0)[0] == ""
    again = noise.corrupt(texts, "combined", 0.2, seed=3)[:3000]
    assert [t.split() for t in again] == said


@pytest.mark.parametrize(
    ("kind", "level", "message"),
    [
        ("swap", 0.1, "kind is 'swap'"),
        ("blank", 1.5, "level is 1.5"),
        ("blank", -0.1, "level is -0.1"),
    ],
)
def test_bad_settings(kind, level, message):
    with pytest.raises(ValueError, match=message):
        noise.corrupt(["a"], kind, level)
