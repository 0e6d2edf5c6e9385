"""The text classifier: tokens and one-hot distributions are the same, padding is nothing."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxgen.nn import textcnn


def test_tokens_are_one_hot_distributions_and_padding_changes_nothing():
    model = textcnn.TextCNN(7, 3, width=8, rngs=nnx.Rngs(0))
    tokens = jnp.asarray([[1, 2, 3, 0], [4, 5, 6, 1]])
    mask = jnp.asarray([[1, 1, 1, 0], [1, 1, 1, 1]], bool)
    hard = model(tokens, mask)
    assert np.allclose(hard, model(jax.nn.one_hot(tokens, 7), mask), atol=1e-6)
    longer = model(jnp.pad(tokens, ((0, 0), (0, 3))), jnp.pad(mask, ((0, 0), (0, 3))))
    assert np.allclose(hard, longer, atol=1e-6)
    other = model(tokens.at[0, 3].set(6), mask)
    assert np.allclose(hard, other, atol=1e-6)
    assert hard.shape == (2, 3)


def test_gradients_flow_into_distributions():
    model = textcnn.TextCNN(7, 2, width=8, rngs=nnx.Rngs(0))
    p = jax.nn.softmax(jax.random.normal(jax.random.key(0), (2, 4, 7)))
    g = jax.grad(lambda p: model(p, jnp.ones((2, 4), bool))[:, 0].sum())(p)
    assert np.abs(np.asarray(g)).max() > 0
