"""Ciphers: what is enciphered, splits without overlap, and the true key, which nothing beats."""

import os
import pathlib

import numpy as np
import pytest

from jaxgen.data import cipher, corpora, lines
from jaxgen.errors import ConfigError
from jaxgen.metrics import text as text_metrics

YELP = pathlib.Path(os.environ.get("JAXGEN_DATA", "../shared/data")) / "yelp"


@pytest.fixture(scope="module")
def grammar():
    return [r.text for r in corpora.grammar(4000, seed=0, skew=0.7)]


def task(sentences, share=0.4, **options):
    sizes = {"vocabulary": 100, "train": 400, "valid": 50, "test": 60, "seed": 1}
    return cipher.decipherment(sentences, share=share, **sizes | options)


def test_a_share_of_the_words_gets_symbols_and_the_rest_is_left():
    words = [f"w{i}" for i in range(50)]
    for share in (0.0, 0.2, 0.5, 1.0):
        key = cipher.make_key(words, share, seed=3)
        assert len(key) == round(50 * share)
        assert sorted(key.values()) == sorted(f"@{n}" for n in range(len(key)))
        line = " ".join(words)
        (told,) = cipher.apply(key, [line])
        assert cipher.apply(cipher.invert(key), [told]) == [line]
        same = sum(a == b for a, b in zip(told.split(), words, strict=True))
        assert same == 50 - len(key)
    assert cipher.make_key(words, 0.5, seed=3) == cipher.make_key(words, 0.5, seed=3)
    assert cipher.make_key(words, 0.5, seed=3) != cipher.make_key(words, 0.5, seed=4)


def test_no_sentence_is_on_two_sides_and_no_symbol_in_plain_text(grammar):
    t = task(grammar)
    own = cipher.apply(cipher.invert(t.key), t.cipher)
    parts = [t.plain, own, t.valid[0], t.test[0]]
    assert [len(p) for p in parts] == [400, 400, 50, 60]
    everything = [line for part in parts for line in part]
    assert len(set(everything)) == len(everything)
    assert set(everything) <= set(grammar)
    assert not any(cipher.is_symbol(w) for part in parts for line in part for w in line.split())
    assert {w for line in everything for w in line.split()} <= set(t.words)
    for plain, secret in (t.valid, t.test):
        assert cipher.apply(t.key, plain) == secret
    there = {w for line in t.cipher for w in line.split()}
    assert not there & set(t.key)


def test_sides_are_as_long_as_there_is_text_for():
    few = [f"a b {i % 7} {i}" for i in range(300)]
    t = cipher.decipherment(few, vocabulary=200, share=0.5, train=1000, valid=10, test=10)
    assert len(t.plain) == len(t.cipher) < 150
    short = task([r.text for r in corpora.grammar(2000)], vocabulary=120, max_words=12)
    assert max(len(line.split()) for line in short.plain) == 12


def test_the_true_key_reads_all_and_no_exchange_of_two_words_reads_better(grammar):
    t = task(grammar, share=1.0, train=1500)
    truth = cipher.invert(t.key)
    plain, secret = t.test
    assert text_metrics.bleu(cipher.apply(truth, secret), plain) == pytest.approx(100)
    assert cipher.key_accuracy(truth, t.key, secret) == 1.0
    check_exchanges(t, truth, count=200, most=0.0, words=60)


def check_exchanges(t, truth, *, count, most, words):
    """Of random exchanges among the most frequent words, at most a share `most` lowers the loss."""
    bigrams, rng = cipher.Bigrams(t.plain, t.cipher), np.random.default_rng(0)
    best, lower = bigrams.loss(truth), 0
    symbols = [t.key[w] for w in t.words[:words]]
    ids = {word: i for i, word in enumerate(bigrams.words)}
    stands = bigrams.assign(truth)
    for _ in range(count):
        a, b = rng.choice(symbols, 2, replace=False)
        other = bigrams.loss(truth | {a: truth[b], b: truth[a]})
        gain = bigrams.gain(stands, ids[a], ids[b]) / bigrams._counts.sum()
        assert gain == pytest.approx(best - other, abs=1e-9)
        lower += other < best
    assert lower <= most * count


@pytest.mark.skipif(not YELP.is_dir(), reason=f"no {YELP}; JAXGEN_DATA says where data lies")
@pytest.mark.slow
def test_baselines_on_yelp():
    """K = 1,000: copying at 40 % has BLEU 31.9, frequency matching 60.3, within the scatter of keys."""
    names = sorted(YELP.glob("sentiment.*"))
    sentences = [line for name in names for line in lines.read_lines(name)]
    sizes = {"vocabulary": 1000, "train": 20_000, "valid": 1000, "test": 2000}
    t = cipher.decipherment(sentences, share=0.4, **sizes)
    plain, secret = t.test
    assert text_metrics.bleu(secret, plain) == pytest.approx(31.9, abs=8)
    guess = cipher.frequency_match(t.plain, t.cipher)
    assert text_metrics.bleu(cipher.apply(guess, secret), plain) == pytest.approx(60.3, abs=8)
    t = cipher.decipherment(sentences, share=1.0, **sizes)
    check_exchanges(t, cipher.invert(t.key), count=300, most=0.0, words=500)


def test_ranks_match_frequencies_and_climbing_mends_them():
    t = task([r.text for r in corpora.grammar(12_000, skew=1.0)], share=1.0, train=3000)
    _, secret = t.test
    guess = cipher.frequency_match(t.plain, t.cipher)
    assert set(guess) <= set(t.key.values())
    better = cipher.climb(t.plain, t.cipher, guess)
    assert sorted(better.values()) == sorted(guess.values())
    bigrams = cipher.Bigrams(t.plain, t.cipher)
    assert bigrams.loss(better) < bigrams.loss(guess)
    before, after = (cipher.key_accuracy(g, t.key, secret) for g in (guess, better))
    assert after > before + 0.1
    assert after > 0.8


def test_a_key_is_read_off_what_was_written():
    written = ["a b", "a c c", "x"]
    read = cipher.read_key(["@1 @2", "@1 @2 c", "@1 @2"], written)
    assert read == {"@1": "a", "@2": "b"}
    assert cipher.key_accuracy(read, {"a": "@1", "c": "@2"}, ["@1 @1 @2 q"]) == pytest.approx(2 / 3)


def test_bad_arguments(grammar):
    for share in (-0.1, 1.1):
        with pytest.raises(ConfigError, match=r"data\.share is .*, allowed: 0 to 1"):
            task(grammar, share=share)
    with pytest.raises(
        ConfigError, match=r"data\.words is 5000, allowed: at most \d+, as the text has"
    ):
        task(grammar, vocabulary=5000)
    with pytest.raises(
        ConfigError, match=r"data\.valid, data\.test is \(50, 60000\), allowed: fewer"
    ):
        task(grammar, test=60_000)
    with pytest.raises(ConfigError, match="allowed: words that are no symbols"):
        cipher.make_key(["a", "@1"], 0.5, seed=0)


def test_words_of_the_skewed_grammar_are_told_apart_by_frequency():
    for skew, ratio in ((0.0, 1.0), (1.0, 20.0)):  # of the first noun and the last of 20
        texts = [r.text for r in corpora.grammar(6000, skew=skew)]
        assert all(corpora.parse(text) for text in texts[:50])
        first, last = (sum(f" {noun} " in text for text in texts) for noun in ("soup", "bar"))
        assert first / last == pytest.approx(ratio, rel=0.4)
    assert corpora.grammar(20, skew=0.0) == corpora.grammar(20)
    with pytest.raises(ValueError, match="skew is -1"):
        corpora.grammar(5, skew=-1.0)
