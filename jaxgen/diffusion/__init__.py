"""Gaussian diffusion: schedules, q and p, the EDDPM objective and samplers."""

from typing import TYPE_CHECKING

from jaxgen import _lazy

if TYPE_CHECKING:
    from jaxgen.diffusion import (
        eddpm,
        gaussian,
        guidance,
        samplers,
        schedule,
        timestep_sampling,
    )
    from jaxgen.diffusion.guidance import guided
    from jaxgen.diffusion.samplers import ancestral, ddim, ddim_encode, flow_ode
    from jaxgen.diffusion.schedule import VPSDE, Schedule

__getattr__, __dir__, __all__ = _lazy.attach(__name__)
