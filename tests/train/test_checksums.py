import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen import mesh as mesh_lib
from jaxgen.train import checkpoint, checksums


def split(a, *spec):
    mesh = mesh_lib.make_mesh({"data": 2, "fsdp": 2, "model": 2})
    return jax.device_put(a, NamedSharding(mesh, P(*spec)))


def arrays():
    a = jnp.arange(48, dtype=jnp.float32).reshape(4, 12)
    return {"split": split(a, "fsdp", "model"), "whole": split(a), "step": jnp.int32(3)}


def sums_of(held):
    return {n: {place: checksums.crc(a) for place, a in of.items()} for n, of in held.items()}


def test_each_piece_is_held_once():
    held = checksums.pieces(arrays())
    assert sorted(held["split"]) == ["0:2,0:6", "0:2,6:12", "2:4,0:6", "2:4,6:12"]
    assert sorted(held["whole"]) == ["0:4,0:12"]
    assert sorted(held["step"]) == [""]
    want = np.arange(48.0).reshape(4, 12)[2:, :6]
    assert np.array_equal(held["split"]["2:4,0:6"], want)


def test_copies_outlive_the_arrays():
    a = {"x": jnp.arange(5.0) * 1}
    held = checksums.pieces(a)
    jax.jit(lambda x: x + 1, donate_argnums=0)(a["x"])
    assert np.array_equal(held["x"]["0:5"], np.arange(5.0))


@pytest.mark.parametrize("spec", [(), ("model",), ("fsdp", "model"), (None, "fsdp")])
def test_a_changed_bit_is_found_on_any_mesh(spec):
    sums = sums_of(checksums.pieces(arrays()))
    good = np.arange(48, dtype=np.float32).reshape(4, 12)
    checksums.check({"split": split(good, *spec)}, sums)
    bad = good.copy()
    bad[3, 11] = np.nextafter(bad[3, 11], np.float32(0))
    with pytest.raises(ValueError, match="array split does not match its checksum"):
        checksums.check({"split": split(bad, *spec)}, sums)


def test_they_are_taken_on_another_thread_and_committed(tmp_path, monkeypatch):
    threads = []
    crc = checksums.crc

    def noted(a):
        threads.append(threading.current_thread())
        return crc(a)

    monkeypatch.setattr(checksums, "crc", noted)
    c = checkpoint.Checkpointer(tmp_path)
    c.save(5, arrays(), {})
    c.close()
    assert threads
    assert threading.main_thread() not in threads
    kept = json.loads((tmp_path / "5" / "crc32" / "0.json").read_text())
    assert kept["sums"] == sums_of(checksums.pieces(arrays()))


def test_sums_that_are_damaged_or_gone(tmp_path):
    with pytest.raises(ValueError, match="crc32 holds 0 files of 1"):
        checksums.read(tmp_path, 1)
    assert checksums.read(tmp_path) == {}  # of a checkpoint of an older version
    file = tmp_path / "0.json"
    file.write_text(json.dumps({"sums": {"a": {"": 1}}, "crc32": 0}))
    with pytest.raises(ValueError, match="json does not match"):
        checksums.read(tmp_path, 1)
