"""Gaussian diffusion: schedules, q and p, the EDDPM objective and samplers; loaded when asked for."""

import importlib
from typing import Any

__all__ = ["eddpm", "gaussian", "samplers", "schedule", "timesteps"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
