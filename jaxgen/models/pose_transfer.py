"""Models of an object's image under a pose that is asked for: one pass from noise, or a diffusion.

Both see the condition [B, S, S, C] (the source image and heat maps of key points) and only sample: no density of
theirs is used. What learns through their samples is told by `draw`'s gradient.
"""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from jaxgen.diffusion import gaussian, samplers
from jaxgen.errors import require
from jaxgen.models.image_autoencoder import pixel_chain
from jaxgen.nn import unet
from jaxgen.nn.conv import ResBlock, conv3, depth_to_space, group_norm

Images = Float[Array, "B S S 1"]
Condition = Float[Array, "B S S C"]


@runtime_checkable
class PoseModel(Protocol):
    """What the constraints study trains."""

    def draw(self, condition: Condition, key: Key[Array, ""]) -> Images:
        """One image in [0, 1] for each condition, with a path to the parameters."""
        ...

    def loss(
        self, condition: Condition, target: Images, key: Key[Array, ""], drawn: Images
    ) -> Float[Array, " B"]:
        """The model's own loss on pairs; `drawn` is what it drew of the same conditions."""
        ...


class PoseGenerator(nnx.Module):
    """A convolutional encoder-decoder with skips that is given noise; its own loss is L1."""

    def __init__(self, size: int, channels: int, *, width: int, noise_dim: int, rngs: nnx.Rngs):
        """Args:
        size: S, a multiple of 8.
        channels: C, of the condition.
        width: channels at S / 2, doubled at S / 4 and S / 8.
        noise_dim: of the noise; without any the model is deterministic.
        """
        require("size", size % 8 == 0 and size > 0, size, "a multiple of 8")
        w, self.noise_dim = width, noise_dim

        def block(a: int, b: int) -> ResBlock:
            return ResBlock(a, b, cond_dim=noise_dim, rngs=rngs)

        self.stem = nnx.Conv(channels, w, (4, 4), strides=2, rngs=rngs)
        self.down = nnx.List([conv3(a, 2 * a, stride=2, rngs=rngs) for a in (w, 2 * w)])
        self.encode = nnx.List([ResBlock(a, a, rngs=rngs) for a in (w, 2 * w)])
        self.middle = nnx.List([block(4 * w, 4 * w), block(4 * w, 4 * w)])
        self.attention = unet.SelfAttention(4 * w, dtype=None, rngs=rngs)
        self.up = nnx.List([conv3(4 * w, 8 * w, rngs=rngs), conv3(2 * w, 4 * w, rngs=rngs)])
        self.decode = nnx.List([block(4 * w, 2 * w), block(2 * w, w)])
        self.norm = group_norm(w, None, rngs)
        self.out = conv3(w, 4, rngs=rngs)

    def __call__(self, condition: Condition, noise: Float[Array, "B N"]) -> Images:
        """The image that this noise gives."""
        z = noise if self.noise_dim else None
        h, skips = self.stem(condition), []
        for block, down in zip(self.encode, self.down, strict=True):
            h = block(h)
            skips.append(h)
            h = down(h)
        h = self.attention(self.middle[0](h, z))
        h = self.middle[1](h, z)
        for up, block in zip(self.up, self.decode, strict=True):
            h = block(jnp.concatenate([depth_to_space(up(h)), skips.pop()], -1), z)
        out = self.out(jax.nn.silu(self.norm(h)))
        return jax.nn.sigmoid(depth_to_space(out)).astype(condition.dtype)

    def draw(self, condition: Condition, key: Key[Array, ""]) -> Images:
        """See `PoseModel`."""
        shape = condition.shape[0], self.noise_dim
        return self(condition, jax.random.normal(key, shape, condition.dtype))

    def loss(
        self, condition: Condition, target: Images, key: Key[Array, ""], drawn: Images
    ) -> Float[Array, " B"]:
        """Mean absolute difference of a pixel, of what was drawn."""
        return jnp.abs(drawn - target).mean((1, 2, 3))


class PoseDiffusion(nnx.Module):
    """A U-Net that predicts the noise in a target, and DDIM; its own loss is that of DDPM."""

    def __init__(
        self,
        size: int,
        channels: int,
        *,
        width: int,
        multipliers: tuple[int, ...] = (1, 2, 2),
        decode_steps: int = 16,
        gradient_steps: int = 2,
        rngs: nnx.Rngs,
    ):
        """Args:
        size: S; channels: C, of the condition.
        width: of the U-Net at full resolution, as `multipliers`.
        decode_steps: of DDIM.
        gradient_steps: how many of its last steps pass gradients.
        """
        self.decode_steps, self.gradient_steps = decode_steps, gradient_steps
        shape = size, size, 1 + channels
        self.net = unet.UNet(shape, width=width, multipliers=multipliers, rngs=rngs)

    def denoise(self, x: Images, t: Array, condition: Condition) -> Images:
        """The noise in x_t."""
        return self.net(jnp.concatenate([x, 2.0 * condition - 1.0], -1), t)[..., :1]

    def draw(self, condition: Condition, key: Key[Array, ""]) -> Images:
        """See `PoseModel`; gradients pass through the last steps of DDIM alone."""
        start = jax.random.normal(key, (*condition.shape[:3], 1), condition.dtype)
        x = samplers.ddim(
            lambda x, t: self.denoise(x, t, condition),
            start,
            pixel_chain(),
            num_steps=self.decode_steps,
            gradient_steps=self.gradient_steps,
        )
        return jnp.clip(0.5 + 0.5 * x, 0.0, 1.0)

    def loss(
        self, condition: Condition, target: Images, key: Key[Array, ""], drawn: Images
    ) -> Float[Array, " B"]:
        """|| eps - eps_theta ||^2 of a pixel at one random t of each image."""
        chain = pixel_chain()
        key_t, key_eps = jax.random.split(key)
        t = jax.random.randint(key_t, target.shape[:1], 1, chain.num_steps + 1, jnp.int32)
        eps = jax.random.normal(key_eps, target.shape, target.dtype)
        x_t = gaussian.q_sample(2.0 * target - 1.0, t, eps, chain)
        return ((eps - self.denoise(x_t, t, condition)) ** 2).mean((1, 2, 3))
