import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from jaxgen import mesh as mesh_lib
from jaxgen.errors import ConfigError


def test_axis_sizes_fill_in_the_rest():
    assert mesh_lib.axis_sizes({"data": -1, "fsdp": 2}, 8) == {
        "data": 4,
        "fsdp": 2,
        "expert": 1,
        "model": 1,
    }


@pytest.mark.parametrize("shape", [{"data": 3}, {"data": -1, "fsdp": 3}, {"data": 0}, {"data": 16}])
def test_impossible_meshes(shape):
    with pytest.raises(ConfigError, match="product 8"):
        mesh_lib.axis_sizes(shape, 8)


def test_rules_follow_name_rank_and_divisibility():
    mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 2, "model": 2})
    spec = mesh_lib.partition_spec
    assert spec("a/kernel", (6, 8), mesh) == P("fsdp", "model")
    assert spec("a/kernel", (5, 8), mesh) == P(None, "model")
    assert spec("conv/kernel", (3, 3, 4, 8), mesh) == P(None, None, None, "fsdp")
    assert spec("wte/embedding", (10, 4), mesh) == P("model", "fsdp")
    assert spec("a/bias", (8,), mesh) == P(None)
    one = mesh_lib.make_mesh({"data": 1}, jax.devices()[:1])
    assert spec("a/kernel", (6, 8), one) == P(None, None)


def test_moments_follow_their_parameter():
    import optax

    mesh = mesh_lib.make_mesh({"data": 4, "fsdp": 2})
    model = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
    where = mesh_lib.shardings(optax.adam(0.1).init(model), mesh)
    assert where[0].mu.kernel.value.spec == P("fsdp", None)
    assert where[0].count.spec == P()


def test_put_batch_splits_rows_and_to_host_collects():
    mesh = mesh_lib.make_mesh({"data": 4, "fsdp": 2})
    x = np.arange(32.0).reshape(16, 2)
    batch = mesh_lib.put_batch({"x": x}, mesh)["x"]
    assert batch.addressable_shards[3].data.shape == (2, 2)
    assert np.array_equal(mesh_lib.to_host(batch), x)


@dataclasses.dataclass(frozen=True)
class Chip:
    """As much of a device as meshes look at."""

    id: int
    slice_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"


@pytest.mark.parametrize(
    ("sizes", "across"),
    [((4, 2, 1, 2), (2, 1, 1, 1)), ((1, 8, 1, 2), (1, 2, 1, 1)), ((1, 1, 8, 2), (1, 1, 2, 1))],
)
def test_the_first_axes_run_across_slices(sizes, across):
    """Neighbours along an axis are of one slice, but where that axis is the one between slices."""
    chips = [Chip(i, slice_index=i % 2) for i in range(16)]
    slices = np.vectorize(lambda d: d.slice_index)(mesh_lib.device_grid(sizes, chips))
    assert slices.shape == sizes
    blocks = slices.reshape([n for s, a in zip(sizes, across, strict=True) for n in (a, s // a)])
    inside = tuple(range(1, 8, 2))
    assert np.array_equal(blocks.min(inside), blocks.max(inside))
    assert sorted(blocks.min(inside).ravel()) == [0, 1]


def test_six_slices_are_shared_out_over_two_axes():
    chips = [Chip(i, slice_index=i // 4) for i in range(24)]
    slices = np.vectorize(lambda d: d.slice_index)(mesh_lib.device_grid((2, 6, 1, 2), chips))
    assert (slices == slices[..., :1]).all()
    assert {len(set(part.ravel())) for part in slices} == {3}  # three of the six in each half


def test_slices_of_different_sizes():
    chips = [Chip(i, slice_index=i // 6) for i in range(8)]
    with pytest.raises(ConfigError, match="slices with the same number of devices"):
        mesh_lib.device_grid((8, 1, 1, 1), chips)


def test_devices_that_say_nothing_are_cut_into_the_slices_that_are_given():
    mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 4}, slices=2)
    ids = np.vectorize(lambda d: d.id)(mesh.devices)
    assert sorted(ids[0].ravel()) == [0, 1, 2, 3]
    inner = mesh_lib.make_mesh({"fsdp": 8}, slices=2)  # no other axis can run across
    assert sorted(d.id for d in inner.devices.ravel()[:4]) == [0, 1, 2, 3]


@pytest.mark.parametrize(("slices", "allowed"), [(3, "a divisor of 8"), (16, "a divisor of 8")])
def test_impossible_slices(slices, allowed):
    with pytest.raises(ConfigError, match=f"mesh.slices is {slices}, allowed: {allowed}"):
        mesh_lib.make_mesh({"data": 8}, slices=slices)
    chips = [Chip(i, slice_index=i % 2) for i in range(8)]
    with pytest.raises(ConfigError, match="allowed: 2, as the devices say"):
        mesh_lib.device_grid((8, 1, 1, 1), chips, slices=4)


@pytest.mark.slow
def test_a_split_over_slices_trains_as_one_device():
    from tests.train.test_step import run_curve

    want = run_curve({"data": 1}, 1)
    assert np.allclose(run_curve({"data": 2, "fsdp": 4}, 8, slices=2), want, rtol=1e-5)
