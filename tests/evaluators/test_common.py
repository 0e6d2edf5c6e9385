"""How evaluators call models: equal batches, padding that is cut off, models that are split over a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxgen import mesh as mesh_lib
from jaxgen.evaluators.common import batched_apply, decode, encode, geometric_mean, mesh_of


@jax.jit
def scaled(factor, x):
    return factor * x


@pytest.mark.parametrize("count", [1, 4, 8, 10])
def test_batches_are_padded_and_cut(count):
    rows = np.arange(float(count))[:, None]
    assert np.array_equal(batched_apply(scaled, 2.0, rows, batch=4), 2 * rows)


def test_all_batches_have_one_size():
    seen = []

    def function(factor, x):
        seen.append(x.shape)
        return x

    batched_apply(function, None, np.zeros((10, 3)), batch=4)
    assert seen == [(4, 3)] * 3


def test_rows_may_be_a_tree():
    rows = {"a": np.arange(5), "b": jnp.arange(10).reshape(5, 2)}
    add = jax.jit(lambda model, x: x["a"] + x["b"].sum(1) + model)
    assert batched_apply(add, 1, rows, batch=2).tolist() == [2, 7, 12, 17, 22]


def test_a_model_is_an_argument_of_one_program():
    """Another model of the same shapes compiles nothing new; its weights are no constants."""
    traced = []

    @jax.jit
    def function(model, x):
        traced.append(x.shape)
        return model(x)

    rows = np.ones((6, 3), np.float32)
    one, two = (nnx.Linear(3, 2, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    outs = [batched_apply(function, model, rows, batch=4) for model in (one, two)]
    assert traced == [(4, 3)]
    assert not np.allclose(outs[0], outs[1])
    assert np.allclose(outs[1], two(rows), atol=1e-6)


@pytest.mark.parametrize("batch", [16, 12])
def test_a_split_model_stays_where_it_is(batch):
    """On eight devices, the batch split over them where it divides, whole where it does not."""
    mesh = mesh_lib.make_mesh({"fsdp": 8})
    model = nnx.Linear(16, 8, rngs=nnx.Rngs(0))
    rows = np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32)
    want = np.asarray(model(rows))
    assert mesh_of(model) is None
    split = jax.device_put(model, NamedSharding(mesh, PartitionSpec("fsdp")))
    assert mesh_of(split) == mesh
    seen = []

    def function(model, x):
        seen.append(x.shape)  # once: all batches are one program
        return jax.jit(lambda m, x: m(x))(model, x)

    got = batched_apply(function, split, rows, batch=batch)
    assert np.allclose(got, want, atol=1e-5)
    assert seen == [(batch, 16)]
    assert split.kernel[...].addressable_shards[0].data.size == 16


def test_whatever_encodes_and_decodes_is_called():
    @jax.tree_util.register_pytree_node_class
    class Shift:
        def encode(self, x):
            return x + 1.0

        def decode(self, z):
            return z - 1.0

        def tree_flatten(self):
            return (), None

        @classmethod
        def tree_unflatten(cls, _, __):
            return cls()

    x = np.arange(6.0).reshape(3, 2)
    z = batched_apply(encode, Shift(), x)
    assert np.array_equal(z, x + 1)
    assert np.array_equal(batched_apply(decode, Shift(), z), x)


def test_geometric_mean():
    assert geometric_mean(0.25, 1.0) == pytest.approx(0.5)
    assert geometric_mean(1.0, 0.5, 0.25) == pytest.approx(0.5)
    assert geometric_mean(1.0, -0.5) == 0.0
