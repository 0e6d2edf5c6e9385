"""Eight forced CPU devices, and shape checks of every annotated function while tests run."""

import atexit
import collections
import gc
import os
import pathlib
import shutil
import sys
import tempfile

from tests.processes import XLA_FLAGS

os.environ["JAX_PLATFORMS"] = "cpu"
_given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = f"{_given} {XLA_FLAGS} --xla_force_host_platform_device_count=8"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Workers and launched programs compile the same functions: each is compiled once a session.
    _cache = tempfile.mkdtemp(prefix="jaxgen-tests-")
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from jaxtyping import install_import_hook  # noqa: E402

_hook = install_import_hook("jaxgen", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Compiled programs of a module go with it; they would fill the memory by and by."""
    yield
    jax.clear_caches()


@pytest.fixture
def one_device(monkeypatch):
    """Studies of this process run on one of the eight devices: what is tested is not their mesh."""
    from jaxgen import mesh

    make = mesh.make_mesh
    one = lambda shape, devices=None, **more: make(shape, devices or jax.devices()[:1], **more)  # noqa: E731
    monkeypatch.setattr(mesh, "make_mesh", one)


def pytest_xdist_auto_num_workers():
    """A worker for each core that this process may use; at most eight, since each takes up to 5 GB."""
    affinity = getattr(os, "sched_getaffinity", None)
    return min(8, len(affinity(0)) if affinity else os.cpu_count() or 1)


def pytest_collection_finish():
    """Tracing makes objects by the million: a seventh of its time went into looking for garbage among them and imports."""
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


def pytest_collection_modifyitems(items):
    """Files with most slow tests first, so that no worker is left with one of them at the end."""
    slow = collections.Counter(i.path for i in items if i.get_closest_marker("slow"))
    items.sort(key=lambda item: (-slow[item.path], str(item.path)))
