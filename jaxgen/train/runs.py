"""The runs of one launch: what all share, how each is trained, and rows of numbers that are kept."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree
from numpy import ndarray

from jaxgen import mesh as mesh_lib
from jaxgen.data.pixels import Pixels
from jaxgen.errors import ConfigError
from jaxgen.train import loop, state, step
from jaxgen.train.writers import Json, Row, read_json, write_atomic

Cell = TypeVar("Cell")  # a system, or a system under some condition


@dataclasses.dataclass(frozen=True)
class TrainTask:
    """One training run: how to build the model, and its loss.

    Attributes:
      name: of the run, followed by its seed.
      build: key -> module.
      loss: see `jaxgen.train.step.Loss`.
      extra: makes the loss' own state.
      pretrained: puts weights from files (or of another run) into a fresh model.
      frozen: regular expressions of the parameters that keep their values; see `jaxgen.train.frozen`.
      key: the run's key comes from it and the seed, from `name` where it is empty; tasks that shall train
        the same model share one.
      rates: of parameters that learn more slowly or faster; see `jaxgen.train.step.by_rate`.
    """

    name: str
    build: Callable[[Key[Array, ""]], PyTree]
    loss: step.Loss
    extra: Callable[[], PyTree] = lambda: None
    pretrained: Callable[[PyTree], PyTree] | None = None
    frozen: tuple[str, ...] = ()
    key: str = ""
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How runs are trained: steps, optimiser, checkpoints. The defaults are those of the digits study."""

    steps: int = 1500
    batch_size: int = 64
    optimizer: str = "adamw"
    learning_rate: float = 3e-3
    schedule: str = "cosine"
    warmup: int = 100
    final: float = 0.02
    clip: float = 1.0
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    accumulate: int = 1
    log_every: int = 50
    save_every: int = 500
    keep: int = 2
    restart: bool = False
    profile_at: int = -1
    profile_steps: int = 5

    def make_optimizer(
        self, schedule: optax.Schedule, rates: Mapping[str, float] | None = None
    ) -> optax.GradientTransformation:
        """The optimiser at the learning rates of `schedule`, times those of a task's `rates`."""

        def make(factor: float) -> optax.GradientTransformation:
            rate = schedule if factor == 1 else lambda count: factor * schedule(count)
            return step.optimizer(
                rate, kind=self.optimizer, clip=self.clip, weight_decay=self.weight_decay
            )

        return step.by_rate(rates, make) if rates else make(1.0)


@dataclasses.dataclass(frozen=True)
class Runs:
    """Workdir, mesh and options of a launch.

    Attributes:
      may_train: whether `fit` may train what is not finished; else it raises.
    """

    workdir: pathlib.Path
    mesh: Mesh
    options: TrainOptions
    may_train: bool = True

    def fit(
        self,
        task: TrainTask,
        seed: int,
        arrays: Mapping[str, ndarray | Pixels],
        *,
        steps: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        judging: bool = False,
        until: int | None = None,
        eval_every: int = 0,
        evaluate: Callable[[state.TrainState], dict[str, float]] | None = None,
        adapt: loop.Adapt | None = None,
        finished: Callable[[state.TrainState], None] | None = None,
    ) -> PyTree:
        """Trains (or finishes, or just restores) a run; returns its EMA weights.

        Weights that are whole on every device come back on one, those that are split stay where they are;
        with several processes they are gathered.

        Args:
          arrays: what batches are made of, by name.
          judging: the run belongs to an evaluation, so it is trained even where `may_train` is False.
          until: stop at this step of the schedule; a later call under another loss goes on from there.
          eval_every: steps from one call of `evaluate` to the next; see `loop.Options`.
          evaluate: see `loop.fit`, as `adapt`.
          finished: gets the final state, be it trained or restored, for what is no part of the model.

        Raises:
          ConfigError: the run is not finished, and may not be trained.
        """
        from jaxgen.data import pipeline  # needs grain, which a task's loss does not

        o = self.options
        steps, peak = steps or o.steps, learning_rate or o.learning_rate
        last = steps if until is None else min(until, steps)
        name = f"{task.name}-{seed}"
        if not (self.may_train or judging or self._trained(name, last)):
            raise ConfigError("workdir", str(self.workdir), f"one where {name} is trained")
        schedule = step.learning_rate(o.schedule, peak, steps=steps, warmup=o.warmup, final=o.final)
        final = loop.fit(
            name,
            task.build,
            task.loss,
            o.make_optimizer(schedule, task.rates),
            pipeline.batches(arrays, batch_size or o.batch_size, seed=seed),
            state.run_key(f"{task.key or task.name}-{seed}"),
            loop.Options(
                steps=last,
                eval_every=eval_every,
                save_every=o.save_every,
                log_every=o.log_every,
                keep=o.keep,
                ema_decay=o.ema_decay,
                accumulate=o.accumulate,
                profile_at=o.profile_at,
                profile_steps=o.profile_steps,
                restart=o.restart,
            ),
            workdir=self.workdir,
            mesh=self.mesh,
            extra=task.extra,
            pretrained=task.pretrained,
            frozen=task.frozen,
            evaluate=evaluate,
            adapt=adapt,
        )
        if finished is not None:
            finished(final)
        model = state.averaged(final)
        whole = all(a.is_fully_replicated for a in jax.tree.leaves(model))
        return mesh_lib.to_host(model) if whole or jax.process_count() > 1 else model

    def _trained(self, name: str, last: int) -> bool:
        saved = (self.workdir / "checkpoints" / name).glob("*")
        return any(p.name.isdigit() and int(p.name) >= last for p in saved)

    def rows(
        self,
        seeds: Iterable[int],
        cells: Sequence[Cell],
        evaluate: Callable[[Cell, int], Sequence[Row]],
        *,
        name: Callable[[Cell], str] = str,
        setting: Mapping[str, Json] | None = None,
        form: Mapping[str, type] | None = None,
        reuse: bool | None = None,
        fresh: Iterable[int] = (),
    ) -> list[Row]:
        """The rows of all seeds and cells, a cell being a system, or a system under some condition.

        Those of a finished cell are kept under `results/`, so a launch with more seeds or cells adds to
        what is there.

        Args:
          evaluate: (cell, seed) -> its rows, with everything that has to be trained for them.
          name: cell -> a file's name.
          setting: what the numbers depend on and may change between launches; kept rows of another are
            made again.
          form: values that each row has, by name, with their types; a kept file of another form is passed over.
          reuse: whether kept rows are taken; `may_train` by default, since to evaluate again is what a
            launch that may not train is for.
          fresh: seeds whose rows are made in any case, for what else `evaluate` leaves.
        """
        setting = json.loads(json.dumps(setting or {}))
        reuse, fresh = self.may_train if reuse is None else reuse, set(fresh)
        out: list[Row] = []
        for seed in seeds:
            for cell in cells:
                path = self.workdir / "results" / f"{name(cell)}-{seed}.json"
                known = (
                    _kept(path, setting, seed, form or {}) if reuse and seed not in fresh else None
                )
                if known is None:
                    known = [{**row, "seed": seed} for row in evaluate(cell, seed)]
                    if jax.process_index() == 0:
                        text = json.dumps({"setting": setting, "rows": known}, indent=2)
                        write_atomic(path, text + "\n")
                out += known
        return out


def _kept(
    path: pathlib.Path, setting: Mapping[str, Json], seed: int, form: Mapping[str, type]
) -> list[Row] | None:
    """The rows of a file of `Runs.rows`; None where something else stands in its place."""
    read = read_json(path)
    if not isinstance(read, dict) or read.get("setting") != setting:
        return None
    rows = read.get("rows")
    if not isinstance(rows, list) or not rows:
        return None
    for row in rows:
        if not isinstance(row, dict) or row.get("seed") != seed:
            return None
        if any(not isinstance(row.get(field), kind) for field, kind in form.items()):
            return None
    return rows
