"""Moving latents along gradients: LatentOps' ODE with its operators and baselines, and ascent."""

from typing import TYPE_CHECKING

from jaxgen import _lazy

if TYPE_CHECKING:
    from jaxgen.latent_ode import (
        ascent,
        baselines,
        energy,
        priors,
        sample,
    )
    from jaxgen.latent_ode.ascent import ascent_ode, gradient_ascent
    from jaxgen.latent_ode.energy import Operator, compose
    from jaxgen.latent_ode.sample import keep_finished, solve

__getattr__, __dir__, __all__ = _lazy.attach(__name__)
