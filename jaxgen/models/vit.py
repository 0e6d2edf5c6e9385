"""Vision transformer (Dosovitskiy et al., 2021): patches as tokens, and the mean of all as the picture.

With experts in its `TransformerConfig` it is V-MoE (Riquelme et al., 2021).
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from jaxgen.errors import require
from jaxgen.moe.layer import MoEContext, RouterStats
from jaxgen.nn.layers import linear
from jaxgen.nn.transformer import Transformer
from jaxgen.nn.transformer_config import TransformerConfig


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """`size` and `patch` are sides in pixels; the stack is not causal.

    Raises:
      ValueError: patches that do not tile the picture, or a causal stack.
    """

    size: int
    patch: int
    channels: int
    classes: int
    stack: TransformerConfig

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise ValueError(f"patch is {self.patch}, allowed: a divisor of the size {self.size}")
        if self.stack.causal:
            raise ValueError("stack.causal is True, allowed: False")


def config(
    size: int,
    *,
    patch: int,
    channels: int,
    classes: int,
    width: int,
    depth: int,
    heads: int,
    mlp_width: int = 0,
    **options: object,
) -> ViTConfig:
    """A ViT's shape; `options` are further fields of `TransformerConfig`.

    Raises:
      ValueError: heads that do not divide the width, or patches that do not tile the picture.
    """
    shape: dict[str, Any] = {"causal": False, **options}
    stack = TransformerConfig(width, depth, heads, mlp_width=mlp_width, **shape)
    return ViTConfig(size, patch, channels, classes, stack)


def patches(x: Float[Array, "B H W C"], side: int) -> Float[Array, "B N P"]:
    """Pictures cut into squares of `side` pixels, row by row."""
    b, h, w, c = x.shape
    cut = x.reshape(b, h // side, side, w // side, side, c).swapaxes(2, 3)
    return cut.reshape(b, (h // side) * (w // side), side * side * c)


class ViT(nnx.Module):
    """Pictures to logits of classes."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, count = config.stack.width, (config.size // config.patch) ** 2
        self.embed = nnx.Linear(config.patch**2 * config.channels, width, rngs=rngs)
        init = nnx.initializers.normal(0.02)
        self.positions = nnx.Embed(count, width, embedding_init=init, rngs=rngs)
        self.stack = Transformer(config.stack, rngs=rngs)
        self.head = nnx.Linear(width, config.classes, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B H W C"],
        *,
        route: MoEContext | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B K"], RouterStats | None]:
        """Logits, float32, and the loads of experts; see `Transformer`.

        Raises:
          ValueError: pictures of another size or number of channels.
        """
        want = (self.config.size, self.config.size, self.config.channels)
        require("a picture's shape", x.shape[1:] == want, x.shape[1:], str(want))
        h = linear(self.embed, patches(x, self.config.patch)) + self.positions.embedding[...]
        h, _, loads = self.stack(h, route=route, key=key)
        return self.head(h.mean(1)).astype(jnp.float32), loads
