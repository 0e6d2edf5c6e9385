"""Both models draw images of their condition, learn by their own loss, and pass gradients through draws."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgen.models import PoseDiffusion, PoseGenerator
from jaxgen.models.pose_transfer import PoseModel

SIZE, CHANNELS = 16, 3


def build(kind, **more):
    if kind == "generator":
        return PoseGenerator(SIZE, CHANNELS, width=4, noise_dim=3, rngs=nnx.Rngs(0), **more)
    sizes = {"width": 4, "multipliers": (1, 2), "decode_steps": 3, "gradient_steps": 1}
    return PoseDiffusion(SIZE, CHANNELS, rngs=nnx.Rngs(0), **sizes | more)


@pytest.mark.parametrize("kind", ["generator", "diffusion"])
def test_draws_and_gradients(kind, key):
    model, seen = build(kind), jax.random.uniform(key, (2, SIZE, SIZE, CHANNELS))
    assert isinstance(model, PoseModel)

    def loss(model, key):
        x = model.draw(seen, key)
        return x.sum(), x

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, x), grads = run(model, key)
    assert x.shape == (2, SIZE, SIZE, 1)
    assert ((x >= 0) & (x <= 1)).all()
    assert float(optax.global_norm(grads)) > 0
    # Blocks begin as the identity: one step, and a generator's noise matters too.
    after = jax.tree.map(lambda a, g: a - 0.1 * g, model, grads)
    (_, x), _ = run(after, key)
    (_, other), _ = run(after, jax.random.key(1))
    assert float(jnp.abs(other - x).max()) > 1e-3
    value = model.loss(seen, x, key, x)
    assert value.shape == (2,)
    if kind == "generator":
        np.testing.assert_array_equal(value, 0)
    else:
        # An untrained network predicts no noise: the loss is that noise's variance.
        assert abs(float(value.mean()) - 1) < 4 * np.sqrt(2 / (2 * SIZE**2))


def test_a_canvas_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="size is 20, allowed: a multiple of 8"):
        PoseGenerator(20, 1, width=4, noise_dim=2, rngs=nnx.Rngs(0))
