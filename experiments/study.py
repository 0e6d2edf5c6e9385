"""What all runs of one launch share, and how each of them is trained."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding

from experiments import systems
from jaxgen import config as config_lib
from jaxgen import launch
from jaxgen import mesh as mesh_lib
from jaxgen.config import Config
from jaxgen.data import pipeline
from jaxgen.errors import ConfigError
from jaxgen.train import aot, loop, state, step


def mesh_shape(config: Config) -> dict[str, int]:
    """Axis sizes as `config.mesh` has them."""
    return {axis: config.mesh[axis] for axis in mesh_lib.AXES}


def check_batch(config: Config, mesh: Mesh, field: str = "train.batch_size") -> None:
    """That batch must divide over the mesh, in each part of an accumulated step."""
    parts = mesh_lib.batch_divisor(mesh) * config.train.accumulate
    size = config_lib.get(config, field)
    if size % parts:
        raise ConfigError(
            field, size, f"a multiple of {parts} (mesh axes data x fsdp, times train.accumulate)"
        )


def optimizer(config: Config, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimiser of `config.train` at the learning rates of `schedule`."""
    t = config.train
    return step.optimizer(schedule, kind=t.optimizer, clip=t.clip, weight_decay=t.weight_decay)


@dataclasses.dataclass(frozen=True)
class Study:
    """Settings, data and mesh of a launch.

    Attributes:
      data: train, valid and test parts, of the type that the study's kind of data has.
      may_train: whether `fit` may train what is not finished; else it raises.
    """

    config: Config
    workdir: pathlib.Path
    mesh: Mesh
    data: dict[str, Any]
    may_train: bool = True

    def fit(
        self,
        system: systems.System,
        seed: int,
        arrays: dict[str, Any],
        *,
        steps: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        judging: bool = False,
        until: int | None = None,
        eval_every: int = 0,
        **hooks: Any,
    ) -> Any:
        """Trains (or finishes, or just restores) a run; returns its EMA weights on the host.

        Args:
          until: stop at this step of the schedule; a later call under another loss goes on from there.
          eval_every: see `loop.Options`.
          hooks: `evaluate` and `adapt` of `loop.fit`.
          judging: the run belongs to an evaluation, so it is trained even where `may_train` is False.
        """
        t = self.config.train
        steps, peak = steps or t.steps, learning_rate or t.learning_rate
        last = steps if until is None else min(until, steps)
        name = f"{system.name}-{seed}"
        may_train = self.may_train or judging
        if not may_train and not self._trained(name, last):
            raise ConfigError("workdir", str(self.workdir), f"one where {name} is trained")
        schedule = step.learning_rate(t.schedule, peak, steps=steps, warmup=t.warmup, final=t.final)
        final = loop.fit(
            name,
            system.build,
            system.loss,
            optimizer(self.config, schedule),
            pipeline.batches(arrays, batch_size or t.batch_size, seed=seed),
            state.run_key(f"{system.key or system.name}-{seed}"),
            loop.Options(
                steps=last,
                eval_every=eval_every,
                save_every=t.save_every,
                log_every=t.log_every,
                keep=t.keep,
                ema_decay=t.ema_decay,
                accumulate=t.accumulate,
                profile_at=t.profile_at,
                profile_steps=t.profile_steps,
                restart=t.restart,
            ),
            workdir=self.workdir,
            mesh=self.mesh,
            extra=system.extra,
            pretrained=system.pretrained,
            **hooks,
        )
        return mesh_lib.to_host(final.model if final.ema is None else final.ema)

    def _trained(self, name: str, last: int) -> bool:
        saved = (self.workdir / "checkpoints" / name).glob("*")
        return any(p.name.isdigit() and int(p.name) >= last for p in saved)


def open_study(
    config: Config, workdir: pathlib.Path, load: Any, *, may_train: bool = True
) -> Study:
    """Mesh and data, checked; from here on the workdir belongs to this config.

    Args:
      load: (config, workdir) -> data.
    """
    mesh = mesh_lib.make_mesh(mesh_shape(config))
    check_batch(config, mesh)
    if "ascent" in config:  # an evaluation that trains too
        check_batch(config, mesh, "ascent.batch_size")
    data = load(config, workdir)
    launch.write_config(workdir, config)
    return Study(config, workdir, mesh, data, may_train)


def compile_step(
    config: Config, make: Callable[[Mesh], systems.System], batch: dict[str, jax.ShapeDtypeStruct]
) -> None:
    """Compiles a system's train step for `mesh.topology` and prints what one chip has to hold.

    Args:
      make: the system on a mesh.
      batch: shapes of a global batch.
    """
    if not config.mesh.topology:
        raise ConfigError("mesh.topology", "", "a TPU slice such as v5p:4x4x4")
    devices = aot.topology_devices(config.mesh.topology)
    mesh = mesh_lib.make_mesh(mesh_shape(config), devices)
    check_batch(config, mesh)
    system, t = make(mesh), config.train
    tx = optimizer(config, optax.constant_schedule(t.learning_rate))
    init = functools.partial(
        state.create, system.build, tx, use_ema=t.ema_decay > 0, extra=system.extra
    )
    template = jax.eval_shape(init, jax.random.key(0))
    where = mesh_lib.shardings(template, mesh)
    with_sharding = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), template, where
    )
    rows = NamedSharding(mesh, mesh_lib.BATCH)
    batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=rows), batch)
    train_step = step.make_step(
        system.loss, tx, ema_decay=t.ema_decay, accumulate=t.accumulate, shardings=where
    )
    report = aot.compile_report(train_step.lower(with_sharding, batch))
    axes = ", ".join(f"{a} {n}" for a, n in mesh.shape.items() if n > 1)
    print(f"topology {config.mesh.topology}: {len(devices)} chips; mesh {axes}")
    print(f"parameters {state.parameter_count(template.model):,}; batch {t.batch_size}")
    for kind in ("memory", "argument", "temporary"):
        print(f"{kind} per chip: {report[f'{kind}_bytes_per_chip'] / 2**20:,.1f} MiB")
    flops = aot.matmul_flops(train_step, with_sharding, batch)
    print(
        f"FLOPs per step (matrix products): {flops / len(devices):.4g} per chip, {flops:.4g} in all"
    )
    for kind, entry in sorted(report["collectives"].items()):
        print(f"{kind}: {entry['count']} a step, {entry['bytes'] / 2**20:,.1f} MiB per chip")
