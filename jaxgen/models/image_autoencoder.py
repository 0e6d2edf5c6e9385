"""Images and one latent vector: convolutional encoder and decoder, and the noise predictor between."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxgen.diffusion import gaussian, schedule
from jaxgen.errors import require
from jaxgen.nn import conv, mlp, unet

ImageShape = tuple[int, int, int]
Images = Float[Array, "B H W C"]
DECODERS = ("gaussian", "bernoulli", "diffusion")


class ImageAutoencoder(nnx.Module):
    """A `LatentModel` of images in [0, 1]."""

    def __init__(
        self,
        shape: ImageShape,
        *,
        latent_dim: int,
        width: int = 16,
        blocks: int = 1,
        decoder: str = "gaussian",
        decoder_std: float = 0.05,
        decode_steps: int = 32,
        mse_weight: float = 0.0,
        predict_variance: bool = False,
        encoder_bias: bool = True,
        denoiser_width: int = 320,
        denoiser_depth: int = 4,
        time_scale: float = 1.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Args:
        shape: (H, W, C), H = W.
        latent_dim: D.
        width: channels at full resolution; `blocks` residual blocks at each resolution.
        decoder: "gaussian" with std `decoder_std`, "bernoulli", or "diffusion": a U-Net that is told z, whose
          likelihood is the simple bound, weighted by 1 / (2 decoder_std^2), and whose `decode` takes
          `decode_steps` steps of DDIM from fixed noise.
        mse_weight: of a further term of `decode_logprob`, minus the squared error of the decoder's mean.
        predict_variance: the encoder gives a mean and a log variance; see `posterior`.
        encoder_bias: superfluous in the encoder's last layer where latents are standardised afterwards: it
          then has no gradient but rounding, which Adam would amplify.
        time_scale: see `mlp.MLPSkipNet`.
        dtype: of the computation; parameters stay float32.

        Raises:
          ValueError: an unknown decoder.
        """
        require("decoder", decoder in DECODERS, decoder, ", ".join(DECODERS))
        self.shape, self.latent_dim, self.likelihood = shape, latent_dim, decoder
        self.decoder_std, self.decode_steps, self.mse_weight = decoder_std, decode_steps, mse_weight
        self.encoder = conv.Encoder(
            shape,
            latent_dim * (2 if predict_variance else 1),
            width=width,
            blocks=blocks,
            out_bias=encoder_bias,
            dtype=dtype,
            rngs=rngs,
        )
        self.decoder: unet.UNet | conv.Decoder
        if decoder == "diffusion":
            self.decoder = unet.UNet(
                shape,
                width=width,
                blocks=blocks,
                multipliers=tuple(conv.multipliers(conv.num_levels(shape[0]))),
                cond_dim=latent_dim,
                dtype=dtype,
                rngs=rngs,
            )
        else:
            self.decoder = conv.Decoder(
                latent_dim, shape, width=width, blocks=blocks, dtype=dtype, rngs=rngs
            )
        self.mlp = mlp.MLPSkipNet(
            latent_dim,
            width=denoiser_width,
            depth=denoiser_depth,
            time_scale=time_scale,
            dtype=dtype,
            rngs=rngs,
        )

    def encode(self, x: Images) -> Float[Array, "B D"]:
        """The latent, or the mean of q(z|x) where the encoder predicts a variance."""
        return self.encoder(x)[:, : self.latent_dim]

    def posterior(self, x: Images) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
        """(mean, log variance) of q(z|x); of an encoder that predicts both."""
        mean, log_var = jnp.split(self.encoder(x), 2, -1)
        return mean, log_var

    def denoise(self, z: Float[Array, "B D"], t: Array) -> Float[Array, "B D"]:
        """The noise in z_t."""
        return self.mlp(z, t)

    def decode_logprob(
        self, x: Images, z: Float[Array, "B D"], key: Key[Array, ""] | None = None
    ) -> Float[Array, " B"]:
        """log p(x|z), plus the MSE term where there is one; the diffusion decoder needs a key."""
        if isinstance(self.decoder, unet.UNet):
            if key is None:
                raise ValueError("key is None, allowed: a key, for the diffusion decoder's bound")
            return self._diffusion_logprob(self.decoder, x, z, key)
        out = self.decoder(z)
        if self.likelihood == "bernoulli":
            value, mean = conv.bernoulli_logprob(x, out), jax.nn.sigmoid(out)
        else:
            value, mean = conv.gaussian_logprob(x, out, self.decoder_std), out
        if self.mse_weight:
            value -= self.mse_weight * gaussian.sum_trailing((x - mean) ** 2)
        return value

    def _diffusion_logprob(
        self, net: unet.UNet, x: Images, z: Float[Array, "B D"], key: Key[Array, ""]
    ) -> Float[Array, " B"]:
        """-||eps - eps_theta(x_t, t, z)||^2 at one random t of each image, weighted."""
        chain = pixel_chain()
        key_t, key_eps = jax.random.split(key)
        t = jax.random.randint(key_t, x.shape[:1], 1, chain.num_steps + 1)
        eps = jax.random.normal(key_eps, x.shape, x.dtype)
        x_t = gaussian.q_sample(2.0 * x - 1.0, t, eps, chain)
        error = gaussian.sum_trailing((eps - net(x_t, t, z)) ** 2)
        return -error * (0.5 / self.decoder_std**2)

    def decode(self, z: Float[Array, "B D"]) -> Images:
        """The decoder's mean in [0, 1], or one DDIM run of the U-Net from fixed noise."""
        if isinstance(self.decoder, unet.UNet):
            from jaxgen.diffusion import samplers

            net, chain = self.decoder, pixel_chain()
            noise = jax.random.normal(jax.random.key(0), (z.shape[0], *self.shape))
            steps = min(self.decode_steps, chain.num_steps)
            x = samplers.ddim(lambda x, t: net(x, t, z), noise, chain, num_steps=steps)
            return jnp.clip(0.5 + 0.5 * x, 0.0, 1.0)
        out = self.decoder(z)
        return jnp.clip(jax.nn.sigmoid(out) if self.likelihood == "bernoulli" else out, 0.0, 1.0)


def pixel_chain() -> schedule.Schedule:
    """Of diffusion on pixels: the diffusion decoder, and a pixel DDPM."""
    return schedule.linear(1000)
