"""A launch's runs from its config: mesh, options, data; and the compiler's report for a TPU slice."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Generic, TypeVar

import jax
import optax
from jax.sharding import Mesh, NamedSharding

from experiments.common.fields import batch_fields
from jaxgen import config as config_lib
from jaxgen import fsdp, launch
from jaxgen import mesh as mesh_lib
from jaxgen.config import Config
from jaxgen.errors import ConfigError
from jaxgen.train import aot, state, step
from jaxgen.train.runs import Runs, TrainOptions, TrainTask

Data = TypeVar("Data")


def mesh_of(config: Config, topology: str = "") -> Mesh:
    """The mesh of `config.mesh`, on this machine's devices or on those of a TPU slice; the batch divides.

    Raises:
      ConfigError: axes or a batch that do not fit.
    """
    slices = config.mesh.slices
    devices = aot.topology_devices(topology, slices=max(slices, 1)) if topology else None
    axes = {axis: config.mesh[axis] for axis in mesh_lib.AXES}
    mesh = mesh_lib.make_mesh(axes, devices, slices=slices)
    parts = mesh_lib.batch_divisor(mesh) * config.train.accumulate
    for field in ("train.batch_size",) if topology else batch_fields(config):
        size = config_lib.get(config, field)
        if size % parts:
            allowed = f"a multiple of {parts} (mesh axes data x fsdp, times train.accumulate)"
            raise ConfigError(field, size, allowed)
    return mesh


def options_of(config: Config) -> TrainOptions:
    """The fields of `config.train` that all runs have."""
    return TrainOptions(**{f.name: config.train[f.name] for f in dataclasses.fields(TrainOptions)})


@dataclasses.dataclass(frozen=True)
class Study(Generic[Data]):
    """A launch: its config, its data, and the runs on them."""

    config: Config
    data: Data
    runs: Runs

    @property
    def workdir(self) -> pathlib.Path:
        """Where everything is written."""
        return self.runs.workdir


def open_study(
    config: Config,
    workdir: pathlib.Path,
    load: Callable[[Config, pathlib.Path], Data],
    *,
    may_train: bool = True,
) -> Study[Data]:
    """Mesh and data, checked; from here on the workdir belongs to this config."""
    mesh = mesh_of(config)
    data = load(config, workdir)
    launch.write_config(workdir, config)
    return Study(config, data, Runs(workdir, mesh, options_of(config), may_train))


def seeds_of(config: Config) -> range:
    """The seeds of a launch."""
    return range(config.seed, config.seed + config.seeds)


def compile_task(
    config: Config, make: Callable[[Mesh], TrainTask], batch: dict[str, jax.ShapeDtypeStruct]
) -> None:
    """Compiles a task's train step for `mesh.topology` and prints what one chip has to hold.

    Args:
      make: the task on a mesh.
      batch: shapes of a global batch.
    """
    if not config.mesh.topology:
        raise ConfigError("mesh.topology", "", "a TPU slice such as v5p:4x4x4")
    mesh = mesh_of(config, config.mesh.topology)
    task, options = make(mesh), options_of(config)
    tx = options.make_optimizer(optax.constant_schedule(options.learning_rate), task.rates)
    init = functools.partial(
        state.create,
        task.build,
        tx,
        use_ema=options.ema_decay > 0,
        extra=task.extra,
        frozen=task.frozen,
    )
    template = jax.eval_shape(init, jax.random.key(0))
    where = mesh_lib.shardings(template, mesh)
    with_sharding = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), template, where
    )
    rows = NamedSharding(mesh, mesh_lib.BATCH)
    batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=rows), batch)
    train_step = step.make_step(
        task.loss,
        tx,
        ema_decay=options.ema_decay,
        accumulate=options.accumulate,
        shardings=where,
        frozen=task.frozen,
    )
    report = aot.compile_report(train_step.lower(with_sharding, batch))
    axes = ", ".join(f"{a} {n}" for a, n in mesh.shape.items() if n > 1)
    print(f"topology {config.mesh.topology}: {mesh.size} chips; mesh {axes}")
    print(f"parameters {state.parameter_count(template.model):,}; batch {options.batch_size}")
    for kind in ("memory", "argument", "temporary"):
        print(f"{kind} per chip: {report[f'{kind}_bytes_per_chip'] / 2**20:,.1f} MiB")
    block, tables, rest = fsdp.gathered_bytes(template.model, mesh)
    print(
        f"gathered parameters per chip: {block / 2**20:,.1f} MiB of one turn of blocks, "
        f"at most {tables / 2**20:,.1f} MiB of tables for logits, {rest / 2**20:,.1f} MiB of all else"
    )
    split = aot.split_bytes(with_sharding, with_sharding.model)
    print(f"state and gradients per chip, by formula: {split / 2**20:,.1f} MiB")
    kept = aot.kept_bytes(
        task.loss, template.model, template.extra, batch, template.key, template.step
    )
    kept //= mesh_lib.batch_divisor(mesh) * options.accumulate
    print(f"activations kept for the gradient per chip, by formula: {kept / 2**20:,.1f} MiB")
    flops = aot.matmul_flops(train_step, with_sharding, batch)
    print(f"FLOPs per step (matrix products): {flops / mesh.size:.4g} per chip, {flops:.4g} in all")
    for kind, entry in sorted(report["collectives"].items()):
        print(f"{kind}: {entry['count']} a step, {entry['bytes'] / 2**20:,.1f} MiB per chip")
