"""Heads of attributes and of words: their loss by hand, and the operators that they make."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgen.models.attribute_heads import (
    KEYWORDS,
    UNKNOWN,
    AttributeHeads,
    Operators,
    mean_directions,
)

Z = jnp.asarray([[2.0, 0.0], [0.0, 1.0], [5.0, 5.0]])


class Same(nnx.Module):
    """Latents as logits."""

    dim = 2

    def __call__(self, z):
        return z


def heads(*names):
    made = AttributeHeads(2, {}, width=4, depth=1, rngs=nnx.Rngs(0))
    made.nets = nnx.Dict({name: Same() for name in names})
    return made


def test_rows_without_a_label_are_ignored():
    """The loss of the heads on labels of which some are unknown, by hand."""
    y = jnp.asarray([0, 1, UNKNOWN])
    want = -np.mean([jax.nn.log_softmax(Z[i])[y[i]] for i in (0, 1)])
    value, accuracy = heads("tense").loss(Z, {"tense": y}, jax.random.key(0))
    assert float(value) == pytest.approx(want, abs=1e-6)
    assert float(accuracy["tense_accuracy"]) == 1.0
    nothing, _ = heads("tense").loss(Z, {"tense": jnp.full(3, UNKNOWN)}, jax.random.key(0))
    assert float(nothing) == 0.0


def test_losses_of_heads_add_up_and_words_are_summed():
    y, words = jnp.asarray([0, 1, 1]), jnp.asarray([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    labels = {"tense": y, KEYWORDS: words}
    both, accuracy = heads("tense", KEYWORDS).loss(Z, labels, jax.random.key(0))
    one, _ = heads("tense").loss(Z, labels, jax.random.key(0))
    want = optax.sigmoid_binary_cross_entropy(Z, words).sum(1).mean()
    assert float(both - one) == pytest.approx(float(want), rel=1e-5)
    assert set(accuracy) == {"tense_accuracy"}


def test_noise_moves_latents_only_where_there_is_some():
    y = jnp.asarray([0, 1, 1])
    plain, noisy, again = (
        heads("tense").loss(Z, {"tense": y}, jax.random.key(key), noise=noise)[0]
        for key, noise in ((0, 0.0), (0, 0.5), (1, 0.0))
    )
    assert plain == again != noisy


def test_heads_have_the_sizes_asked_for():
    made = AttributeHeads(2, {"tense": 3, KEYWORDS: 5}, width=4, depth=1, rngs=nnx.Rngs(0))
    assert {n: net(Z).shape for n, net in made.nets.items()} == {"tense": (3, 3), KEYWORDS: (3, 5)}


def test_operators_pull_towards_their_labels_and_words():
    directions = {"sentiment": np.eye(2, dtype=np.float32)}
    labels = (("sentiment", ("bad", "good")),)
    operators = Operators(heads("sentiment", KEYWORDS), directions, labels, ("soup", "wine"))
    from jaxgen.latent_ode import energy

    for name, target in (("sentiment", "good"), (KEYWORDS, ["wine"])):
        total = energy.compose([(operators.get(name), target, 1.0)])
        pull = -jax.grad(lambda z, total=total: total(z))(jnp.zeros(2))
        assert pull[1] > 0
    # A pytree: heads and directions are arguments of a jitted function.
    score = jax.jit(lambda o: o.directions["sentiment"].sum())
    assert float(score(operators)) == 2.0


def test_directions_are_differences_of_means():
    u = np.asarray([[1.0, 0.0], [3.0, 0.0], [0.0, 4.0], [9.0, 9.0]], np.float32)
    found = mean_directions(u, np.asarray([0, 0, 1, UNKNOWN]), 2)
    assert found.tolist() == [[2.0, -4.0], [-2.0, 4.0]]
