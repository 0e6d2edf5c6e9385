"""MLPs on vectors: the noise predictor with skips and a time embedding, and a plain residual one."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def timestep_embedding(
    t: Float[Array, " B"], dim: int, *, max_period: float = 10_000.0
) -> Float[Array, "B dim"]:
    """Sinusoids of t at `dim` / 2 geometric frequencies (Ho et al., 2020, after Vaswani et al.).

    Args:
      t: in steps, i.e. 0..1000 for the usual chain; real values are fine.
      dim: even.
    """
    half = dim // 2
    freqs = jnp.exp(-jnp.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t.astype(jnp.float32)[:, None] * freqs
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class MLPSkipNet(nnx.Module):
    """eps_theta(z_t, t) for vectors: each layer sees the input again and is scaled by the time.

    A layer is SiLU(LayerNorm(Linear([h, z]) * (1 + scale(t)))), after the latent network of
    Diffusion Autoencoders (Preechakul et al., 2022, appendix A), which EDDPM uses.
    """

    def __init__(
        self,
        dim: int,
        *,
        width: int,
        depth: int,
        time_dim: int = 64,
        time_scale: float = 1.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Args:
        dim: size of z.
        width: hidden size.
        depth: number of hidden layers.
        time_scale: t is multiplied by it before the sinusoids, so that chains of another length
          than 1000 use the same range of angles.
        dtype: of the computation; parameters stay float32.
        """
        self.time_dim = time_dim
        self.time_scale = time_scale
        self.dtype = dtype
        self.time_in = nnx.Linear(time_dim, time_dim, dtype=dtype, rngs=rngs)
        self.time_out = nnx.Linear(time_dim, depth * width, dtype=dtype, rngs=rngs)
        sizes = [dim] + [dim + width] * (depth - 1)
        self.layers = nnx.List([nnx.Linear(n, width, dtype=dtype, rngs=rngs) for n in sizes])
        self.norms = nnx.List([nnx.LayerNorm(width, dtype=dtype, rngs=rngs) for _ in range(depth)])
        self.out = nnx.Linear(dim + width, dim, dtype=dtype, rngs=rngs)

    def __call__(self, z: Float[Array, "B D"], t: Array) -> Float[Array, "B D"]:
        """Predicted noise, in the dtype of z."""
        time = timestep_embedding(t * self.time_scale, self.time_dim)
        scales = jnp.split(self.time_out(jax.nn.silu(self.time_in(time))), len(self.layers), -1)
        h = x = z.astype(self.dtype or z.dtype)
        for i, (layer, norm, scale) in enumerate(zip(self.layers, self.norms, scales, strict=True)):
            h = layer(h if i == 0 else jnp.concatenate([h, x], -1))
            h = jax.nn.silu(norm(h * (1.0 + scale)))
        return self.out(jnp.concatenate([h, x], -1)).astype(z.dtype)


class MLP(nnx.Module):
    """Residual layers h + Linear(SiLU(LayerNorm(h))) between two linear ones: heads and critics."""

    def __init__(self, dim: int, out: int, *, width: int, depth: int, rngs: nnx.Rngs):
        """Args:
        dim: size of the input.
        out: size of the output.
        width: hidden size.
        depth: number of residual layers.
        """
        self.dim = dim
        self.first = nnx.Linear(dim, width, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(depth)])
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(depth)])
        self.last = nnx.Linear(width, out, rngs=rngs)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... K"]:
        """In the dtype of x."""
        h = self.first(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            h = h + layer(jax.nn.silu(norm(h)))
        return self.last(jax.nn.silu(h)).astype(x.dtype)
