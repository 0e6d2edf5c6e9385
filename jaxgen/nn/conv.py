"""Convolutional encoder and decoder of images, and the decoder's likelihoods.

Images are [B, H, W, C] with values in [0, 1]. Channels double each time the side halves, up to 8x.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxgen.errors import require
from jaxgen.nn.group_norm import GroupNorm
from jaxgen.nn.layers import linear
from jaxgen.numerics import Number, sum_trailing, wide


class ResBlock(nnx.Module):
    """x + Conv(SiLU(Norm(Conv(SiLU(Norm(x)))))), optionally modulated by a vector.

    With `cond_dim`, the second norm is followed by h * (1 + scale) + shift, both linear in the
    condition (adaptive group norm; Dhariwal and Nichol, 2021).
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        cond_dim: int = 0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        self.norm1 = group_norm(c_in, dtype, rngs)
        self.conv1 = conv3(c_in, c_out, dtype=dtype, rngs=rngs)
        self.norm2 = group_norm(c_out, dtype, rngs)
        self.conv2 = conv3(c_out, c_out, zero=True, dtype=dtype, rngs=rngs)
        self.cond = nnx.Linear(cond_dim, 2 * c_out, dtype=dtype, rngs=rngs) if cond_dim else None
        self.skip = nnx.Linear(c_in, c_out, dtype=dtype, rngs=rngs) if c_in != c_out else None

    def __call__(
        self, x: Float[Array, "B H W C"], cond: Float[Array, "B K"] | None = None
    ) -> Float[Array, "B H W D"]:
        h = self.norm2(self.conv1(jax.nn.silu(self.norm1(x))))
        if self.cond is not None:
            if cond is None:
                raise ValueError("cond is None, allowed: [B, K], for a block built with cond_dim")
            scale, shift = jnp.split(self.cond(cond)[:, None, None, :], 2, axis=-1)
            h = h * (1.0 + scale) + shift
        h = self.conv2(jax.nn.silu(h))
        return h + (x if self.skip is None else linear(self.skip, x))


def conv3(
    c_in: int,
    c_out: int,
    *,
    stride: int = 1,
    zero: bool = False,
    dtype: DTypeLike | None = None,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """3x3 convolution with padding; `zero` starts it at zero, so that a block is the identity."""
    init = nnx.initializers.zeros_init() if zero else nnx.initializers.lecun_normal()
    return nnx.Conv(c_in, c_out, (3, 3), strides=stride, kernel_init=init, dtype=dtype, rngs=rngs)


def group_norm(channels: int, dtype: DTypeLike | None, rngs: nnx.Rngs) -> GroupNorm:
    """GroupNorm with the largest number of groups, at most 8, that divides the channels."""
    groups = max(g for g in range(1, 9) if channels % g == 0)
    return GroupNorm(channels, num_groups=groups, dtype=dtype, rngs=rngs)


def num_levels(size: int) -> int:
    """How many times an image of this side is halved: down to 4 where it goes evenly."""
    levels = 0
    while size % 2 == 0 and size > 4:
        size //= 2
        levels += 1
    return levels


def multipliers(levels: int) -> list[int]:
    """Of the channels at each resolution, finest first: 1, 2, 4, 8, 8, .."""
    return [min(2**i, 8) for i in range(levels + 1)]


class Encoder(nnx.Module):
    """Image [B, H, W, C] to a vector [B, out_dim]."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        out_dim: int,
        *,
        width: int,
        blocks: int = 1,
        out_bias: bool = True,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Args:
        image_shape: (H, W, C), H = W.
        width: channels at full resolution.
        blocks: residual blocks at each resolution.
        out_bias: of the last layer; superfluous where the vector is standardised afterwards.
        """
        size, _, channels = image_shape
        levels = num_levels(size)
        widths = [width * m for m in multipliers(levels)]
        self.stem = conv3(channels, width, dtype=dtype, rngs=rngs)
        self.stages = nnx.List(
            [
                nnx.List([ResBlock(w, w, dtype=dtype, rngs=rngs) for _ in range(blocks)])
                for w in widths
            ]
        )
        self.downs = nnx.List(
            [conv3(a, b, stride=2, dtype=dtype, rngs=rngs) for a, b in itertools.pairwise(widths)]
        )
        self.norm = group_norm(widths[-1], dtype, rngs)
        flat = widths[-1] * (size // 2**levels) ** 2
        self.out = nnx.Linear(flat, out_dim, use_bias=out_bias, dtype=dtype, rngs=rngs)

    def features(self, x: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
        """What the last linear layer sees."""
        h = self.stem(2.0 * x - 1.0)
        for i, stage in enumerate(self.stages):
            for block in stage:
                h = block(h)
            if i < len(self.downs):
                h = self.downs[i](h)
        h = jax.nn.silu(self.norm(h))
        return h.reshape(h.shape[0], np.prod(h.shape[1:], dtype=int))

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B D"]:
        return self.out(self.features(x)).astype(x.dtype)


class Decoder(nnx.Module):
    """A vector [B, D] to the mean (or the logits) of an image [B, H, W, C]: `Encoder` mirrored."""

    def __init__(
        self,
        dim: int,
        image_shape: tuple[int, int, int],
        *,
        width: int,
        blocks: int = 1,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        size, _, channels = image_shape
        levels = num_levels(size)
        widths = [width * m for m in reversed(multipliers(levels))]
        self.start = (size // 2**levels, size // 2**levels, widths[0])
        self.stem = nnx.Linear(dim, int(np.prod(self.start)), dtype=dtype, rngs=rngs)
        self.stages = nnx.List(
            [
                nnx.List([ResBlock(w, w, dtype=dtype, rngs=rngs) for _ in range(blocks)])
                for w in widths
            ]
        )
        self.ups = nnx.List(
            [conv3(a, 4 * b, dtype=dtype, rngs=rngs) for a, b in itertools.pairwise(widths)]
        )
        self.norm = group_norm(widths[-1], dtype, rngs)
        self.out = conv3(widths[-1], channels, dtype=dtype, rngs=rngs)

    def __call__(self, z: Float[Array, "B D"]) -> Float[Array, "B H W C"]:
        h = self.stem(z).reshape(z.shape[0], *self.start)
        for i, stage in enumerate(self.stages):
            for block in stage:
                h = block(h)
            if i < len(self.ups):
                h = depth_to_space(self.ups[i](h))
        return self.out(jax.nn.silu(self.norm(h))).astype(z.dtype)


def depth_to_space(x: Float[Array, "B H W C4"]) -> Float[Array, "B H2 W2 C"]:
    """Doubles the side and quarters the channels (sub-pixel convolution; Shi et al., 2016)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, 2, 2, c // 4)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c // 4)


def gaussian_logprob(
    x: Float[Array, "B ..."], mean: Float[Array, "B ..."], std: Number
) -> Float[Array, " B"]:
    """log N(x; mean, std^2 I) in nats, in float32 or wider.

    Raises:
      ValueError: std that is not finite and above 0; a traced one passes.
    """
    require("std", (std > 0) & (std < jnp.inf), std, "above 0, finite")
    dtype = wide(x)
    var = jnp.asarray(std, dtype) ** 2
    nll = 0.5 * ((x.astype(dtype) - mean) ** 2 / var + jnp.log(2.0 * jnp.pi * var))
    return -sum_trailing(nll)


def bernoulli_logprob(
    x: Float[Array, "B ..."], logits: Float[Array, "B ..."]
) -> Float[Array, " B"]:
    """Log-likelihood of pixels in [0, 1] under Bernoulli(sigmoid(logits)), in nats, float32 or wider."""
    x, logits = x.astype(wide(x)), logits.astype(wide(logits))
    ll = x * jax.nn.log_sigmoid(logits) + (1.0 - x) * jax.nn.log_sigmoid(-logits)
    return sum_trailing(ll)
