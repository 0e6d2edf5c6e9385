import os
import shutil

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


CUTS = {
    "empty": lambda raw: b"",
    "ten bytes": lambda raw: raw[:10],
    "half": lambda raw: raw[: len(raw) // 2],
    "zeros": lambda raw: bytes(len(raw)),
}


@pytest.mark.parametrize("cut", CUTS)
def test_any_one_damaged_file_falls_back_or_does_not_matter(tmp_path, cut):
    """File by file: what is read is the newest state or the one before it, to the bit, and nothing raises."""
    s, where = make({"data": 1}, 1)
    later, _ = make({"data": 1}, 1, seed=1)
    c = checkpoint.Checkpointer(tmp_path / "whole")
    c.save(10, s, {"next_index": 10})
    c.save(20, later, {"next_index": 20}, {"counts": np.arange(6).reshape(3, 2)})
    c.close()
    fallbacks = 0
    names = sorted(
        p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole/20").rglob("*") if p.is_file()
    )
    assert len(names) >= 5
    for i, name in enumerate(names):
        folder = tmp_path / str(i)
        shutil.copytree(tmp_path / "whole", folder)
        (folder / name).write_bytes(CUTS[cut]((folder / name).read_bytes()))
        c = checkpoint.Checkpointer(folder)
        got, data, history = c.restore(TEMPLATE, where)
        c.close()
        if data == {"next_index": 20}:
            assert_equal(got, later)
            assert history["counts"].tolist() == [[0, 1], [2, 3], [4, 5]]
        else:
            assert_equal(got, s)
            assert data == {"next_index": 10}
            assert history == {}
            assert (folder / "unreadable-20").is_dir()
            fallbacks += 1
    assert fallbacks >= 2


def tree(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_nothing_readable_is_an_error_that_touches_no_file(tmp_path):
    s, where = make({"data": 8})
    c = checkpoint.Checkpointer(tmp_path / "run")
    c.save(5, s, {})
    c.save(6, s, {})
    c.close()
    truncate_all(tmp_path / "run" / "5")
    truncate_all(tmp_path / "run" / "6")
    before = tree(tmp_path)
    for _ in range(2):  # also at the next launch
        with pytest.raises(checkpoint.CheckpointError, match=r"none of the checkpoints \[5, 6\]"):
            checkpoint.Checkpointer(tmp_path / "run").restore(TEMPLATE, where)
    assert tree(tmp_path) == before
    c = checkpoint.Checkpointer(tmp_path / "run", restart=True)
    assert c.restore(TEMPLATE, where) is None
    aside = {("run.set-aside", *k.parts[1:]): v for k, v in before.items()}
    assert {k.parts: v for k, v in tree(tmp_path).items()} == aside
    c.save(5, s, {})
    c.close()
    assert_equal(checkpoint.Checkpointer(tmp_path / "run").restore(TEMPLATE, where).state, s)


def test_a_passing_error_of_the_file_system_loses_nothing(tmp_path, monkeypatch):
    s, where = make({"data": 8})
    c = checkpoint.Checkpointer(tmp_path)
    c.save(5, s, {})
    c.close()

    def stale(*_):
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as m:
        m.setattr(checkpoint.Checkpointer, "_read", stale)
        with pytest.raises(checkpoint.CheckpointError, match=r"--config\.train\.restart=True"):
            checkpoint.Checkpointer(tmp_path).restore(TEMPLATE, where)
    assert_equal(checkpoint.Checkpointer(tmp_path).restore(TEMPLATE, where).state, s)


def test_set_aside_steps_alone_are_refused(tmp_path):
    """What an earlier version moved away: not begun anew without a word."""
    _, where = make({"data": 8})
    (tmp_path / "unreadable-30").mkdir()
    with pytest.raises(checkpoint.CheckpointError, match="unreadable-30 and no readable"):
        checkpoint.Checkpointer(tmp_path).restore(TEMPLATE, where)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda k: nnx.Linear(9, 16, rngs=nnx.Rngs(k)),
            r"kernel is \[\[8, 16\], 'float32'\] there and \[\[9, 16\]",
        ),
        (lambda k: nnx.Embed(8, 16, rngs=nnx.Rngs(k)), "bias is .* and absent in this run"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_and_stays(tmp_path, change, message):
    s, where = make({"data": 8})
    c = checkpoint.Checkpointer(tmp_path)
    c.save(5, s, {})
    c.close()
    before = tree(tmp_path)
    template = jax.eval_shape(lambda k: state.create(change, optax.adam(0.1), k), jax.random.key(0))
    other = mesh_lib.shardings(template, mesh_lib.make_mesh({"data": 8}))
    with pytest.raises(checkpoint.CheckpointMismatch, match=message):
        checkpoint.Checkpointer(tmp_path).restore(template, other)
    assert tree(tmp_path) == before
    assert_equal(checkpoint.Checkpointer(tmp_path).restore(TEMPLATE, where).state, s)


def test_no_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    s, _ = make({"data": 8})
    c = checkpoint.Checkpointer(tmp_path)
    c.save(5, s, {})
    c.wait()
    before = tree(tmp_path)
    real = os.statvfs(tmp_path)

    class Full:
        f_bavail, f_frsize, f_files, f_favail = 10, 4096, real.f_files, real.f_favail

    with monkeypatch.context() as m:
        m.setattr(os, "statvfs", lambda path: Full)
        with pytest.raises(checkpoint.CheckpointError, match=r"40,960 bytes are free.*disk: \[5\]"):
            c.save(6, s, {})
    assert tree(tmp_path) == before
    c.save(6, s, {})
    c.close()
    assert checkpoint.Checkpointer(tmp_path).steps() == [5, 6]
