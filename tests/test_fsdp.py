"""Split parameters against one device: gradients of transformers and of convolutions, and what comes together."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgen import fsdp
from jaxgen import mesh as mesh_lib
from jaxgen.losses.cross_entropy import cross_entropy
from jaxgen.models import gpt2
from jaxgen.models.image_autoencoder import ImageAutoencoder
from jaxgen.moe import gates
from jaxgen.moe.layer import MoEContext
from jaxgen.train import aot, state, step

MESH = {"data": 2, "fsdp": 2, "model": 2}


def text(**options):
    """(build, loss, batch) of a small GPT."""
    options = {"width": 32, "depth": 4, "heads": 4, "max_positions": 16, "init_std": 0.2} | options
    spec = gpt2.config(64, **options)

    def loss(model, extra, batch, key, at):
        x = batch["x"]
        route = MoEContext(lambda logits, _: gates.top_k(logits, 2))
        h, _, loads = model.hidden(x[:, :-1], route=route)
        value = cross_entropy(model.logits(h), x[:, 1:]).mean()
        return value if loads is None else value + 0.01 * loads.balance.sum(), ({}, extra)

    x = jax.random.randint(jax.random.key(1), (16, 17), 0, 64)
    return lambda key: gpt2.GPT(spec, rngs=nnx.Rngs(key)), loss, {"x": np.asarray(x)}


def images():
    """(build, loss, batch) of convolutions, a stem of linear layers, and a latent denoiser."""

    def build(key):
        sizes = {"latent_dim": 32, "width": 8, "denoiser_width": 64}
        return ImageAutoencoder((8, 8, 1), rngs=nnx.Rngs(key), **sizes)

    def loss(model, extra, batch, key, at):
        z = model.encode(batch["x"])
        noise = model.denoise(z, jnp.full(len(z), 5.0))
        value = (noise**2).mean() - 1e-3 * model.decode_logprob(batch["x"], z).mean()
        return value, ({}, extra)

    x = jax.random.uniform(jax.random.key(1), (16, 8, 8, 1))
    return build, loss, {"x": np.asarray(x)}


CASES = {
    "scan": lambda: text(scan=True, remat=True),
    "scan without remat": lambda: text(scan=True),
    "remat": lambda: text(remat=True),
    "list": text,
    "mixtures": lambda: text(scan=True, remat=True, experts=4, mlp_bias=False),
    "convolutions": images,
}


# The last: there XLA's gradients of convolutions are wrong where nothing is gathered.
@pytest.mark.parametrize(
    ("name", "shape"),
    [*((name, MESH) for name in CASES), ("convolutions", {"fsdp": 4, "model": 2})],
)
def test_gradients_are_those_of_one_device(name, shape):
    """By the update of plain SGD, so of the step that training takes."""
    build, loss, batch = CASES[name]()
    rate = 1.0
    init = functools.partial(state.create, build, optax.sgd(rate), use_ema=False)
    one = jax.jit(init)(jax.random.key(0))
    before = jax.device_get(one.model)
    want = jax.device_get(step.make_step(loss, optax.sgd(rate))(one, batch)[0].model)
    mesh = mesh_lib.make_mesh(shape)
    split, where = state.create_sharded(init, jax.random.key(0), mesh)
    run = step.make_step(loss, optax.sgd(rate), shardings=where)
    got = jax.device_get(run(split, mesh_lib.put_batch(batch, mesh))[0].model)
    size = max(
        np.abs(a - b).max()
        for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(want), strict=True)
    )
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(want), jax.tree.leaves(got), strict=True
    ):
        # Sums in another order, of float32.
        assert np.abs(a - b).max() < 2e-5 * size + 1e-6, mesh_lib.path_name(path)


def compiled(build, loss, batch, shape):
    """(shapes of the state, mesh, compile report) of one training step by Adam."""
    tx, mesh = optax.adam(1e-3), mesh_lib.make_mesh(shape)
    init = functools.partial(state.create, build, tx, use_ema=False)
    template = jax.eval_shape(init, jax.random.key(0))
    where = mesh_lib.shardings(template, mesh)

    def placed(a, s):
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s)

    rows = jax.sharding.NamedSharding(mesh, mesh_lib.BATCH)
    shapes = jax.tree.map(placed, template, where)
    run = step.make_step(loss, tx, shardings=where)
    lowered = run.lower(shapes, jax.tree.map(lambda a: placed(a, rows), batch))
    return shapes, mesh, aot.compile_report(lowered)


def test_no_more_than_a_block_comes_together():
    """Gradients split, and a few blocks beside them: two in flight, and the gradient of one."""
    sizes = {"width": 128, "depth": 12, "heads": 2, "scan": True, "remat": True}
    shapes, mesh, report = compiled(*text(**sizes), {"fsdp": 8})
    block, table, rest = fsdp.gathered_bytes(shapes.model, mesh)
    assert (block, table, rest) == (4 * 12 * 128**2, 4 * 64 * 128, 4 * 16 * 128)
    gradients = aot.split_bytes(shapes.model)
    whole = 4 * state.parameter_count(shapes.model)
    assert 8 * gradients == pytest.approx(whole, rel=0.2)  # biases and norms are on every device
    temporary = report["temporary_bytes_per_chip"]
    assert temporary < gradients + 4 * (block + table + rest) < 0.6 * whole


def test_gathered_bytes_of_lists_mixtures_and_half_precision():
    mesh = mesh_lib.make_mesh({"fsdp": 4, "model": 2})

    def of(**options):
        model = jax.eval_shape(text(**options)[0], jax.random.key(0))
        return fsdp.gathered_bytes(model, mesh)

    block = 4 * 12 * 32**2 // 2  # float32, split over `model`
    assert of() == of(scan=True) == (block, 4 * 64 * 32 // 2, 4 * 16 * 32 // 2)
    assert of(scan=True, dtype="bfloat16")[0] == block // 2
    # A turn of two blocks: in the second the router stays float32.
    experts = {"experts": 4, "mlp_bias": False, "dtype": "bfloat16"}
    two = (4 + 8) * 32**2 + (4 + 4 * 8) * 32**2 + 2 * 32 * 4
    assert of(scan=True, **experts)[0] == two


def test_outside_a_step_nothing_is_asked_for():
    model = gpt2.GPT(gpt2.config(8, width=8, depth=1, heads=1, max_positions=4), rngs=nnx.Rngs(0))
    assert fsdp.active() is None
    assert fsdp.gather(model) is model
    with fsdp.over(mesh_lib.make_mesh({"data": 8})):
        assert fsdp.active() is None
    with fsdp.over(mesh_lib.make_mesh({"data": 4, "fsdp": 2})):
        assert fsdp.active() is not None
