"""Sequences to one latent vector and back: a BERT encoder, and two decoders that read z.

`LatentGPT` is autoregressive: z enters GPT-2 as one memory slot of every layer and as a vector added
to every embedding (Li et al., 2020, Optimus; also Liu et al., 2024, EDDPM). `ParallelDecoder` predicts
all positions at once from z, as protein autoencoders do (Castro et al., 2022, ReLSO).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from jaxgen.errors import require
from jaxgen.models import bert, gpt2
from jaxgen.nn.layers import split_key
from jaxgen.nn.transformer import Transformer
from jaxgen.nn.transformer_config import TransformerConfig
from jaxgen.numerics import Number, is_zero
from jaxgen.text import decoding
from jaxgen.text.masking import shift_right


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

    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B D"]:
        mask, length = tokens != self.pad, tokens.shape[1]
        require(
            "tokens' length",
            length == (self.per_position or length),
            length,
            f"{self.per_position}",
        )
        h = self.bert(tokens, mask=mask)
        if self.per_position:
            flat = jnp.where(mask[..., None], h, 0).reshape(
                h.shape[0], self.per_position * h.shape[2]
            )
            return self.out(flat.astype(jnp.float32))
        return self.out(bert.mean_pool(h, mask).astype(jnp.float32))


class LatentGPT(nnx.Module):
    """p(tokens | z) by GPT-2."""

    def __init__(self, config: gpt2.GPTConfig, dim: int, *, rngs: nnx.Rngs):
        """Args:
        dim: size of z.
        """
        s = config.stack
        self.gpt = gpt2.GPT(config, rngs=rngs)
        # As small as the token embeddings, which a unit-scale z would drown.
        init = nnx.initializers.normal(s.init_std)
        self.memory = nnx.Linear(
            dim, s.depth * s.width, use_bias=False, kernel_init=init, rngs=rngs
        )
        self.added = nnx.Linear(dim, s.width, use_bias=False, kernel_init=init, rngs=rngs)

    def condition(self, z: Float[Array, "B Z"]) -> dict[str, Any]:
        """Arguments of the GPT that carry z."""
        s = self.gpt.config.stack
        slots = self.memory(z).reshape(z.shape[0], s.depth, 1, s.width)
        return {"prefix": slots, "added": self.added(z)}

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        z: Float[Array, "B Z"],
        *,
        begin: int,
        unknown: int = 0,
        word_dropout: Number = 0.0,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T V"]:
        """Logits of every token given those before it.

        Args:
          begin: id put in front.
          unknown: id that replaces a share `word_dropout` of the tokens on the input side, so that the
            decoder has to read z (Bowman et al., 2016, word dropout); the rate may be traced.
          key: for hiding and for the stack's dropout; None switches both off.
        """
        require("word_dropout", (word_dropout >= 0) & (word_dropout <= 1), word_dropout, "0 to 1")
        key_word, key_drop = split_key(key, 2)
        if key_word is not None and not is_zero(word_dropout):
            rate = jnp.asarray(word_dropout, jnp.float32)
            hidden = jax.random.bernoulli(key_word, rate, tokens.shape)
            tokens = jnp.where(hidden, unknown, tokens)
        shifted = shift_right(tokens, begin)
        use = key_drop if self.gpt.config.stack.dropout else None
        return self.gpt(shifted, key=use, **self.condition(z))[0]

    def start(self, z: Float[Array, "B Z"], *, begin: int, max_tokens: int) -> decoding.Start:
        """Where decoding of z begins, for `jaxgen.text.decoding`."""
        tokens = jnp.full((z.shape[0], 1), begin, jnp.int32)
        return self.gpt.start(tokens, max_tokens=max_tokens, **self.condition(z))


class ParallelDecoder(nnx.Module):
    """p(tokens | z) = prod_i p(token_i | z): z gives every position a vector, then a transformer."""

    def __init__(
        self, config: TransformerConfig, vocab: int, length: int, dim: int, *, rngs: nnx.Rngs
    ):
        """Args:
        vocab: number of classes at each position, padding included.
        length: T of all sequences.
        dim: size of z.
        """
        self.length = length
        self.latent = nnx.Linear(dim, length * config.width, rngs=rngs)
        self.stack = Transformer(config, rngs=rngs)
        self.head = nnx.Linear(config.width, vocab, rngs=rngs)

    def __call__(self, z: Float[Array, "B Z"]) -> Float[Array, "B T V"]:
        """Logits of every position, padding included."""
        width = self.stack.config.width
        h, _, _ = self.stack(self.latent(z).reshape(z.shape[0], self.length, width))
        return self.head(h).astype(jnp.float32)
