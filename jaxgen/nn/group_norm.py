"""Group normalisation by sums of channels (Wu and He, 2018).

    y = (x - mean) / sqrt(var + epsilon) * scale + bias

with mean and variance over all positions and over the channels of a group. The sums are taken channel by channel and
then over a group's few channels, so that the innermost axis stays all channels wide; grouped first it would be 2 to 4.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxgen.errors import require
from jaxgen.numerics import wide


class GroupNorm(nnx.Module):
    """Parameters and function of `flax.nnx.GroupNorm`."""

    def __init__(
        self,
        channels: int,
        *,
        num_groups: int,
        epsilon: float = 1e-6,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Args:
        dtype: of the result; None is that of x and the parameters. Statistics are in float32 or wider.

        Raises:
          ValueError: groups that do not divide the channels.
        """
        divides = num_groups > 0 and channels % num_groups == 0
        require("num_groups", divides, num_groups, f"a divisor of {channels} channels")
        self.num_groups, self.epsilon, self.dtype = num_groups, epsilon, dtype
        self.scale = nnx.Param(nnx.initializers.ones_init()(rngs.params(), (channels,)))
        self.bias = nnx.Param(nnx.initializers.zeros_init()(rngs.params(), (channels,)))

    def __call__(self, x: Float[Array, "B *S C"]) -> Float[Array, "B *S C"]:
        """x, normalised in each row."""
        scale, bias = self.scale[...], self.bias[...]
        dtype = self.dtype or jnp.result_type(x, scale, bias)
        x = x.astype(dtype)
        v = x.reshape(x.shape[0], -1, x.shape[-1]).astype(wide(x))
        size = v.shape[2] // self.num_groups
        # E[v^2] - E[v]^2 loses what both have in common; of v less some entry of its group little is left.
        v = v - jax.lax.stop_gradient(self._of_groups(v[:, 0]) / size)[:, None]
        mean = self._of_groups(v.sum(1)) / (v.shape[1] * size)
        square = self._of_groups((v * v).sum(1)) / (v.shape[1] * size)
        var = jnp.maximum(square - mean * mean, 0.0)
        a = jax.lax.rsqrt(var + self.epsilon) * scale
        b = bias - mean * a
        return (v * a[:, None] + b[:, None]).astype(dtype).reshape(x.shape)

    def _of_groups(self, sums: Float[Array, "B C"]) -> Float[Array, "B C"]:
        """The sum of each channel's group."""
        rows, channels = sums.shape
        groups = sums.reshape(rows, self.num_groups, -1).sum(-1)
        return jnp.repeat(groups, channels // self.num_groups, axis=-1)
