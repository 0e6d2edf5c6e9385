"""jaxgen: generative modelling of text, sequences and images as pure JAX functions.

Subpackages are imported when they are first used: `import jaxgen` is quick, and enough.
"""

import glob
import os
from typing import TYPE_CHECKING

from jaxgen import _lazy

if TYPE_CHECKING:
    from jaxgen import (  # type: ignore[attr-defined]
        config,
        constraints,
        data,
        diffusion,
        errors,
        evaluators,
        latent_ode,
        launch,
        losses,
        mesh,
        metrics,
        models,
        moe,
        nn,
        numerics,
        ode,
        peft,
        text,
        train,
        world,
    )

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = _lazy.attach(__name__)

if not (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")):
    # There is no TPU. An installed libtpu (it compiles for slices that are elsewhere) would ask a metadata
    # server for one as soon as jax looks for devices, and complain at length.
    for _name, _value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5p-8",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
        # Without a TPU there is nothing that two processes could fight over.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }.items():
        os.environ.setdefault(_name, _value)
