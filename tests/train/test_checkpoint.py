import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgen import mesh as mesh_lib
from jaxgen.train import checkpoint, state


def init(key):
    return state.create(
        lambda k: nnx.Linear(8, 16, rngs=nnx.Rngs(k)),
        optax.adam(0.1),
        key,
        extra=lambda: jnp.arange(3.0),
    )


TEMPLATE = jax.eval_shape(init, jax.random.key(0))


def make(shape, devices=8, seed=0):
    mesh = mesh_lib.make_mesh(shape, jax.devices()[:devices])
    return state.create_sharded(init, jax.random.key(seed), mesh)


def arrays(s):
    return {k: np.asarray(v) for k, v in checkpoint.to_arrays(s).items()}


def assert_equal(a, b):
    a, b = arrays(a), arrays(b)
    assert a.keys() == b.keys()
    for name in a:
        assert np.array_equal(a[name], b[name]), name


def test_round_trip_is_exact_and_names_are_readable(tmp_path):
    s, where = make({"data": 8})
    c = checkpoint.Checkpointer(tmp_path)
    assert c.restore(TEMPLATE, where) is None
    c.save(7, s, {"next_index": 3})
    c.close()
    got, data, _ = checkpoint.Checkpointer(tmp_path).restore(TEMPLATE, where)
    assert_equal(got, s)
    assert data == {"next_index": 3}
    assert jax.random.bits(got.key) == jax.random.bits(s.key)
    assert {"model/kernel", "ema/bias", "extra", "key", "step"} <= arrays(s).keys()


@pytest.mark.parametrize(
    ("shape", "devices"), [({"data": 1}, 1), ({"fsdp": 8}, 8), ({"fsdp": 2, "model": 4}, 8)]
)
def test_restores_onto_another_mesh(tmp_path, shape, devices):
    s, _ = make({"data": 2, "fsdp": 4})
    c = checkpoint.Checkpointer(tmp_path)
    c.save(1, s, {})
    c.wait()
    _, where = make(shape, devices)
    got, *_ = c.restore(TEMPLATE, where)
    assert_equal(got, s)
    kernel = got.model.kernel[...]
    assert kernel.sharding.mesh.size == devices
    split = shape.get("fsdp", 1) * shape.get("model", 1)
    assert kernel.addressable_shards[0].data.size * split == kernel.size


def test_keeps_the_newest(tmp_path):
    s, _ = make({"data": 8})
    c = checkpoint.Checkpointer(tmp_path, keep=2)
    for i in (1, 2, 3, 3):
        c.save(i, s, {})
    c.wait()
    assert c.steps() == [2, 3]
    c.close()


def files(folder):
    """The array data: orbax keeps some of it twice, so all of it has to be damaged."""
    return [p for p in (folder / "state").rglob("*") if p.is_file() and p.stat().st_size > 200]


def truncate_all(folder):
    for p in folder.rglob("*"):
        if p.is_file():
            p.write_bytes(p.read_bytes()[: p.stat().st_size // 2])


def truncate_data(folder):
    for p in files(folder):
        p.write_bytes(p.read_bytes()[: p.stat().st_size // 2])


def flip_bytes(folder):
    for p in files(folder):
        raw = bytearray(p.read_bytes())
        for i in range(len(raw) // 4, len(raw), max(1, len(raw) // 50)):
            raw[i] ^= 0xFF
        p.write_bytes(raw)


def remove_data(folder):
    for p in files(folder):
        p.unlink()


@pytest.mark.parametrize("damage", [truncate_all, truncate_data, flip_bytes, remove_data])
def test_damaged_checkpoint_falls_back_and_says_so(tmp_path, caplog, damage):
    s, where = make({"data": 8})
    later, _ = make({"data": 8}, seed=1)
    c = checkpoint.Checkpointer(tmp_path)
    c.save(10, s, {"next_index": 10})
    c.save(20, later, {"next_index": 20})
    c.close()
    damage(tmp_path / "20")
    c = checkpoint.Checkpointer(tmp_path)
    got, data, _ = c.restore(TEMPLATE, where)
    assert_equal(got, s)
    assert data == {"next_index": 10}
    assert "checkpoint of step 20" in caplog.text
    assert "trying the one before it" in caplog.text
    c.save(20, later, {"next_index": 20})  # the step can be written again
    c.wait()
    assert_equal(c.restore(TEMPLATE, where)[0], later)


def test_nothing_readable_is_an_error(tmp_path):
    s, where = make({"data": 8})
    c = checkpoint.Checkpointer(tmp_path)
    c.save(5, s, {})
    c.close()
    truncate_all(tmp_path / "5")
    with pytest.raises(checkpoint.CheckpointError, match=r"none of the checkpoints \[5\]"):
        checkpoint.Checkpointer(tmp_path).restore(TEMPLATE, where)
