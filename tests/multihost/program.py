"""A small training run as one of several processes: program.py ID COUNT PORT WORKDIR STEPS."""

import pathlib
import sys
import time

import jax
import numpy as np
import optax
from flax import nnx

from jaxgen import mesh
from jaxgen.data import pipeline
from jaxgen.train import loop
from jaxgen.train.checkpoint import CheckpointError
from jaxgen.train.lock import WorkdirInUse

process, count, port, workdir, steps = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
if int(count) > 1:
    jax.distributed.initialize(f"localhost:{port}", int(count), int(process))


class Slow:
    """Batches that take their time, so that a signal comes in between."""

    def __init__(self, inner):
        self.inner = inner

    def __next__(self):
        time.sleep(0.03)
        return next(self.inner)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def loss(model, extra, batch, key, step):
    noise = jax.random.normal(key, batch["x"].shape)
    return ((model(batch["x"] + noise) - batch["x"]) ** 2).mean(), ({}, extra)


data = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
try:
    for run in ("first", "second"):
        loop.fit(
            run,
            lambda key: nnx.Linear(8, 8, rngs=nnx.Rngs(key)),
            loss,
            optax.adam(1e-2),
            Slow(pipeline.batches({"x": data}, 8, seed=0)),
            jax.random.key(1),
            loop.Options(steps=int(steps), save_every=50, log_every=1),
            workdir=pathlib.Path(workdir),
            mesh=mesh.make_mesh({"data": -1}),
        )
except loop.Preempted as e:
    print(e)
except (WorkdirInUse, CheckpointError) as e:
    print(f"{type(e).__name__}: {e}")
    sys.exit(2)
