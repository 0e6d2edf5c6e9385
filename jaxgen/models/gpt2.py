"""GPT-2 (Radford et al., 2019): a decoder-only language model, and its Hugging Face table."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen import fsdp
from jaxgen.errors import require
from jaxgen.models import hf_fields as hf
from jaxgen.models.hf_family import Family
from jaxgen.moe.layer import MoEContext, RouterStats
from jaxgen.nn.attention import Cache, make_cache, rewind
from jaxgen.nn.embedding import embed
from jaxgen.nn.layers import dropout, linear, make_linear, split_key
from jaxgen.nn.prepack import thin_matmul
from jaxgen.nn.stacked import unstack
from jaxgen.nn.transformer import Transformer
from jaxgen.nn.transformer_config import TransformerConfig
from jaxgen.numerics import lookup
from jaxgen.text import decoding

# What decoding carries: the cache, and the vector added to every embedding.
State: TypeAlias = tuple[Cache | None, Array | None]


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """The shape of a model.

    Attributes:
      vocab_size: V.
      max_positions: the most tokens of a text.
      stack: the blocks.
      tied: the output layer's weights are the token embedding.
      learned_positions: a vector for each position is added to the tokens'.
      position_offset: rows of that table before the first position's.
      embed_width: of the token embedding, where a linear layer leads from it to the stack, and one back
        before the output layer (OPT-350m); 0 is the stack's width, without such layers.
      head_bias: of an untied output layer.
    """

    vocab_size: int
    max_positions: int
    stack: TransformerConfig
    tied: bool = True
    learned_positions: bool = True
    position_offset: int = 0
    embed_width: int = 0
    head_bias: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "max_positions"):
            require(name, getattr(self, name) >= 1, getattr(self, name), "at least 1")
        require("head_bias", not (self.tied and self.head_bias), True, "False with tied")


def config(
    vocab_size: int,
    *,
    width: int,
    depth: int,
    heads: int,
    max_positions: int,
    mlp_width: int = 0,
    tied: bool = True,
    **options: object,
) -> GPTConfig:
    """GPT-2's shape; `options` are further fields of `TransformerConfig`.

    Raises:
      ValueError: if the heads do not divide the width.
    """
    shape: dict[str, Any] = {"fused_qkv": True, **options}
    stack = TransformerConfig(width, depth, heads, mlp_width=mlp_width, **shape)
    return GPTConfig(vocab_size, max_positions, stack, tied)


class GPT(nnx.Module):
    """Tokens to logits of the next token; the module of all decoder-only families."""

    def __init__(self, config: GPTConfig, *, rngs: nnx.Rngs):
        self.config = config
        s = config.stack
        width = config.embed_width or s.width
        embed = functools.partial(
            nnx.Embed, embedding_init=nnx.initializers.normal(s.init_std), rngs=rngs
        )
        self.tokens = embed(config.vocab_size, width)
        rows = config.max_positions + config.position_offset
        self.positions = embed(rows, s.width) if config.learned_positions else None
        self.stack = Transformer(s, rngs=rngs)
        self.head = (
            None
            if config.tied
            else make_linear(s, width, config.vocab_size, config.head_bias, rngs)
        )
        leads = bool(config.embed_width)
        self.project_in = make_linear(s, width, s.width, False, rngs) if leads else None
        self.project_out = make_linear(s, s.width, width, False, rngs) if leads else None

    def __call__(
        self,
        tokens: Int[Array, "B T"] | Float[Array, "B T V"],
        *,
        mask: Bool[Array, "B T"] | None = None,
        positions: Int[Array, "#B T"] | None = None,
        prefix: Float[Array, "B L P W"] | None = None,
        added: Float[Array, "B D"] | None = None,
        cache: Cache | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T V"], Cache | None]:
        """Logits, float32, and the cache with these tokens in it (None without one).

        Args:
          tokens: ids, or distributions over the vocabulary, as in all methods; see `embed`.
          mask: which tokens are real. Padding goes left where a cache is used.
          positions: of the learned or rotary embedding; by default counted over real tokens.
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
        tokens: Int[Array, "B T"] | Float[Array, "B T V"],
        *,
        mask: Bool[Array, "B T"] | None = None,
        positions: Int[Array, "#B T"] | None = None,
        prefix: Float[Array, "B L P W"] | None = None,
        added: Float[Array, "B D"] | None = None,
        cache: Cache | None = None,
        route: MoEContext | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None, RouterStats | None]:
        """The states that `logits` reads, the cache, and the loads of experts; see `Transformer`.

        Raises:
          ValueError: more tokens than the model has positions, distributions over another vocabulary, or
            (outside jit) tokens or positions that it does not have; under jit their states are NaN.
        """
        s, most = self.config.stack, self.config.max_positions
        if positions is None:
            require("tokens' length", tokens.shape[1] <= most, tokens.shape[1], f"at most {most}")
            real = jnp.ones((1, tokens.shape[1]), bool) if mask is None else mask
            before = 0 if cache is None else cache.read[:, None]
            positions = jnp.maximum(before + jnp.cumsum(real, -1) - 1, 0)
        key_embed, key_stack = split_key(key, 2)
        h = fsdp.looked_up(embed(self.tokens.embedding[...], tokens, "tokens", mask))
        if self.project_in is not None:
            h = linear(self.project_in, h)
        if self.positions is not None:
            rows = positions + self.config.position_offset
            h = h + lookup(self.positions.embedding[...], rows, "positions", mask)
        if added is not None:
            h = h + added[:, None]
        h = dropout(h, s.dropout, key_embed)
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
        """Of the token after each state; float32."""
        if self.project_out is not None:
            h = linear(self.project_out, h)
        if self.head is not None:
            return linear(self.head, h).astype(jnp.float32)
        table = fsdp.gather_table(self.tokens.embedding[...], h.dtype)
        return thin_matmul(h, table, jnp.float32)

    def make_cache(self, batch: int, size: int) -> Cache:
        """An empty cache for `size` tokens and prefix slots."""
        return make_cache(self.config.stack, batch, size)

    def start(
        self,
        tokens: Int[Array, "B P"] | Float[Array, "B P V"],
        *,
        max_tokens: int,
        mask: Bool[Array, "B P"] | None = None,
        prefix: Float[Array, "B L S W"] | None = None,
        added: Float[Array, "B D"] | None = None,
    ) -> decoding.Start:
        """Reads a prompt; `jaxgen.text.decoding` goes on from there.

        Args:
          tokens: shorter prompts are padded on the left.
          max_tokens: room in the cache for what will be decoded.
          mask: which tokens are real.
          prefix: see `hidden`.
          added: see `hidden`; added to decoded tokens too.

        Raises:
          ValueError: if prompt and answer exceed the model's positions, or the prompt is empty.
        """
        batch, length = tokens.shape[:2]
        require("prompt's length", length >= 1, length, "at least 1")
        require("max_tokens", max_tokens >= 0, max_tokens, "0 or more")
        total, limit = length + max_tokens, self.config.max_positions
        if total > limit:
            raise ValueError(
                f"prompt of {length} and max_tokens {max_tokens} are {total}, "
                f"allowed: {limit} positions"
            )
        slots = 0 if prefix is None else prefix.shape[2]
        empty = self.make_cache(batch, slots + total)
        model = unstack(self)  # once, not at every token
        h, cache, _ = model.hidden(tokens, mask=mask, prefix=prefix, added=added, cache=empty)

        def step(state: State, token: decoding.Token) -> tuple[Float[Array, "N V"], State]:
            cache, extra = state
            logits, cache = model(token[:, None], cache=cache, added=extra)
            return logits[:, 0], (cache, extra)

        again = decoding.Rewind(lambda _: None, lambda state, _, n: (rewind(state[0], n), state[1]))
        logits = model.logits(h[:, -1:])[:, 0]
        return decoding.Start(step, (cache, added), logits, max_tokens, again)


def tensors(config: GPTConfig, attention: Mapping[str, str]) -> dict[str, str]:
    """{module of ours: module in the file}; of a block's attention, {projection: its name}."""
    ours, theirs = "stack/blocks/{}", "transformer.h.{}"
    return {
        "tokens": "transformer.wte",
        "positions": "transformer.wpe",
        **{f"{ours}/attention/{a}": f"{theirs}.attn.{b}" for a, b in attention.items()},
        f"{ours}/norm1": f"{theirs}.ln_1",
        f"{ours}/norm2": f"{theirs}.ln_2",
        f"{ours}/mlp/up": f"{theirs}.mlp.c_fc",
        f"{ours}/mlp/down": f"{theirs}.mlp.c_proj",
        "stack/norm": "transformer.ln_f",
        "head": "lm_head",
    }


# What GPT-Neo's file has too.
FIELDS: tuple[hf.Field, ...] = (
    hf.field("vocab_size", "vocab_size", 50257, hf.whole),
    hf.field("layer_norm_epsilon", "norm_eps", 1e-5, hf.real),
    hf.field("tie_word_embeddings", "tied", True, hf.flag),
    hf.activation_field("activation_function", "gelu_new"),
)
BUFFERS = r"(.*\.)?attn\.(attention\.)?(bias|masked_bias)"
COPIES = (("lm_head.weight", "transformer.wte.weight"),)
FAMILY = Family(
    model_type="gpt2",
    config_type=GPTConfig,
    config=config,
    module=GPT,
    fields=(
        *FIELDS,
        hf.field("n_positions", "max_positions", 1024, hf.whole),
        hf.field("n_embd", "width", 768, hf.whole),
        hf.field("n_layer", "depth", 12, hf.whole),
        hf.field("n_head", "heads", 12, hf.whole),
        hf.field("n_inner", "mlp_width", None, hf.whole_or_none),
        # Our stacks have one dropout rate: that of the residual stream.
        hf.field("resid_pdrop", "dropout", 0.1, hf.rate, copies=("embd_pdrop", "attn_pdrop")),
        hf.field(
            "scale_attn_weights",
            "scale",
            True,
            lambda c, name: None if hf.flag(c, name) else 1.0,
            lambda scale: scale != 1.0,
        ),
        hf.field("scale_attn_by_inverse_layer_idx", "scale_by_layer", False, hf.flag),
    ),
    tensors=functools.partial(tensors, attention={"qkv": "c_attn", "out": "c_proj"}),
    prefix="transformer.",
    anchor="wpe.weight",
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    unused={"is_decoder"},
    extras=lambda _: {"architectures": ["GPT2LMHeadModel"]},
    copies=COPIES,
    ignored=BUFFERS,
    conv1d="transformer.h.",
)
