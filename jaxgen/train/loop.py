"""The train loop: resume, step, log, save, stop."""

import dataclasses
import logging
import math
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from jaxgen import mesh as mesh_lib
from jaxgen.train import state as state_lib
from jaxgen.train.checkpoint import Checkpointer
from jaxgen.train.step import Loss, make_step
from jaxgen.train.writers import MetricWriter, Progress

log = logging.getLogger(__name__)


class Preempted(Exception):
    """SIGTERM came; the state is saved."""


class NonFinite(RuntimeError):
    """A metric became NaN or infinite."""


class Preemption:
    """Turns SIGTERM into a flag while it is entered (main thread only)."""

    def __enter__(self) -> "Preemption":
        self.requested = False
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._old = signal.signal(signal.SIGTERM, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def __exit__(self, *_: object) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._old)

    def reached(self, step: int) -> bool:
        """Whether to stop at this step; with several processes they agree on the step."""
        if jax.process_count() == 1:
            return self.requested
        from jax.experimental import multihost_utils

        return bool(multihost_utils.reached_preemption_sync_point(step))


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of `fit`; the fields of `config.train` with the same names.

    `eval_every`: steps from one call of `evaluate` to the next; 0 for the last step alone.
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
    evaluate: Callable[[state_lib.TrainState], dict[str, float]] | None = None,
    adapt: Callable[[int, state_lib.TrainState], state_lib.TrainState] | None = None,
) -> state_lib.TrainState:
    """Trains to `options.steps`, continuing from the newest checkpoint of `name` in `workdir`.

    Args:
      name: of the run; names its folder under `checkpoints/` and its rows in `metrics.jsonl`.
      build: key -> module.
      loss: see `jaxgen.train.step.Loss`.
      pretrained: fresh model -> model with weights from files; used at step 0 only.
      data: an iterator of batches with `get_state` and `set_state` (`jaxgen.data.pipeline`).
      evaluate: state -> scalars, which join the metrics of that step.
      adapt: (step, state) -> state, after every step (FlexMoE's re-placement). It should not wait for the
        device.

    Returns:
      The final state.

    Raises:
      Preempted: SIGTERM came; a checkpoint of the reached step is on disk, be it the last.
      NonFinite: names the metric. Nothing after the last finite check was saved.
    """

    def init(k: Key[Array, ""]) -> state_lib.TrainState:
        return state_lib.create(build, tx, k, use_ema=options.ema_decay > 0, extra=extra)

    directory = workdir / "checkpoints" / name
    checkpoints = Checkpointer(directory, keep=options.keep)
    template = jax.eval_shape(init, key)
    where = mesh_lib.shardings(template, mesh)
    restored = checkpoints.restore(template, where)
    if restored is None:
        state, where = state_lib.create_sharded(init, key, mesh)
        if pretrained is not None:
            state = state_lib.replace_model(state, pretrained(state.model), where)
    else:
        state, data_state = restored
        data.set_state(data_state)
    start = int(state.step)
    if restored is not None:
        log.info("%s: resumed at step %d", name, start)
    if start >= options.steps:
        checkpoints.close()
        return state

    step_fn = make_step(
        loss,
        tx,
        ema_decay=options.ema_decay,
        accumulate=options.accumulate,
        shardings=where,
    )
    lead = jax.process_index() == 0
    writer = MetricWriter(workdir, name, resume_step=start) if lead else None
    progress = Progress(name, start, options.steps) if lead else None
    begin = time.monotonic()
    tracing = False
    with Preemption() as preemption:
        try:
            for step in range(start + 1, options.steps + 1):
                if step == options.profile_at:
                    jax.profiler.start_trace(str(workdir / "profile" / name))
                    tracing = True
                batch = mesh_lib.put_batch(next(data), mesh)
                state, metrics = step_fn(state, batch)
                if adapt is not None:
                    state = adapt(step, state)
                if tracing and step >= options.profile_at + options.profile_steps - 1:
                    jax.block_until_ready(metrics)
                    jax.profiler.stop_trace()
                    tracing = False
                last = step == options.steps
                stop = preemption.reached(step)
                save = last or stop or step % options.save_every == 0
                due = evaluate is not None and (
                    last or bool(options.eval_every and step % options.eval_every == 0)
                )
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
                    checkpoints.save(step, state, data.get_state())
                if stop:
                    break
        finally:
            if tracing:
                jax.profiler.stop_trace()
            if writer and progress:
                writer.close()
                progress.close()
            failed = sys.exc_info()[0] is not None
            try:
                checkpoints.close()
            except Exception:
                if not failed:
                    raise
                log.exception("%s: the last checkpoint was not written", name)
    # A signal may also come after the last step has asked; only a process on its own knows then.
    if stop or (jax.process_count() == 1 and preemption.requested):
        raise Preempted(f"{name}: SIGTERM, saved step {step}")
    return state


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
