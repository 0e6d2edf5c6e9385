"""Priors over latents that operators steer: a Gaussian fit, a small GAN, a trained diffusion.

LatentOps assumes that latents are standard normal. `Gaussian` maps any latents to coordinates where
that holds up to second moments, so that operators and solvers work there, whatever autoencoder the
latents come from. The GAN covers what a Gaussian misses (Liu et al., 2023, section 3.3).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.diffusion.schedule import VPSDE, Schedule
from jaxgen.errors import require
from jaxgen.latent_ode.sample import Score
from jaxgen.nn.mlp import MLP
from jaxgen.numerics import wide


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gaussian:
    """N(mean, root root^T).

    Attributes:
      mean: [D].
      root: lower Cholesky factor of the covariance [D, D].
    """

    mean: Float[Array, " D"]
    root: Float[Array, "D D"]

    @classmethod
    def fit(cls, z: Float[Array, "N D"], *, floor: float = 1e-4) -> "Gaussian":
        """By moments; `floor` times the mean variance is added to the covariance's diagonal.

        The fit is float32 or wider; draws and coordinates of latents come in the dtype they are given in.

        Raises:
          ValueError: fewer than two rows.
        """
        if z.shape[0] < 2:
            raise ValueError(f"latents to fit are {z.shape[0]} rows, allowed: at least 2")
        z = z.astype(wide(z))
        mean = z.mean(0)
        centred = z - mean
        covariance = centred.T @ centred / z.shape[0]
        ridge = floor * jnp.trace(covariance) / z.shape[1]
        return cls(
            mean, jnp.linalg.cholesky(covariance + ridge * jnp.eye(z.shape[1], dtype=z.dtype))
        )

    def whiten(self, z: Float[Array, "B D"]) -> Float[Array, "B D"]:
        """Coordinates in which the fitted latents have mean 0 and covariance I."""
        centred = (z - self.mean).T
        u = jax.scipy.linalg.solve_triangular(
            self.root, centred.astype(self.root.dtype), lower=True
        )
        return u.T.astype(z.dtype)

    def unwhiten(self, u: Float[Array, "B D"]) -> Float[Array, "B D"]:
        """The inverse of `whiten`."""
        return (self.mean + u @ self.root.T).astype(u.dtype)

    def sample(self, key: Key[Array, ""], count: int) -> Float[Array, "count D"]:
        """Independent draws."""
        noise = jax.random.normal(key, (count, self.mean.shape[0]), self.mean.dtype)
        return self.unwhiten(noise)

    def log_prob(self, z: Float[Array, "B D"]) -> Float[Array, " B"]:
        """Log density in nats, in float32 or wider."""
        log_det = jnp.log(jnp.diag(self.root)).sum()
        const = 0.5 * z.shape[-1] * jnp.log(2.0 * jnp.pi)
        return -0.5 * (self.whiten(z.astype(wide(z))) ** 2).sum(-1) - log_det - const


def fit_gan(
    z: Float[Array, "N D"],
    key: Key[Array, ""],
    *,
    steps: int,
    batch: int = 256,
    width: int = 128,
    depth: int = 2,
    learning_rate: float = 3e-4,
    ema_decay: float = 0.995,
) -> tuple[MLP, dict[str, Array]]:
    """A generator noise [D] -> latent, by the least-squares GAN (Mao et al., 2017, eq. 9).

    It starts as the identity plus a small MLP, so on whitened latents it starts as the Gaussian fit.

    Returns:
      The generator with averaged weights (call `generate`), and the losses of both players [steps].

    Raises:
      ValueError: no latents.
    """
    require("rows of latents", len(z) >= 1, len(z), "at least 1")
    key_g, key_d, key_train = jax.random.split(key, 3)
    dim = z.shape[1]
    generator = MLP(dim, dim, width=width, depth=depth, rngs=nnx.Rngs(key_g))
    critic = MLP(dim, 1, width=width, depth=depth, rngs=nnx.Rngs(key_d))
    # Adam's first moment is off, as usual for GANs: the other player's last move is old news.
    tx = optax.adam(learning_rate, b1=0.0, b2=0.99)

    Players = tuple[MLP, MLP, MLP, PyTree, PyTree]

    def body(carry: Players, key: Key[Array, ""]) -> tuple[Players, tuple[Array, Array]]:
        generator, critic, average, state_g, state_d = carry
        k_real, k_fake, k_next = jax.random.split(key, 3)
        real = z[jax.random.randint(k_real, (batch,), 0, z.shape[0], jnp.int32)]

        def loss_d(critic: MLP) -> Array:
            fake = generate(generator, k_fake, batch)
            return ((critic(real) - 1) ** 2).mean() + (critic(fake) ** 2).mean()

        def loss_g(generator: MLP) -> Array:
            return ((critic(generate(generator, k_next, batch)) - 1) ** 2).mean()

        value_d, grad = jax.value_and_grad(loss_d)(critic)
        updates, state_d = tx.update(grad, state_d)
        critic = optax.apply_updates(critic, updates)
        value_g, grad = jax.value_and_grad(loss_g)(generator)
        updates, state_g = tx.update(grad, state_g)
        generator = optax.apply_updates(generator, updates)
        average = optax.incremental_update(generator, average, 1.0 - ema_decay)
        return (generator, critic, average, state_g, state_d), (value_g, value_d)

    start = (generator, critic, generator, tx.init(generator), tx.init(critic))
    (_, _, average, _, _), (loss_g, loss_d) = jax.lax.scan(
        body, start, jax.random.split(key_train, steps)
    )
    return average, {"generator": loss_g, "discriminator": loss_d}


def generate(generator: MLP, key: Key[Array, ""], count: int) -> Float[Array, "count D"]:
    """Latents of the GAN: noise + MLP(noise), in the dtype of its weights."""
    noise = jax.random.normal(key, (count, generator.dim), generator.first.kernel.dtype)
    return noise + generator(noise)


def diffusion_score(
    denoise: Callable[[Float[Array, "B D"], Float[Array, " B"]], Float[Array, "B D"]],
    chain: Schedule,
    schedule: VPSDE,
) -> Score:
    """grad log p_t(z) of a trained noise predictor, -eps_theta(z, t) / sqrt(1 - alpha_bar_t).

    The chain's step is the one with the same alpha_bar as the VP-SDE at t, so any chain serves.
    Below the noise of the chain's first step the first step is taken.
    """
    levels = -chain.log_alpha_bar_at(jnp.arange(chain.num_steps + 1, dtype=jnp.float32))

    def score(z: Float[Array, " D"], t: Float[Array, ""]) -> Float[Array, " D"]:
        level = -schedule.log_alpha_bar_at(t)
        places = jnp.arange(chain.num_steps + 1, dtype=levels.dtype)
        step = jnp.maximum(jnp.interp(level, levels, places), 1.0)
        variance = -jnp.expm1(-jnp.maximum(level, levels[1]))
        return (-denoise(z[None], step[None])[0] / jnp.sqrt(variance)).astype(z.dtype)

    return score
