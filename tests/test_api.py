"""`import jaxgen` alone: what it costs, what is there, and the uses that the documentation shows."""

import importlib
import pathlib
import pkgutil
import subprocess
import sys

import pytest

import jaxgen

PACKAGES = sorted(
    name
    for _, name, is_package in pkgutil.walk_packages(jaxgen.__path__, "jaxgen.")
    if is_package and not name.rpartition(".")[2].startswith("_")
)


def in_a_clean_process(folder, code):
    """Runs code where jaxgen is the only package of this repository; returns what it printed."""
    (folder / "jaxgen").symlink_to(pathlib.Path(jaxgen.__file__).parent)
    blocked = "import sys; sys.modules.update(experiments=None, configs=None, tests=None)\n"
    path = f"sys.path.insert(0, {str(folder)!r})\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", blocked + path + code],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_loads_no_jax(tmp_path):
    """So it takes a few hundredths of a second: all that is heavy waits until it is used."""
    code = "import jaxgen; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = set(in_a_clean_process(tmp_path, code).split())
    assert "jaxgen" in loaded
    assert not loaded & {"jax", "jaxlib", "numpy", "flax", "optax", "diffrax", "jaxtyping"}


def test_listing_a_package_loads_nothing_of_it(tmp_path):
    code = """
import jaxgen
assert {"losses", "moe", "latent_ode"} <= set(dir(jaxgen)) == set(jaxgen.__all__)
assert {"eisl", "eisl_loss"} <= set(dir(jaxgen.losses))
assert "jax" not in sys.modules
try:
    jaxgen.losses.no_such_loss
except AttributeError as e:
    print(e)
"""
    told = in_a_clean_process(tmp_path, code)
    assert told == "module 'jaxgen.losses' has no attribute 'no_such_loss'\n"


@pytest.mark.parametrize("name", ["jaxgen", *PACKAGES])
def test_every_name_of_a_list_is_there_and_means_one_thing(name):
    package = importlib.import_module(name)
    modules = {m.name for m in pkgutil.iter_modules(package.__path__)}
    assert list(package.__all__) == sorted(set(package.__all__))
    for entry in package.__all__:
        if name == "jaxgen" and entry in {"models", "evaluators"} - modules:
            continue  # listed before they are there
        value = getattr(package, entry)
        # The import system sets a module as an attribute of its package, over what has its name.
        assert (entry in modules) == (type(value) is type(sys))
        if entry in modules:
            assert value.__name__ == f"{name}.{entry}"
        else:
            assert value.__module__.startswith(f"{name}.")


FIVE_LINES = """
import os
os.environ["JAX_PLATFORMS"] = "cpu"
from functools import partial

import jaxgen
import jax, jax.numpy as jnp
from flax import nnx

key = jax.random.key(0)
logits, targets = jax.random.normal(key, (2, 6, 9)), jnp.ones((2, 6), int)
mask = jnp.ones((2, 6), bool)

# EISL
loss = jaxgen.losses.eisl_loss(logits, targets, ngrams=(2, 3, 4), targets_mask=mask).mean()
assert jnp.isfinite(loss)

# LatentOps
energy = jaxgen.latent_ode.energy
sentiment = energy.classifier(lambda z: z[:2], ("negative", "positive"))
tense = energy.classifier(lambda z: z[2:5], ("past", "present", "future"))
z = jax.random.normal(key, (3, 5))
end, stats = jaxgen.latent_ode.solve(
    energy.compose([(sentiment, "positive", 1.0), (tense, "future", 1.0)]), z
)
assert (end[:, 1] > z[:, 1]).all() and not stats.failed.any()

# DTS-Gate
gates, MoEContext = jaxgen.moe.gates, jaxgen.moe.MoEContext
moe = MoEContext(
    gate=partial(gates.dts, temperature=gates.temperature_at(3, decay_steps=2000), budget=4)
)
layer = jaxgen.moe.MoE(8, 5, 12, rngs=nnx.Rngs(0))
y, routed = layer(z, moe, key=key)
assert y.shape == z.shape and routed.counts.sum() == 12

# FlexMoE
shape, chip = jaxgen.moe.placement.simulator.Shape(512, 2048, 4096), "v5e"
costs = shape.costs(jaxgen.moe.placement.simulator.DEVICES[chip])
place = jaxgen.moe.placement.AdaptivePlacement("flexmoe", slots=4, costs=costs)
state = jaxgen.train.TrainState(0, layer, None, (), place.init_extra(4, 1), key)
state = place(1, state)
assert isinstance(place, jaxgen.train.Adapt)

# LoRA
lora = jaxgen.peft.lora
wrapped = lora.wrap(layer, 2, 4.0, "router", key)
assert lora.delta(wrapped)["router"].shape == (5, 8)

assert "experiments" not in {m for m, value in sys.modules.items() if value is not None}
print("done")
"""


def test_the_uses_that_the_documentation_shows(tmp_path):
    assert in_a_clean_process(tmp_path, FIVE_LINES) == "done\n"
