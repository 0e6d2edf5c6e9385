"""U-Net noise predictor on images, optionally conditioned on a latent vector.

Without a condition it is the DDPM of the pixel baseline; with one it is the conditional diffusion
decoder of Diffusion Autoencoders (Preechakul et al., 2022), which EDDPM uses for images.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxgen.nn.conv import ResBlock, conv3, depth_to_space, group_norm
from jaxgen.nn.layers import linear
from jaxgen.nn.mlp import timestep_embedding


class SelfAttention(nnx.Module):
    """Single-head attention over all positions, added to the input."""

    def __init__(self, channels: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs):
        self.norm = group_norm(channels, dtype, rngs)
        self.qkv = nnx.Linear(channels, 3 * channels, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(
            channels,
            channels,
            kernel_init=nnx.initializers.zeros_init(),
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        b, h, w, c = x.shape
        q, k, v = jnp.split(linear(self.qkv, self.norm(x)).reshape(b, h * w, 1, 3 * c), 3, -1)
        y = jax.nn.dot_product_attention(q, k, v)
        return x + linear(self.out, y).reshape(b, h, w, c)


class UNet(nnx.Module):
    """eps_theta(x_t, t[, z]) for images [B, H, W, C] with values in about [-1, 1]."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        width: int,
        multipliers: tuple[int, ...] = (1, 2),
        blocks: int = 1,
        attention: bool = True,
        cond_dim: int = 0,
        time_scale: float = 1.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Args:
        width: channels at full resolution.
        multipliers: of `width` at each resolution; the side halves between them.
        blocks: residual blocks at each resolution, going down and going up.
        attention: self-attention at the lowest resolution.
        cond_dim: size of the latent vector z, or 0.
        """
        size, _, channels = image_shape
        if size % 2 ** (len(multipliers) - 1):
            raise ValueError(
                f"U-Net multipliers {multipliers} halve the side {len(multipliers) - 1} times, "
                f"which {size} does not allow"
            )
        emb = 4 * width
        self.width = width
        self.time_scale = time_scale
        self.dtype = dtype
        self.time1 = nnx.Linear(width, emb, dtype=dtype, rngs=rngs)
        self.time2 = nnx.Linear(emb, emb, dtype=dtype, rngs=rngs)
        self.cond = nnx.Linear(cond_dim, emb, dtype=dtype, rngs=rngs) if cond_dim else None
        widths = [width * m for m in multipliers]
        self.stem = conv3(channels, width, dtype=dtype, rngs=rngs)

        def res(a: int, b: int) -> ResBlock:
            return ResBlock(a, b, cond_dim=emb, dtype=dtype, rngs=rngs)

        down, skips, c = [], [width], width
        for i, w in enumerate(widths):
            stage = []
            for _ in range(blocks):
                stage.append(res(c, w))
                c = w
                skips.append(c)
            down.append(nnx.List(stage))
            if i + 1 < len(widths):
                skips.append(c)
        self.down = nnx.List(down)
        self.reduce = nnx.List([conv3(w, w, stride=2, dtype=dtype, rngs=rngs) for w in widths[:-1]])
        self.mid1 = res(c, c)
        self.attention = SelfAttention(c, dtype=dtype, rngs=rngs) if attention else None
        self.mid2 = res(c, c)
        up = []
        for w in reversed(widths):
            stage = []
            for _ in range(blocks + 1):
                stage.append(res(c + skips.pop(), w))
                c = w
            up.append(nnx.List(stage))
        self.up = nnx.List(up)
        self.enlarge = nnx.List(
            [conv3(w, 4 * w, dtype=dtype, rngs=rngs) for w in reversed(widths[1:])]
        )
        self.norm = group_norm(c, dtype, rngs)
        self.out = conv3(c, channels, zero=True, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B H W C"], t: Array, z: Float[Array, "B D"] | None = None
    ) -> Float[Array, "B H W C"]:
        time = timestep_embedding(t * self.time_scale, self.width)
        cond = self.time2(jax.nn.silu(self.time1(time)))
        if self.cond is not None:
            if z is None:
                raise ValueError("z is None, allowed: [B, D], for a network built with cond_dim")
            cond = cond + self.cond(z)
        cond = jax.nn.silu(cond)
        h = self.stem(x.astype(self.dtype or x.dtype))
        skips = [h]
        for i, stage in enumerate(self.down):
            for block in stage:
                h = block(h, cond)
                skips.append(h)
            if i < len(self.reduce):
                h = self.reduce[i](h)
                skips.append(h)
        h = self.mid1(h, cond)
        if self.attention is not None:
            h = self.attention(h)
        h = self.mid2(h, cond)
        for i, stage in enumerate(self.up):
            for block in stage:
                h = block(jnp.concatenate([h, skips.pop()], -1), cond)
            if i < len(self.enlarge):
                h = depth_to_space(self.enlarge[i](h))
        return self.out(jax.nn.silu(self.norm(h))).astype(x.dtype)
