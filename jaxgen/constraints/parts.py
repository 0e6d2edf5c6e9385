"""A constraint on images: parts lie where the pose puts them.

    f(x; c) = sum_u x_u log parse(x)_u[r_c(u)] / sum_u x_u,     clipped below at -log P

over pixels u; r_c(u) is the part that condition c puts at u. Known: where parts lie. Learned: what they look
like, by a parser that sees x alone. Source: after the pose application of Hu et al. (2018), section 4.1.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxgen.numerics import Number, wide


class PartAgreement(nnx.Module):
    """f with its parser: dilated 3x3 convolutions and a linear layer, a class for each part and background."""

    def __init__(
        self,
        channels: int,
        parts: int,
        *,
        width: int,
        dilations: tuple[int, ...] = (1, 2, 4, 8),
        rngs: nnx.Rngs,
    ):
        """Args:
        channels: of images.
        parts: besides background, which is class 0.
        width: features of every layer.
        dilations: one of each layer.
        """
        inputs = [channels] + [width] * (len(dilations) - 1)
        self.convs = nnx.List(
            [
                nnx.Conv(c, width, (3, 3), kernel_dilation=d, rngs=rngs)
                for c, d in zip(inputs, dilations, strict=True)
            ]
        )
        self.out = nnx.Linear(width, parts + 1, rngs=rngs)

    def parse(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W P"]:
        """Logits of background and parts at each pixel."""
        h = x
        for conv in self.convs:
            h = jax.nn.relu(conv(h))
        return self.out(h).astype(x.dtype)

    def __call__(
        self, x: Float[Array, "B H W C"], regions: Int[Array, "B H W"]
    ) -> Float[Array, " B"]:
        """f of each image; see `agreement`."""
        return agreement(self.parse(x), x.mean(-1), regions)


def agreement(
    logits: Float[Array, "*B H W P"],
    x: Float[Array, "*B H W"],
    regions: Int[Array, "*B H W"],
    *,
    floor: Number | None = None,
) -> Float[Array, "*B"]:
    """f of parsed images: -log P at least and 0 at most, in float32 or wider.

    Gradients reach the parse, and x as the weight of its pixels. At the floor (see `floored`) they may still
    raise f: under a plain clip, data below it would teach nothing while samples above it are pushed down, and
    soon all are at the floor.

    Args:
      logits: of the parse.
      x: intensities, 0 or more. An image without any has f = 0.
      regions: the part that is wanted at each pixel.
      floor: the least value; -log P by default, what a parser says that knows nothing.
    """
    dtype = wide(logits)
    logp = jax.nn.log_softmax(logits.astype(dtype))
    each = jnp.take_along_axis(logp, regions[..., None], -1)[..., 0]
    weight = x.astype(dtype)
    total = jnp.maximum(weight.sum((-2, -1)), 1e-6)
    low = -math.log(logits.shape[-1]) if floor is None else floor
    return floored((weight * each).sum((-2, -1)) / total, jnp.asarray(low, dtype))


@jax.custom_vjp
def floored(f: Float[Array, "*B"], low: Float[Array, ""]) -> Float[Array, "*B"]:
    """max(f, low), with the gradient of f itself where a loss wants a value below `low` to rise.

    Where a loss wants it lower still, the gradient is 0. Reverse mode alone; none for `low`.
    """
    return jnp.maximum(f, low)


def _floored(
    f: Float[Array, "*B"], low: Float[Array, ""]
) -> tuple[Float[Array, "*B"], tuple[Float[Array, "*B"], Float[Array, ""]]]:
    return jnp.maximum(f, low), (f, low)


def _unfloored(
    kept: tuple[Float[Array, "*B"], Float[Array, ""]], g: Float[Array, "*B"]
) -> tuple[Float[Array, "*B"], Float[Array, ""]]:
    f, low = kept
    return jnp.where((f > low) | (g < 0), g, 0), jnp.zeros_like(low)


floored.defvjp(_floored, _unfloored)


def parse_agreement(
    wanted: Float[Array, "*B H W P"], logits: Float[Array, "*B H W P"]
) -> Float[Array, "*B"]:
    """The variant without known poses: minus the cross-entropy of one parse under another.

    The mean over pixels that either of them calls a part. In a phi-step gradients are to pass through both:
    a fixed `wanted` has its best value at itself, so that data would teach nothing. Float32 or wider.
    """
    dtype = wide(logits)
    p = jax.nn.softmax(wanted.astype(dtype))
    logq = jax.nn.log_softmax(logits.astype(dtype))
    part = (wanted.argmax(-1) > 0) | (logits.argmax(-1) > 0)
    total = jnp.where(part, (p * logq).sum(-1), 0).sum((-2, -1))
    return total / jnp.maximum(part.sum((-2, -1)), 1)
