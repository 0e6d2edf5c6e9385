"""T5 (Raffel et al., 2020): an encoder-decoder with relative position buckets and RMSNorm."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.nn import transformer
from jaxgen.nn.transformer import Cache, Transformer, TransformerConfig
from jaxgen.numerics import lookup


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Encoder and decoder stacks.

    `scale_output`: the decoder's states are scaled by width ** -0.5 before the output layer, as the
    first T5 does and version 1.1 does not.
    """

    vocab_size: int
    encoder: TransformerConfig
    decoder: TransformerConfig
    tied: bool = True
    scale_output: bool = True


def spec(
    vocab_size: int,
    *,
    width: int,
    depth: int,
    heads: int,
    head_dim: int = 0,
    mlp_width: int = 0,
    decoder_depth: int = 0,
    tied: bool = True,
    scale_output: bool = True,
    **options: Any,
) -> T5Config:
    """T5's shape; `options` are further fields of `transformer.TransformerConfig`, for both stacks."""
    shape = {
        "norm": "rms",
        "norm_eps": 1e-6,
        "activation": "relu",
        "qkv_bias": False,
        "out_bias": False,
        "mlp_bias": False,
        "scale": 1.0,
        "relative_buckets": 32,
    }
    encoder = TransformerConfig(
        width=width,
        depth=depth,
        heads=heads,
        head_dim=head_dim or width // heads,
        mlp_width=mlp_width or 4 * width,
        causal=False,
        **{**shape, **options},
    )
    decoder = dataclasses.replace(encoder, causal=True, cross=True, depth=decoder_depth or depth)
    return T5Config(vocab_size, encoder, decoder, tied, scale_output)


def fresh_spec(vocab_size: int, *, width: int, **sizes: Any) -> T5Config:
    """`spec` for training from scratch: weights as large as those that T5 itself begins with.

    At GPT-2's 0.02 attention hardly reaches the residual stream, whose embeddings have unit variance.
    Attention is scaled as usual, since T5 has its scale in its first weights.
    """
    return spec(vocab_size, width=width, scale=None, init_std=width**-0.5, **sizes)


class T5(nnx.Module):
    """`encode` the source, `decode` target tokens against it; the call does both."""

    def __init__(self, spec: T5Config, *, rngs: nnx.Rngs):
        self.spec = spec
        width = spec.encoder.width
        self.tokens = nnx.Embed(
            spec.vocab_size, width, embedding_init=nnx.initializers.normal(1.0), rngs=rngs
        )
        self.encoder = Transformer(spec.encoder, rngs=rngs)
        self.decoder = Transformer(spec.decoder, rngs=rngs)
        self.head = (
            None
            if spec.tied
            else transformer.make_linear(spec.decoder, width, spec.vocab_size, False, rngs)
        )

    def encode(
        self,
        tokens: Int[Array, "B M"],
        *,
        mask: Bool[Array, "B M"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B M D"]:
        """The encoder's output.

        Raises:
          ValueError: outside jit, tokens that the model does not have; under jit their states are NaN.
        """
        key_embed, key_stack, key_out = transformer.split_key(key, 3)
        rate = self.spec.encoder.dropout
        table = self.tokens.embedding[...]
        h = transformer.dropout(lookup(table, tokens, "tokens", mask), rate, key_embed)
        h, _, _ = self.encoder(h, mask=mask, key=key_stack)
        return transformer.dropout(h, rate, key_out)

    def states(
        self,
        tokens: Int[Array, "B T"],
        memory: Float[Array, "B M D"] | None = None,
        *,
        memory_mask: Bool[Array, "B M"] | None = None,
        mask: Bool[Array, "B T"] | None = None,
        cache: Cache | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """What the output layer reads, and the cache with these tokens in it; see `decode`.

        Logits are states @ `output_embedding`^T, which `jaxgen.losses.fused_linear` need not hold.

        Raises:
          ValueError: outside jit, tokens that the model does not have; under jit their states are NaN.
        """
        key_embed, key_stack, key_out = transformer.split_key(key, 3)
        rate = self.spec.decoder.dropout
        table = self.tokens.embedding[...]
        h = transformer.dropout(lookup(table, tokens, "tokens", mask), rate, key_embed)
        h, cache, _ = self.decoder(
            h, mask=mask, memory=memory, memory_mask=memory_mask, cache=cache, key=key_stack
        )
        h = transformer.dropout(h, rate, key_out)
        return (h * self.spec.decoder.width**-0.5 if self.spec.scale_output else h), cache

    def output_embedding(self) -> Float[Array, "V D"]:
        """The output layer's weights, one row for each token."""
        return self.tokens.embedding[...] if self.head is None else self.head.kernel[...].T

    def decode(
        self,
        tokens: Int[Array, "B T"],
        memory: Float[Array, "B M D"] | None = None,
        *,
        memory_mask: Bool[Array, "B M"] | None = None,
        mask: Bool[Array, "B T"] | None = None,
        cache: Cache | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T V"], Cache | None]:
        """Logits, float32, and the cache with these tokens in it.

        Args:
          memory: from `encode`. With a cache it is needed in the first call only.
        """
        h, cache = self.states(
            tokens, memory, memory_mask=memory_mask, mask=mask, cache=cache, key=key
        )
        if self.head is not None:
            return self.head(h).astype(jnp.float32), cache
        return (h @ self.output_embedding().T.astype(h.dtype)).astype(jnp.float32), cache

    def __call__(
        self,
        source: Int[Array, "B M"],
        target: Int[Array, "B T"],
        *,
        source_mask: Bool[Array, "B M"] | None = None,
        target_mask: Bool[Array, "B T"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T V"]:
        """Logits of the token after each of `target` (which starts with the start token)."""
        key_enc, key_dec = transformer.split_key(key, 2)
        memory = self.encode(source, mask=source_mask, key=key_enc)
        return self.decode(target, memory, memory_mask=source_mask, mask=target_mask, key=key_dec)[
            0
        ]

    def make_cache(self, batch: int, size: int) -> Cache:
        return transformer.make_cache(self.spec.decoder, batch, size)
