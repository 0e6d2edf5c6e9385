"""What is read off a compiled program, against programs of which it is known."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen import mesh as mesh_lib
from jaxgen.train import aot


def test_collectives_are_counted_with_their_bytes():
    mesh = mesh_lib.make_mesh({"data": 8})
    rows = NamedSharding(mesh, P("data"))
    x = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=rows)
    lowered = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(mesh, P())).lower(x)
    report = aot.compile_report(lowered)
    assert report["collectives"] == {"all-reduce": {"count": 1, "bytes": 32 * 4}}
    assert report["argument_bytes_per_chip"] == 2 * 32 * 4


def test_collectives_in_tuples_with_comments():
    hlo = (
        "  %all-reduce.3 = (f32[8,16]{1,0}, bf16[4]{0}, /*index=2*/f32[2]{0}) all-reduce(%a, %b)\n"
        "  %ag = (f32[2,4]{1,0}, f32[16,4]{1,0}) all-gather-start(%c), dimensions={0}\n"
        "  %done = f32[16,4]{1,0} all-gather-done(%ag)\n"
    )
    assert aot.collectives(hlo) == {
        "all-reduce": {"count": 1, "bytes": 8 * 16 * 4 + 4 * 2 + 2 * 4},
        "all-gather": {"count": 1, "bytes": 16 * 4 * 4},
    }


def test_flops_count_every_turn_of_a_scan():
    w = jnp.ones((7, 16, 16))

    def run(x, w):
        return jax.lax.scan(lambda h, k: (jax.checkpoint(lambda h: h @ k)(h), None), x, w)[0]

    x = jnp.ones((5, 16))
    assert aot.matmul_flops(jax.jit(run), x, w) == 7 * 2 * 5 * 16 * 16
    kernel, image = jnp.ones((3, 3, 4, 6)), jnp.ones((2, 8, 8, 4))

    def convolve(x, k):
        return jax.lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert aot.matmul_flops(convolve, image, kernel) == 2 * 2 * 8 * 8 * 6 * 9 * 4


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
    assert aot.collectives(hlo) == {
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
    assert aot.collectives(hlo) == {"ragged-all-to-all": {"count": 6, "bytes": 6 * 96}}


def test_flops_of_ragged_products_and_of_a_branch():
    x, w, sizes = jnp.zeros((10, 4)), jnp.zeros((3, 4, 5)), jnp.array([2, 3, 5])
    assert aot.matmul_flops(jax.lax.ragged_dot, x, w, sizes) == 2 * 10 * 4 * 5
    gradients = jax.grad(lambda x, w: jax.lax.ragged_dot(x, w, sizes).sum(), (0, 1))
    assert aot.matmul_flops(gradients, x, w) == 3 * 2 * 10 * 4 * 5

    def either(a, b):
        return jax.lax.cond(a.sum() > 0, lambda: a @ b, lambda: a[:, :1] @ b[:1])

    assert aot.matmul_flops(either, jnp.zeros((2, 3)), jnp.zeros((3, 4))) == 2 * 2 * 3 * 4


def test_flops_inside_shard_map_are_those_of_all_devices():
    mesh = mesh_lib.make_mesh({"data": 8})
    split = jax.shard_map(
        lambda a, b: a @ b, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data")
    )
    x, w = jnp.zeros((16, 5)), jnp.zeros((5, 3))
    assert aot.matmul_flops(split, x, w) == 2 * 16 * 5 * 3


def test_what_a_gradient_keeps():
    """A sine keeps a cosine, a product its two sides: parameters are not counted, nor what is made again."""

    def loss(w, x):
        # Primitives: of functions that jax jits itself, caches say what is kept.
        return jax.lax.sin(jax.lax.dot(x, w)).sum(), None

    w, x = jax.ShapeDtypeStruct((5, 3), jnp.float32), jax.ShapeDtypeStruct((7, 5), jnp.float32)
    assert aot.kept_bytes(loss, w, x) == 4 * (7 * 3 + 7 * 5)
    assert aot.kept_bytes(jax.checkpoint(loss), w, x) == 4 * 7 * 5


def test_bytes_of_split_arrays():
    mesh = mesh_lib.make_mesh({"fsdp": 4, "model": 2})
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp", "model"))
    half = jax.ShapeDtypeStruct((8, 6), jnp.bfloat16, sharding=place)
    assert aot.split_bytes(half, [half]) == 2 * 2 * (2 * 3)


def test_reduce_scatters_of_tpu_programs():
    """A fusion of an all-reduce and the part that a device keeps."""
    hlo = """
%all-reduce-scatter.4 (input.4: f32[512,256]) -> f32[512,64] {
  %input.4 = f32[512,256]{1,0} parameter(0)
  %all-reduce.9 = f32[512,256]{1,0} all-reduce(%input.4), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %dynamic-slice.1 = f32[512,64]{1,0} dynamic-slice(%all-reduce.9, %a, %b)
}

ENTRY %main.1 (p: f32[512,256]) -> f32[512,64] {
  ROOT %fusion.8 = f32[512,64]{0,1} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.4
}
"""
    assert aot.collectives(hlo) == {"reduce-scatter": {"count": 1, "bytes": 4 * 512 * 64}}
