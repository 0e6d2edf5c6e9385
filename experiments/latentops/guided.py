"""Generation by EDDPM's own reverse process, which the operators steer in each of its steps.

The other methods of `methods` move a draw; this one starts from noise, and its draw is of the learned prior
and of the attributes at once. EDDPM's space alone has such a process.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.latentops.space import Space
from jaxgen.config import Config
from jaxgen.latent_ode import energy
from jaxgen.models.attribute_heads import Operators

NAME = "guided diffusion"
GRID = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)  # of its guidance_strength


def make(config: Config) -> Callable[..., tuple[Any, Any, Any]]:
    """Generation by EDDPM's reverse process, with the operators' gradient in each of its steps.

    Returns:
      A function of a space, which has such a process, and of what a `methods.Move` takes; u gives the number of rows.
    """
    from jaxgen.diffusion import guidance, samplers

    g = config.guided

    @jax.jit
    def run(
        space: Space, operators: Operators, u: Any, labels: Any, on: Any, key: Any, strength: Any
    ) -> Any:
        def one(u: Any, labels: Any) -> Any:
            return energy.compose([(operators.get(n), labels[n], on[n]) for n in labels])(u)

        def cost(z: Any) -> Any:
            return strength * jax.vmap(one)(space.whitening.whiten(z), labels)

        key_start, key_steps, key_around = jax.random.split(key, 3)
        noise = jax.random.normal(key_start, u.shape)
        steps = min(g.steps, space.prior.num_steps)
        fit = space.whitening
        around = guidance.gaussian_posterior(
            fit.mean, fit.root @ fit.root.T, space.prior, key_around, draws=g.draws
        )
        denoise = guidance.guided(space.model.denoise, cost, space.prior, posterior=around)
        z = samplers.ddim(denoise, noise, space.prior, num_steps=steps, eta=g.eta, key=key_steps)
        end = space.whitening.whiten(z)
        return end, ~jnp.isfinite(end).all(-1), jnp.full(end.shape[0], steps)

    return run
