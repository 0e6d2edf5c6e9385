import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sacrebleu

from jaxgen.losses.cross_entropy import sum_cross_entropy
from jaxgen.metrics import probes, text


def test_bleu_is_sacrebleu():
    refs = ["the cat sat on the mat today", "a dog ran over the green hill"]
    assert text.bleu(refs, refs) == pytest.approx(100.0)
    outs = ["the cat sat on a mat today", "dogs ran over the green hill"]
    want = sacrebleu.corpus_bleu(outs, [refs], tokenize="none").score
    assert 0 < text.bleu(outs, refs) < 100
    assert text.bleu(outs, refs) == pytest.approx(want)


def test_self_bleu_and_distinct():
    same = ["one two three four five"] * 5
    assert text.self_bleu(same) == pytest.approx(100.0)
    different = [" ".join(f"w{5 * i + j}" for j in range(5)) for i in range(5)]
    assert text.self_bleu(different) < 5
    assert text.distinct_n(different, 2) == 1.0
    assert text.distinct_n(same, 2) == pytest.approx(4 / 20)
    assert text.distinct_n([], 2) == 0.0


def test_diversity_and_memorised_phrases():
    same = ["one two three four five"] * 5
    assert text.diversity(same) == pytest.approx((1 / 5) ** 3)
    mixed = ["a b c d", "a b c e"]
    assert text.diversity(mixed) == pytest.approx(4 / 6 * 3 / 4 * 1.0)
    assert text.diversity([]) == 0.0
    train = ["x a b c d", "b c e f"]
    assert text.memorised(mixed, train) == pytest.approx(1 / 2)  # a b c d, but not a b c e
    assert text.memorised(mixed, train, 3) == pytest.approx(1.0)  # a b c twice, b c d, b c e
    assert text.memorised(train, train) == 1.0
    assert np.isnan(text.memorised(["a b"], train))
    with pytest.raises(ValueError, match="n is 0, allowed: at least 1"):
        text.memorised(mixed, train, 0)


def test_options_that_leave_nothing_to_compare():
    for options in ({"count": 0}, {"references": 0}):
        with pytest.raises(ValueError, match=rf"{next(iter(options))} is 0, allowed: at least 1"):
            text.self_bleu(["a b", "c d"], **options)
    z = np.zeros((3, 2))
    with pytest.raises(ValueError, match="number of labels in y_train is 1, allowed: at least 2"):
        probes.linear_probe(z, np.ones(3, int), z, np.ones(3, int))
    with pytest.raises(ValueError, match="k is 5, allowed: 1 to 3"):
        probes.knn_accuracy(z, np.arange(3), z, np.arange(3))


def test_token_accuracy_and_exact_match():
    targets = np.array([[1, 2, 3, 0], [4, 5, 0, 0]])
    outputs = np.array([[1, 9, 3, 7], [4, 5, 8, 8]])
    assert text.token_accuracy(outputs, targets, targets != 0) == pytest.approx(4 / 5)
    assert text.exact_match(["a", "b", "c"], ["a", "x", "c"]) == pytest.approx(2 / 3)


def test_perplexity_against_numpy():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(7, 4, 5))
    targets = rng.integers(0, 5, (7, 4))
    mask = rng.random((7, 4)) < 0.7
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(logp, targets[..., None], -1)[..., 0]
    want = np.exp(-(chosen * mask).sum() / mask.sum())
    rows = np.arange(7)

    def score(index):
        return sum_cross_entropy(
            jnp.asarray(logits)[index], jnp.asarray(targets)[index], jnp.asarray(mask)[index]
        )

    for batch in (2, 7, 64):
        assert text.perplexity(jax.jit(score), rows, batch=batch) == pytest.approx(want, rel=1e-5)


def test_uniform_model_has_the_vocabulary_as_perplexity():
    @jax.jit
    def score(rows):
        return sum_cross_entropy(jnp.zeros((*rows.shape, 11)), rows, jnp.ones(rows.shape, bool))

    assert text.perplexity(score, np.zeros((5, 3), np.int32)) == pytest.approx(11.0)


def test_ridge_probe_finds_a_linear_value():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(600, 4))
    y = z @ np.array([1.0, -2.0, 0.0, 3.0]) + 0.1 * rng.normal(size=600)
    r2, rank, probe = probes.ridge_probe(z[:400], y[:400], z[400:], y[400:])
    # Noise of variance 0.01 in a value of variance 14.
    assert r2 > 0.995
    assert rank > 0.99
    noise, _, _ = probes.ridge_probe(z[:400], rng.normal(size=400), z[400:], y[400:])
    assert noise < 0.1
    assert probe.predict(z[:3]).shape == (3,)


def test_of_nothing_there_is_no_number():
    empty = text.perplexity(lambda r: (np.zeros(256), np.ones(256)), np.zeros((0, 3)))
    padding = text.perplexity(lambda r: (np.zeros(4), np.zeros(4)), np.zeros((4, 3)), batch=4)
    values = [
        empty,
        padding,
        text.bleu([], []),
        text.bleu(["a b c d", "x"], ["a b c d"]),  # one reference is missing
        text.self_bleu([]),
        text.self_bleu(["a b c d"]),
        text.exact_match([], []),
        text.token_accuracy(np.ones((1, 2), int), np.ones((1, 2), int), np.zeros((1, 2), bool)),
    ]
    assert np.isnan(values).all()
    with pytest.raises(ValueError, match="n is 0, allowed: at least 1"):
        text.distinct_n(["a"], 0)
