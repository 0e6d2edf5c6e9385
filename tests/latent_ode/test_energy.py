import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.latent_ode import energy

LABELS = ("past", "present", "future")
W = jax.random.normal(jax.random.key(0), (4, 3))


def logits(z):
    return z @ W


def test_classifier_energy_is_minus_log_probability():
    z = jax.random.normal(jax.random.key(1), (4,))
    total = energy.compose([(energy.classifier(logits, LABELS), "future", 2.0)])
    want = -2.0 * jax.nn.log_softmax(logits(z))[2]
    assert float(total(z)) == pytest.approx(float(want), abs=1e-6)


@settings(deadline=None, max_examples=20)
@given(shift=st.floats(-50, 50), label=st.integers(0, 2))
def test_a_constant_on_all_logits_changes_neither_energy_nor_gradient(shift, label):
    z = jnp.asarray([0.3, -1.0, 2.0, 0.1])
    plain = energy.compose([(energy.classifier(logits, LABELS), label, 1.0)])
    moved = energy.compose([(energy.classifier(lambda z: logits(z) + shift, LABELS), label, 1.0)])
    assert float(plain(z)) == pytest.approx(float(moved(z)), abs=2e-5)
    assert np.allclose(jax.grad(plain)(z), jax.grad(moved)(z), atol=1e-5)


def test_negation_is_the_probability_of_all_other_labels():
    z = jax.random.normal(jax.random.key(2), (4,))
    probs = jax.nn.softmax(logits(z))
    total = energy.compose([(energy.without(logits, LABELS), "past", 1.0)])
    assert float(total(z)) == pytest.approx(-np.log(1 - float(probs[0])), abs=1e-6)
    binary = energy.compose([(energy.without(lambda z: z[:2], ("no", "yes")), "no", 1.0)])
    other = energy.compose([(energy.classifier(lambda z: z[:2], ("no", "yes")), "yes", 1.0)])
    assert float(binary(z)) == pytest.approx(float(other(z)), abs=1e-6)


def test_regression_and_keywords():
    z = jnp.asarray([1.0, 2.0, -1.0, 0.5])
    value = energy.compose([(energy.regression(lambda z: z[0] * 2, sigma=0.5), 1.0, 1.0)])
    assert float(value(z)) == pytest.approx((2.0 - 1.0) ** 2 / (2 * 0.25))
    op = energy.keywords(lambda z: z[:3], ("soup", "bread", "staff"))
    both = energy.compose([(op, ("soup", "staff"), 1.0)])
    want = -np.log(1 / (1 + np.exp(-1.0))) - np.log(1 / (1 + np.exp(1.0)))
    assert float(both(z)) == pytest.approx(want, abs=1e-6)


def test_weights_compose():
    z = jax.random.normal(jax.random.key(3), (4,))
    a, b = energy.classifier(logits, LABELS), energy.regression(lambda z: z[1])
    one = energy.compose([(a, 1, 0.7)])
    both = energy.compose([(a, 1, 0.7), (b, 0.2, 0.0)])
    assert np.array_equal(jax.grad(one)(z), jax.grad(both)(z))
    assert float(energy.compose([])(z)) == 0.0


def test_bad_operators_are_named():
    op = energy.classifier(logits, LABELS, name="tense", dim=4)
    with pytest.raises(ValueError, match="'tense': label is 'pluperfect', allowed: past"):
        energy.compose([(op, "pluperfect", 1.0)])
    with pytest.raises(ValueError, match="label is 3"):
        energy.compose([(op, 3, 1.0)])
    with pytest.raises(ValueError, match="weight is -1"):
        energy.compose([(op, "past", -1.0)])
    with pytest.raises(ValueError, match="weight is nan"):
        energy.compose([(op, "past", float("nan"))])
    with pytest.raises(ValueError, match="'tense': latent size is 7, allowed: 4"):
        energy.compose([(op, "past", 1.0)])(jnp.zeros(7))
    with pytest.raises(ValueError, match="sigma is 0"):
        energy.regression(lambda z: z, sigma=0.0)
    with pytest.raises(ValueError, match="target is nan"):
        energy.compose([(energy.regression(lambda z: z), float("nan"), 1.0)])
    words = energy.keywords(lambda z: z, ("soup", "bread"))
    with pytest.raises(ValueError, match="no word is given"):
        energy.compose([(words, (), 1.0)])
    with pytest.raises(ValueError, match="word is 'fish'"):
        energy.compose([(words, "fish", 1.0)])
    with pytest.raises(ValueError, match="at least two"):
        energy.without(logits, ("only",))
