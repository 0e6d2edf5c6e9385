import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxgen.models import vit
from jaxgen.moe import gates
from jaxgen.moe.layer import MoEContext
from jaxgen.nn import transformer_config


def make(**options):
    stack = transformer_config.TransformerConfig(8, 2, 2, 4, 12, causal=False, **options)
    return vit.ViT(vit.ViTConfig(4, 2, 3, 5, stack), rngs=nnx.Rngs(0))


def test_patches_are_cut_row_by_row():
    x = jnp.arange(2 * 4 * 4 * 3, dtype=jnp.float32).reshape(2, 4, 4, 3)
    got = np.asarray(vit.patches(x, 2))
    for row in range(2):
        for column in range(2):
            square = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert np.array_equal(got[:, 2 * row + column], square.reshape(2, -1))


def test_sees_all_patches_and_where_they_are():
    model, x = make(), jax.random.normal(jax.random.key(0), (1, 4, 4, 3))
    logits, loads = model(x)
    assert logits.shape == (1, 5)
    assert loads is None
    moved = jnp.concatenate([x[:, 2:], x[:, :2]], 1)
    assert not np.allclose(logits, model(moved)[0], atol=1e-6)
    g = jax.grad(lambda x: model(x)[0].sum())(x)
    assert (np.abs(g) > 0).all()


def test_experts():
    model = make(experts=3, expert_every=1)
    _, loads = model(jnp.ones((2, 4, 4, 3)), route=MoEContext(lambda z, _: gates.top_k(z, 2)))
    assert loads.counts.sum(1).tolist() == [16, 16]


def test_refused():
    with pytest.raises(ValueError, match="patch is 3, allowed: a divisor of the size 4"):
        vit.ViTConfig(
            4, 3, 3, 5, transformer_config.TransformerConfig(8, 2, 2, 4, 12, causal=False)
        )
    with pytest.raises(ValueError, match="causal is True"):
        vit.ViTConfig(4, 2, 3, 5, transformer_config.TransformerConfig(8, 2, 2, 4, 12))
