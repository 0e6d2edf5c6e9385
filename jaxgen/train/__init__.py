"""The training loop and what it writes."""

from typing import TYPE_CHECKING

from jaxgen import _lazy

if TYPE_CHECKING:
    from jaxgen.train import (
        aot,
        checkpoint,
        latent_tasks,
        lock,
        loop,
        preemption,
        report,
        runs,
        selection,
        state,
        step,
        writers,
    )
    from jaxgen.train.loop import Adapt, fit
    from jaxgen.train.runs import Runs, TrainOptions, TrainTask
    from jaxgen.train.selection import BestModel
    from jaxgen.train.state import TrainState
    from jaxgen.train.step import make_step, optimizer

__getattr__, __dir__, __all__ = _lazy.attach(__name__)
