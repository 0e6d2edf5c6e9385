import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
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


def test_collectives_are_counted_with_their_bytes():
    mesh = mesh_lib.make_mesh({"data": 8})
    rows = NamedSharding(mesh, P("data"))
    x = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=rows)
    lowered = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(mesh, P())).lower(x)
    report = mesh_lib.compile_report(lowered)
    assert report["collectives"] == {"all-reduce": {"count": 1, "bytes": 32 * 4}}
    assert report["argument_bytes_per_chip"] == 2 * 32 * 4


def test_collectives_in_tuples_with_comments():
    hlo = (
        "  %all-reduce.3 = (f32[8,16]{1,0}, bf16[4]{0}, /*index=2*/f32[2]{0}) all-reduce(%a, %b)\n"
        "  %ag = (f32[2,4]{1,0}, f32[16,4]{1,0}) all-gather-start(%c), dimensions={0}\n"
        "  %done = f32[16,4]{1,0} all-gather-done(%ag)\n"
    )
    assert mesh_lib.collectives(hlo) == {
        "all-reduce": {"count": 1, "bytes": 8 * 16 * 4 + 4 * 2 + 2 * 4},
        "all-gather": {"count": 1, "bytes": 16 * 4 * 4},
    }


def test_flops_count_every_turn_of_a_scan():
    w = jnp.ones((7, 16, 16))

    def run(x, w):
        return jax.lax.scan(lambda h, k: (jax.checkpoint(lambda h: h @ k)(h), None), x, w)[0]

    x = jnp.ones((5, 16))
    assert mesh_lib.matmul_flops(jax.jit(run), x, w) == 7 * 2 * 5 * 16 * 16
    kernel, image = jnp.ones((3, 3, 4, 6)), jnp.ones((2, 8, 8, 4))

    def convolve(x, k):
        return jax.lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert mesh_lib.matmul_flops(convolve, image, kernel) == 2 * 2 * 8 * 8 * 6 * 9 * 4


def test_collectives_in_a_loop_count_as_often_as_it_turns():
    hlo = """
%body.1 (p: f32[8]) -> f32[8] {
  %ag = f32[64]{0} all-gather(%p), dimensions={0}
}
ENTRY %main (a: f32[8]) -> f32[8] {
  %w = f32[8] while(%a), condition=%c, body=%body.1, backend_config={"known_trip_count":{"n":"5"}}
  %ar = (f32[4], f32[4]) all-reduce(%a, %a), to_apply=%add
}
"""
    assert mesh_lib.collectives(hlo) == {
        "all-gather": {"count": 5, "bytes": 5 * 256},
        "all-reduce": {"count": 1, "bytes": 32},
    }


def test_loops_without_a_known_count_and_collectives_that_run_beside():
    """As TPU programs are written: the bound stands in the condition, the collective in a call."""
    hlo = """
%cond.2 (p: s32[]) -> pred[] {
  %constant.7 = s32[]{:T(128)} constant(6)
  ROOT %lt = pred[] compare(%p, %constant.7), direction=LT
}
%async.3 (p: bf16[4,8]) -> bf16[6,8] {
  ROOT %r = bf16[6,8]{1,0} ragged-all-to-all(%p), channel_id=1
}
%body.4 (p: s32[]) -> s32[] {
  %start = (bf16[4,8], bf16[6,8]) async-start(%p), calls=%async.3
}
ENTRY %main (a: s32[]) -> s32[] {
  %w = s32[] while(%a), condition=%cond.2, body=%body.4
}
"""
    assert mesh_lib.collectives(hlo) == {"ragged-all-to-all": {"count": 6, "bytes": 6 * 96}}


def test_flops_of_ragged_products_and_of_a_branch():
    x, w, sizes = jnp.zeros((10, 4)), jnp.zeros((3, 4, 5)), jnp.array([2, 3, 5])
    assert mesh_lib.matmul_flops(jax.lax.ragged_dot, x, w, sizes) == 2 * 10 * 4 * 5
    gradients = jax.grad(lambda x, w: jax.lax.ragged_dot(x, w, sizes).sum(), (0, 1))
    assert mesh_lib.matmul_flops(gradients, x, w) == 3 * 2 * 10 * 4 * 5

    def either(a, b):
        return jax.lax.cond(a.sum() > 0, lambda: a @ b, lambda: a[:, :1] @ b[:1])

    assert mesh_lib.matmul_flops(either, jnp.zeros((2, 3)), jnp.zeros((3, 4))) == 2 * 2 * 3 * 4


def test_flops_inside_shard_map_are_those_of_all_devices():
    mesh = mesh_lib.make_mesh({"data": 8})
    split = jax.shard_map(
        lambda a, b: a @ b, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data")
    )
    x, w = jnp.zeros((16, 5)), jnp.zeros((5, 3))
    assert mesh_lib.matmul_flops(split, x, w) == 2 * 16 * 5 * 3
