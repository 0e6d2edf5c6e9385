"""What all runs of one launch share, and how each of them is trained."""

import dataclasses
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh

from experiments import systems
from jaxgen import config as config_lib
from jaxgen import launch
from jaxgen import mesh as mesh_lib
from jaxgen.config import Config
from jaxgen.data import pipeline
from jaxgen.errors import ConfigError
from jaxgen.train import loop, step

_c = config_lib
RULES: dict[str, config_lib.Rule] = {
    "seeds": _c.at_least(1),
    "train.steps": _c.at_least(1),
    "train.batch_size": _c.at_least(1),
    "train.learning_rate": _c.POSITIVE,
    "train.schedule": _c.one_of(*step.SCHEDULES),
    "train.warmup": _c.NON_NEGATIVE,
    "train.final": _c.NON_NEGATIVE,
    "train.clip": _c.NON_NEGATIVE,
    "train.weight_decay": _c.NON_NEGATIVE,
    "train.ema_decay": _c.FRACTION,
    "train.accumulate": _c.at_least(1),
    "train.log_every": _c.at_least(1),
    "train.save_every": _c.at_least(1),
    "train.keep": _c.at_least(1),
    "train.profile_steps": _c.at_least(1),
    "mesh.host_devices": _c.NON_NEGATIVE,
    "mesh.processes": _c.at_least(1),
}


def mesh_shape(config: Config) -> dict[str, int]:
    """Axis sizes as `config.mesh` has them."""
    return {axis: config.mesh[axis] for axis in mesh_lib.AXES}


def check_accumulate(config: Config) -> None:
    """The batch must be cut into equal parts."""
    if config.train.batch_size % config.train.accumulate:
        raise ConfigError(
            "train.accumulate", config.train.accumulate, f"a divisor of {config.train.batch_size}"
        )


def check_batch(config: Config, mesh: Mesh) -> None:
    """The batch must divide over the mesh, in each part of an accumulated step."""
    parts = mesh_lib.batch_divisor(mesh) * config.train.accumulate
    if config.train.batch_size % parts:
        raise ConfigError(
            "train.batch_size",
            config.train.batch_size,
            f"a multiple of {parts} (mesh axes data x fsdp, times train.accumulate)",
        )


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
    ) -> Any:
        """Trains (or finishes, or just restores) a run; returns its EMA weights on the host.

        Args:
          judging: the run belongs to an evaluation, so it is trained even where `may_train` is False.
        """
        t = self.config.train
        steps, peak = steps or t.steps, learning_rate or t.learning_rate
        name = f"{system.name}-{seed}"
        may_train = self.may_train or judging
        if not may_train and not (self.workdir / "checkpoints" / name / str(steps)).is_dir():
            raise ConfigError("workdir", str(self.workdir), f"one where {name} is trained")
        schedule = step.learning_rate(t.schedule, peak, steps=steps, warmup=t.warmup, final=t.final)
        final = loop.fit(
            name,
            system.build,
            system.loss,
            step.optimizer(schedule, clip=t.clip, weight_decay=t.weight_decay),
            pipeline.batches(arrays, batch_size or t.batch_size, seed=seed),
            jax.random.key(seed),
            loop.Options(
                steps=steps,
                save_every=t.save_every,
                log_every=t.log_every,
                keep=t.keep,
                ema_decay=t.ema_decay,
                accumulate=t.accumulate,
                profile_at=t.profile_at,
                profile_steps=t.profile_steps,
            ),
            workdir=self.workdir,
            mesh=self.mesh,
            extra=system.extra,
            pretrained=system.pretrained,
        )
        return mesh_lib.to_host(final.model if final.ema is None else final.ema)


def open_study(
    config: Config, workdir: pathlib.Path, load: Any, *, may_train: bool = True
) -> Study:
    """Mesh and data, checked; from here on the workdir belongs to this config.

    Args:
      load: (config, workdir) -> data.
    """
    mesh = mesh_lib.make_mesh(mesh_shape(config))
    check_batch(config, mesh)
    data = load(config, workdir)
    launch.write_config(workdir, config)
    return Study(config, workdir, mesh, data, may_train)
