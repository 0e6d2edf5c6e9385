"""Decoder-only language models: GPT-2 (Radford et al., 2019) and GPT-Neo (Black et al., 2021)."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.errors import require
from jaxgen.moe.layer import MoEContext, RouterStats
from jaxgen.nn import transformer
from jaxgen.nn.transformer import Cache, Transformer, TransformerConfig
from jaxgen.numerics import lookup


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """`kind` is gpt2 or gpt_neo, the model type of Hugging Face's config.json."""

    vocab_size: int
    max_positions: int
    stack: TransformerConfig
    tied: bool = True
    kind: str = "gpt2"


def spec(
    vocab_size: int,
    *,
    width: int,
    depth: int,
    heads: int,
    max_positions: int,
    mlp_width: int = 0,
    tied: bool = True,
    **options: Any,
) -> GPTConfig:
    """GPT-2's shape; `options` are further fields of `transformer.TransformerConfig`.

    Raises:
      ValueError: if the heads do not divide the width.
    """
    if width % heads:
        raise ValueError(f"heads is {heads}, allowed: a divisor of the width {width}")
    stack = TransformerConfig(
        width=width,
        depth=depth,
        heads=heads,
        head_dim=width // heads,
        mlp_width=mlp_width or 4 * width,
        **{"fused_qkv": True, **options},
    )
    return GPTConfig(vocab_size, max_positions, stack, tied)


class GPT(nnx.Module):
    """Tokens to logits of the next token."""

    def __init__(self, spec: GPTConfig, *, rngs: nnx.Rngs):
        self.spec = spec
        s = spec.stack
        init = nnx.initializers.normal(s.init_std)
        self.tokens = nnx.Embed(spec.vocab_size, s.width, embedding_init=init, rngs=rngs)
        self.positions = nnx.Embed(spec.max_positions, s.width, embedding_init=init, rngs=rngs)
        self.stack = Transformer(s, rngs=rngs)
        self.head = (
            None if spec.tied else transformer.make_linear(s, s.width, spec.vocab_size, False, rngs)
        )

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        mask: Bool[Array, "B T"] | None = None,
        positions: Int[Array, "#B T"] | None = None,
        prefix: Float[Array, "B L P D"] | None = None,
        added: Float[Array, "B D"] | None = None,
        cache: Cache | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T V"], Cache | None]:
        """Logits, float32, and the cache with these tokens in it (None without one).

        Args:
          mask: which tokens are real. Padding goes left where a cache is used.
          positions: of the learned embedding; by default counted over real tokens.
          prefix: extra slots of every layer, see `Transformer`.
          added: a vector added to every token's embedding.
          key: switches dropout on.
        """
        h, cache, _ = self.hidden(
            tokens,
            mask=mask,
            positions=positions,
            prefix=prefix,
            added=added,
            cache=cache,
            key=key,
        )
        return self.logits(h), cache

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        *,
        mask: Bool[Array, "B T"] | None = None,
        positions: Int[Array, "#B T"] | None = None,
        prefix: Float[Array, "B L P D"] | None = None,
        added: Float[Array, "B D"] | None = None,
        cache: Cache | None = None,
        route: MoEContext | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None, RouterStats | None]:
        """The states that `logits` reads, the cache, and the loads of experts; see `Transformer`.

        Raises:
          ValueError: more tokens than the model has positions, or (outside jit) tokens or positions that it
            does not have; under jit their states are NaN.
        """
        s, most = self.spec.stack, self.spec.max_positions
        if positions is None:
            require("tokens' length", tokens.shape[1] <= most, tokens.shape[1], f"at most {most}")
            real = jnp.ones((1, tokens.shape[1]), bool) if mask is None else mask
            before = 0 if cache is None else cache.read[:, None]
            positions = jnp.maximum(before + jnp.cumsum(real, -1) - 1, 0)
        key_embed, key_stack = transformer.split_key(key, 2)
        h = lookup(self.tokens.embedding[...], tokens, "tokens", mask)
        h = h + lookup(self.positions.embedding[...], positions, "positions", mask)
        if added is not None:
            h = h + added[:, None]
        h = transformer.dropout(h, s.dropout, key_embed)
        return self.stack(
            h,
            mask=mask,
            positions=positions,
            prefix=prefix,
            cache=cache,
            route=route,
            key=key_stack,
        )

    def logits(self, h: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        if self.head is not None:
            return self.head(h).astype(jnp.float32)
        table = self.tokens.embedding[...].astype(h.dtype)
        f32 = jnp.float32
        if (
            h.shape[1] == 1
        ):  # XLA's CPU matmul is nearly twice as fast with the few rows on the right
            return jnp.einsum("VD,BD->VB", table, h[:, 0], preferred_element_type=f32).T[:, None]
        return jnp.einsum("BTD,VD->BTV", h, table, preferred_element_type=f32)

    def make_cache(self, batch: int, size: int) -> Cache:
        return transformer.make_cache(self.spec.stack, batch, size)
