"""Gaussian diffusion: schedules, q and p, the EDDPM objective and samplers."""

from jaxgen.diffusion import eddpm, gaussian, samplers, schedule, timesteps

__all__ = ["eddpm", "gaussian", "samplers", "schedule", "timesteps"]
