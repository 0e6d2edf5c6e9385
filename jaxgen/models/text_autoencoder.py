"""Sequences of tokens and one latent vector: encoder, noise predictor, decoder.

The default encoder and decoder are transformers made here; pass others to have them instead.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.errors import require
from jaxgen.models import bert, gpt2
from jaxgen.models.text_decoders import LatentGPT, TextDecoder
from jaxgen.nn import mlp

Tokens = Int[Array, "B T"]
# What the encoder reads ("source") and the decoder writes ("target"), where their tokenizers differ.
TextBatch = Tokens | Mapping[str, Tokens]


@runtime_checkable
class TextEncoder(Protocol):
    """What a `TextAutoencoder` needs of an encoder: an nnx module of this form."""

    def __call__(self, tokens: Tokens) -> Float[Array, "B K"]:
        """One vector for each row, float32."""
        ...


class SequenceEncoder(nnx.Module):
    """BERT, then a linear layer on the mean over real positions, or on all positions side by side."""

    def __init__(
        self,
        config: bert.BertConfig,
        out_dim: int,
        *,
        pad: int,
        per_position: int = 0,
        out_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        """Args:
        pad: id of padding.
        per_position: the length T of all sequences, where each position is to have weights of its own
          (what stands where matters more than what stands there at all); 0 takes the mean.
        out_bias: of the last layer; superfluous where the vector is standardised afterwards.
        """
        self.pad, self.per_position = pad, per_position
        self.bert = bert.Bert(config, rngs=rngs)
        size = config.stack.width * max(per_position, 1)
        self.out = nnx.Linear(size, out_dim, use_bias=out_bias, rngs=rngs)

    def __call__(self, tokens: Tokens) -> Float[Array, "B K"]:
        """Float32, whatever the stack computes in."""
        mask, length = tokens != self.pad, tokens.shape[1]
        whole = self.per_position
        require("tokens' length", length == (whole or length), length, f"{whole}")
        h = self.bert(tokens, mask=mask)
        if whole:
            flat = jnp.where(mask[..., None], h, 0).reshape(h.shape[0], whole * h.shape[2])
            return self.out(flat.astype(jnp.float32))
        return self.out(bert.mean_pool(h, mask).astype(jnp.float32))


class TextAutoencoder(nnx.Module):
    """A `LatentModel` of sequences, with a regressor on latents where one is wanted."""

    def __init__(
        self,
        vocab_size: int,
        max_len: int,
        latent_dim: int,
        *,
        encoder: TextEncoder | None = None,
        decoder: TextDecoder | None = None,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        begin: int = 1,
        end: int = 2,
        pad: int = 0,
        predict_variance: bool = False,
        regressor: bool = False,
        denoiser_width: int = 320,
        denoiser_depth: int = 4,
        time_scale: float = 1.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Args:
        vocab_size: V, of the encoder and decoder made here.
        max_len: T, of a sequence in tokens at most, the end token included.
        latent_dim: D.
        encoder: tokens -> [B, D], or [B, 2 D] with `predict_variance`; by default a BERT of `width`, `depth`,
          `heads`, which takes `pad` for padding.
        decoder: by default a `LatentGPT` of the same size, from the token `begin` to the token `end`.
        predict_variance: the encoder gives a mean and a log variance; see `posterior`.
        regressor: a small MLP predicts a value from the latent; see `predict`.
        time_scale: see `mlp.MLPSkipNet`, the noise predictor.
        dtype: of the noise predictor's computation; parameters stay float32.
        """
        self.latent_dim = latent_dim
        if encoder is None:
            read = bert.config(
                vocab_size, width=width, depth=depth, heads=heads, max_positions=max_len
            )
            size = latent_dim * (2 if predict_variance else 1)
            encoder = SequenceEncoder(read, size, pad=pad, rngs=rngs)
        if decoder is None:
            written = gpt2.config(
                vocab_size, width=width, depth=depth, heads=heads, max_positions=max_len + 1
            )
            decoder = LatentGPT(
                written, latent_dim, length=max_len, begin=begin, end=end, rngs=rngs
            )
        self.encoder, self.decoder = encoder, decoder
        self.mlp = mlp.MLPSkipNet(
            latent_dim,
            width=denoiser_width,
            depth=denoiser_depth,
            time_scale=time_scale,
            dtype=dtype,
            rngs=rngs,
        )
        self.regressor = (
            nnx.Sequential(
                nnx.Linear(latent_dim, 64, rngs=rngs), jax.nn.silu, nnx.Linear(64, 1, rngs=rngs)
            )
            if regressor
            else None
        )

    def encode(self, x: TextBatch) -> Float[Array, "B D"]:
        """The latent, or the mean of q(z|x) where the encoder predicts a variance."""
        return self.encoder(_side(x, "source"))[:, : self.latent_dim]

    def posterior(self, x: TextBatch) -> tuple[Float[Array, "B D"], Float[Array, "B D"]]:
        """(mean, log variance) of q(z|x); of an encoder that predicts both."""
        mean, log_var = jnp.split(self.encoder(_side(x, "source")), 2, -1)
        return mean, log_var

    def denoise(self, z: Float[Array, "B D"], t: Array) -> Float[Array, "B D"]:
        """The noise in z_t."""
        return self.mlp(z, t)

    def decode_logprob(
        self, x: TextBatch, z: Float[Array, "B D"], key: Key[Array, ""] | None = None
    ) -> Float[Array, " B"]:
        """As of the decoder; `key` for its dropout."""
        return self.decoder.logprob(_side(x, "target"), z, key)

    def decode(self, z: Float[Array, "B D"]) -> Tokens:
        """As of the decoder."""
        return self.decoder.decode(z)

    def predict(self, z: Float[Array, "B D"]) -> Float[Array, " B"]:
        """The regressor's value.

        Raises:
          ValueError: there is no regressor.
        """
        if self.regressor is None:
            raise ValueError("regressor is None, allowed: a model built with regressor=True")
        return self.regressor(z)[:, 0]


def _side(x: TextBatch, name: str) -> Tokens:
    return x[name] if isinstance(x, Mapping) else x
