"""Losses of translators against what enumeration says, on a vocabulary of five tokens."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from jaxgen.losses.cross_entropy import sum_cross_entropy
from jaxgen.metrics.sentence_bleu import sentence_bleu
from jaxgen.models import t5, translation_losses
from jaxgen.models.translator import Translator
from jaxgen.text.masking import eos_mask

PAD, BEGIN, END, LENGTH = 0, 1, 2, 3


def make(vocab=5, seed=0):
    spec = t5.fresh_config(vocab, width=8, depth=1, heads=2, dropout=0.0)
    ends = {"begin": BEGIN, "end": END, "pad": PAD}
    return Translator(spec, max_length=LENGTH, rngs=nnx.Rngs(seed), **ends)


def all_sentences(vocab):
    """Every row that can be drawn: any token up to the end, and padding after it."""
    rows = set()
    for row in itertools.product(range(vocab), repeat=LENGTH):
        cut = row.index(END) + 1 if END in row else LENGTH
        rows.add(row[:cut] + (PAD,) * (LENGTH - cut))
    return jnp.asarray(sorted(rows))


SOURCE, TARGET = jnp.asarray([[3, 4, END]]), jnp.asarray([[4, 3, END]])


def test_reinforce_estimates_the_gradient_of_expected_bleu():
    """E[BLEU] and its gradient by enumeration of all sentences, against one batch of draws."""
    model, said = make(), all_sentences(5)
    mask = eos_mask(said, END)
    rows = len(said)
    reward = sentence_bleu(said, jnp.repeat(TARGET, rows, 0), mask, jnp.ones((rows, LENGTH), bool))
    flat, build = ravel_pytree(model)

    def logp(x):
        logits, _ = build(x).teacher_forced(jnp.repeat(SOURCE, rows, 0), said)
        return -sum_cross_entropy(logits, said, mask)[0]

    chance = jnp.exp(logp(flat))
    assert float(chance.sum()) == pytest.approx(1.0, abs=1e-5)
    scores = jax.jacobian(logp)(flat)  # [rows, parameters]
    exact = (chance * reward) @ scores
    mean = chance @ reward
    # Of one draw: its variance around the exact gradient, summed over parameters.
    each = (reward - mean)[:, None] * scores
    variance = float(chance @ (each**2).sum(1) - (exact**2).sum())
    n = 20_000

    @jax.jit
    def estimate(x, key):
        sources, targets = (jnp.repeat(a, n, 0) for a in (SOURCE, TARGET))
        loss = lambda x: translation_losses.policy_gradient(build(x), sources, targets, key)  # noqa: E731
        return -jax.grad(loss)(x)

    error = float(((estimate(flat, jax.random.key(1)) - exact) ** 2).sum())
    expected = variance / n
    # The squared error is a sum of few independent parts; its mean is `expected`.
    assert 0.05 * expected < error < 4 * expected
    assert float((exact**2).sum()) > 25 * expected  # so that no gradient at all would fail


def test_best_of_candidates_is_cross_entropy_of_the_best():
    """The four likeliest of all sentences by score a token, and of those the one of the highest BLEU."""
    model, key = make(vocab=8, seed=3), jax.random.key(0)
    sources = jnp.asarray([[3, 4, END], [5, 6, END], [7, END, PAD]])
    targets = jnp.asarray([[4, 3, END], [6, 6, END], [5, END, PAD]])
    found = np.asarray(jax.jit(lambda m, s: m.candidates(s, 4, LENGTH))(model, sources))
    assert found.shape == (3, 4, LENGTH)
    chosen = []
    for row, target in zip(found, np.asarray(targets), strict=True):
        rewards = []
        for said in row:
            masks = [eos_mask(jnp.asarray(a[None]), END) for a in (said, target)]
            rewards.append(
                float(sentence_bleu(jnp.asarray(said[None]), jnp.asarray(target[None]), *masks)[0])
            )
        chosen.append(row[int(np.argmax(rewards))])
    chosen = jnp.asarray(np.stack(chosen))
    assert (chosen != found[:, 0]).any()  # the likeliest is not always the best

    def best(m):
        return translation_losses.best_of_candidates(m, sources, targets, key)

    def plain(m):
        return translation_losses.teacher_forced_loss(m, sources, chosen, key)

    (value, grad), (want, want_grad) = (
        jax.jit(jax.value_and_grad(f))(model) for f in (best, plain)
    )
    assert float(value) == pytest.approx(float(want), rel=1e-6)
    assert np.allclose(ravel_pytree(grad)[0], ravel_pytree(want_grad)[0], atol=1e-6)


@pytest.mark.parametrize("fused_bytes", [0, 2**12])
def test_weights_of_ngrams_enter_as_stated(fused_bytes):
    model, key = make(vocab=8), jax.random.key(0)
    sources, targets = jnp.asarray([[3, 4, END], [5, END, PAD]]), jnp.asarray([[6, 3, END]] * 2)

    def free(**options):
        return float(
            translation_losses.free_running_eisl(
                model, sources, targets, key, fused_bytes=fused_bytes, **options
            )
        )

    def forced(**options):
        return float(
            translation_losses.teacher_forced_loss(
                model, sources, targets, key, ngram_factor=1.0, ce_factor=0.0, **options
            )
        )

    for loss in (free, forced):
        one, two = loss(ngrams=(1,)), loss(ngrams=(2,))
        assert abs(one - two) > 0.01
        both = loss(ngrams=(1, 2), weights=(0.8, 0.2))
        assert both == pytest.approx(0.8 * one + 0.2 * two, rel=1e-5)
        assert loss(ngrams=(1, 2)) == pytest.approx(0.5 * one + 0.5 * two, rel=1e-5)
