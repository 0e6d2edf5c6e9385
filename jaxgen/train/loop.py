"""The train loop: resume, step, log, save, stop."""

import contextlib
import dataclasses
import logging
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree
from numpy import ndarray

from jaxgen import mesh as mesh_lib
from jaxgen.errors import RunError
from jaxgen.train import lock
from jaxgen.train import state as state_lib
from jaxgen.train.checkpoint import Checkpointer, CheckpointError
from jaxgen.train.preemption import Preempted, Preemption
from jaxgen.train.step import Loss, Stepper, make_step
from jaxgen.train.writers import MetricWriter, Progress

log = logging.getLogger(__name__)


class NonFinite(RunError):
    """A metric became NaN or infinite."""


@runtime_checkable
class Adapt(Protocol):
    """Changes the state between steps (FlexMoE's re-placement), and remembers what it did.

    What it remembers is part of the checkpoint: `fit` asks for `history` when it saves, and gives it
    back with `resume` before the first step (and where the run is finished).
    """

    def __call__(self, step: int, state: state_lib.TrainState) -> state_lib.TrainState:
        """After every step; where it has a method `due(step)`, after those that are due.

        After every step it should not wait for the device.
        """
        ...

    def history(self) -> dict[str, ndarray]:
        """Arrays of any length."""
        ...

    def resume(self, state: state_lib.TrainState, history: Mapping[str, ndarray]) -> None:
        """Goes on from a checkpoint."""
        ...


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of `fit`; the fields of `config.train` with the same names.

    `eval_every`: steps from one call of `evaluate` to the next; 0 for the last step alone.
    `restart`: a run whose checkpoints cannot be read begins anew, and they are set aside.
    """

    steps: int
    save_every: int
    log_every: int
    keep: int = 2
    ema_decay: float = 0.0
    accumulate: int = 1
    profile_at: int = -1
    profile_steps: int = 5
    eval_every: int = 0
    restart: bool = False


def fit(
    name: str,
    build: Callable[[Key[Array, ""]], PyTree],
    loss: Loss,
    tx: optax.GradientTransformation,
    data: Any,
    key: Key[Array, ""],
    options: Options,
    *,
    workdir: pathlib.Path,
    mesh: Mesh,
    extra: Callable[[], PyTree] = lambda: None,
    pretrained: Callable[[PyTree], PyTree] | None = None,
    frozen: Sequence[str] = (),
    evaluate: Callable[[state_lib.TrainState], dict[str, float]] | None = None,
    adapt: Adapt | None = None,
) -> state_lib.TrainState:
    """Trains to `options.steps`, continuing from the newest checkpoint of `name` in `workdir`.

    Args:
      name: of the run; names its folder under `checkpoints/` and its rows in `metrics.jsonl`.
      build: key -> module.
      loss: see `jaxgen.train.step.Loss`.
      pretrained: fresh model -> model with weights from files; used at step 0 only.
      frozen: what is not trained; see `jaxgen.train.frozen`.
      data: an iterator of batches with `get_state` and `set_state` (`jaxgen.data.pipeline`).
      evaluate: state -> scalars, which join the metrics of that step.
      adapt: changes the state between steps.

    Returns:
      The final state.

    Raises:
      Preempted: SIGTERM came; a checkpoint of the reached step is on disk, be it the last.
      NonFinite: names the metric. Nothing after the last finite check was saved.
      CheckpointError: checkpoints cannot be read, or not be written. Nothing on disk is lost.
      WorkdirInUse: another launch works in `workdir`.
    """

    def init(k: Key[Array, ""]) -> state_lib.TrainState:
        use_ema = options.ema_decay > 0
        return state_lib.create(build, tx, k, use_ema=use_ema, extra=extra, frozen=frozen)

    lead = jax.process_index() == 0
    saved = workdir / "checkpoints" / name
    with lock.hold(workdir), Preemption() as preemption, contextlib.ExitStack() as stack:
        checkpoints = Checkpointer(saved, keep=options.keep, restart=options.restart)
        stack.callback(checkpoints.close)
        template = jax.eval_shape(init, key)
        where = mesh_lib.shardings(template, mesh)
        restored = checkpoints.restore(template, where)
        if restored is None:
            state, where = state_lib.create_sharded(init, key, mesh)
            if pretrained is not None:
                state = state_lib.replace_model(state, pretrained(state.model), where)
        else:
            state = restored.state
            _continue_data(data, restored.data, saved)
            if adapt is not None:
                adapt.resume(state, restored.history)
            log.info("%s: resumed at step %d", name, int(state.step))
        start = step = int(state.step)
        stop = False
        if start < options.steps:
            step_fn = make_step(
                loss,
                tx,
                ema_decay=options.ema_decay,
                accumulate=options.accumulate,
                shardings=where,
                frozen=frozen,
            )
            stepper = Stepper(step_fn, state)
            profile = _Profile(workdir / "profile" / name, options)
            stack.callback(profile.close)
            writer = MetricWriter(workdir, name, resume_step=start) if lead else None
            progress = Progress(name, start, options.steps) if lead else None
            if writer and progress:
                stack.callback(writer.close)
                stack.callback(progress.close)
        is_due = getattr(adapt, "due", lambda _: True)
        begin = time.monotonic()
        for step in range(start + 1, options.steps + 1):
            profile.before(step)
            batch = mesh_lib.put_batch(next(data), mesh)
            metrics = stepper(batch)
            if adapt is not None and is_due(step):
                stepper.state = adapt(step, stepper.state)
            profile.after(step, metrics)
            last = step == options.steps
            stop = preemption.reached()
            save = last or stop or step % options.save_every == 0
            due = evaluate is not None and (
                last or bool(options.eval_every and step % options.eval_every == 0)
            )
            if save or due:
                state = stepper.state
            if save or due or step % options.log_every == 0 or step == start + 1:
                values = {k: float(v) for k, v in jax.device_get(metrics).items()}
                _check_finite(name, step, values, checkpoints)
                seconds = time.monotonic() - begin
                rate = (step - start) / seconds
                if due and evaluate is not None:
                    values |= evaluate(state)
                    begin = time.monotonic() - seconds  # evaluation is no part of the rate
                if writer and progress:
                    if last or due or step % options.log_every == 0:
                        writer.scalars(step, values | {"steps_per_second": round(rate, 3)})
                    note = f"loss {values['loss']:.4g}, {rate:.1f} steps/s"
                    progress.update(step, seconds, note)
            if save:
                remembered = {} if adapt is None else adapt.history()
                checkpoints.save(step, state, data.get_state(), remembered)
            if stop:
                break
        stack.close()  # all is on disk; a signal may also have come meanwhile
        if preemption.finish() or stop:
            raise Preempted(f"{name}: SIGTERM, saved step {step}")
    return state


class _Profile:
    """A profiler trace of `options.profile_steps` steps from `options.profile_at` on."""

    def __init__(self, folder: pathlib.Path, options: Options):
        self.folder, self.first = folder, options.profile_at
        self.end = options.profile_at + options.profile_steps
        self.on = False

    def before(self, step: int) -> None:
        if step == self.first:
            jax.profiler.start_trace(str(self.folder))
            self.on = True

    def after(self, step: int, metrics: PyTree) -> None:
        if self.on and step >= self.end - 1:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        if self.on:
            self.on = False
            jax.profiler.stop_trace()


def _continue_data(data: Any, data_state: Any, saved: pathlib.Path) -> None:
    try:
        data.set_state(data_state)
    except Exception as e:  # grain raises what its readers raise
        raise CheckpointError(
            f"the data iterator cannot go on from the checkpoint in {saved} ({type(e).__name__}: {e})"
        ) from e


def _check_finite(
    name: str, step: int, values: dict[str, float], checkpoints: Checkpointer
) -> None:
    bad = [k for k, v in values.items() if not math.isfinite(v)]
    if bad:
        checkpoints.wait()
        kept = checkpoints.steps()
        raise NonFinite(
            f"{name}: metric {bad[0]!r} is {values[bad[0]]} at step {step}; "
            + (f"the checkpoint of step {kept[-1]} is kept" if kept else "no checkpoint yet")
        )
