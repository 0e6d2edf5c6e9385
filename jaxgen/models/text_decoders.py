"""p(tokens | z): GPT, which reads z besides the tokens before, and a decoder of all positions at once.

`LatentGPT` is autoregressive: z enters a GPT as one memory slot of every layer and as a vector added
to every embedding (Li et al., 2020, Optimus; also Liu et al., 2024, EDDPM). `NonAutoregressiveDecoder`
predicts all positions at once from z, as protein autoencoders do (Castro et al., 2022, ReLSO).
"""

from typing import Protocol, TypedDict, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from jaxgen.errors import require
from jaxgen.losses import eisl
from jaxgen.losses.cross_entropy import sum_cross_entropy
from jaxgen.models import gpt2
from jaxgen.nn.layers import linear, split_key
from jaxgen.nn.transformer import Transformer
from jaxgen.nn.transformer_config import TransformerConfig
from jaxgen.numerics import Number, is_zero
from jaxgen.text import decoding
from jaxgen.text.masking import eos_mask, shift_right


@runtime_checkable
class TextDecoder(Protocol):
    """What a `TextAutoencoder` needs of a decoder."""

    def logprob(
        self, target: Int[Array, "B T"], z: Float[Array, "B D"], key: Key[Array, ""] | None = None
    ) -> Float[Array, " B"]:
        """log p(target|z) in nats, or what stands in its place in the loss."""
        ...

    def decode(self, z: Float[Array, "B D"]) -> Int[Array, "B T"]:
        """The likeliest tokens, as near as the decoder comes to them."""
        ...


class Condition(TypedDict):
    """Arguments of a GPT that carry z."""

    prefix: Float[Array, "B L 1 W"]
    added: Float[Array, "B E"]


class LatentGPT(nnx.Module):
    """p(tokens | z) by a GPT of any family: GPT-2, Llama and others."""

    def __init__(
        self,
        config: gpt2.GPTConfig,
        dim: int,
        *,
        length: int,
        begin: int,
        end: int,
        unknown: int = 0,
        word_dropout: float = 0.0,
        eisl_share: float = 0.0,
        ngrams: tuple[int, ...] = (1, 2, 3),
        rngs: nnx.Rngs,
    ):
        """Args:
        dim: size of z.
        length: T, of a sentence in tokens at most, the end token included.
        begin: id put in front; `end` is that of the end token.
        unknown: id that stands for the share `word_dropout` of the tokens that the decoder does not see, so
          that it has to read z (Bowman et al., 2016).
        eisl_share: share of EISL, of n-grams `ngrams`, in what `logprob` gives.
        """
        s = config.stack
        self.gpt = gpt2.GPT(config, rngs=rngs)
        # As small as the token embeddings, which a unit-scale z would drown.
        init = nnx.initializers.normal(s.init_std)
        self.memory = nnx.Linear(
            dim, s.depth * s.kv_width, use_bias=False, kernel_init=init, rngs=rngs
        )
        self.added = nnx.Linear(dim, s.width, use_bias=False, kernel_init=init, rngs=rngs)
        self.length, self.begin, self.end, self.unknown = length, begin, end, unknown
        self.word_dropout, self.eisl_share, self.ngrams = word_dropout, eisl_share, ngrams

    def condition(self, z: Float[Array, "B D"]) -> Condition:
        """z, as the GPT reads it."""
        s = self.gpt.config.stack
        slots = self.memory(z).reshape(z.shape[0], s.depth, 1, s.kv_width)
        return {"prefix": slots, "added": self.added(z)}

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        z: Float[Array, "B D"],
        *,
        word_dropout: Number = 0.0,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T V"]:
        """Logits of every token given those before it.

        Args:
          word_dropout: share of the tokens on the input side that are `unknown`; may be traced.
          key: for them and for the stack's dropout; None switches both off.
        """
        require("word_dropout", (word_dropout >= 0) & (word_dropout <= 1), word_dropout, "0 to 1")
        key_word, key_drop = split_key(key, 2)
        if key_word is not None and not is_zero(word_dropout):
            rate = jnp.asarray(word_dropout, jnp.float32)
            hidden = jax.random.bernoulli(key_word, rate, tokens.shape)
            tokens = jnp.where(hidden, self.unknown, tokens)
        shifted = shift_right(tokens, self.begin)
        use = key_drop if self.gpt.config.stack.dropout else None
        return self.gpt(shifted, key=use, **self.condition(z))[0]

    def start(self, z: Float[Array, "B D"], *, max_tokens: int | None = None) -> decoding.Start:
        """Where decoding of z begins, for `jaxgen.text.decoding`.

        Args:
          max_tokens: what there has to be room for; T by default.
        """
        tokens = jnp.full((z.shape[0], 1), self.begin, jnp.int32)
        most = self.length if max_tokens is None else max_tokens
        return self.gpt.start(tokens, max_tokens=most, **self.condition(z))

    def decode(self, z: Float[Array, "B D"]) -> Int[Array, "B T"]:
        """Greedily; the end token fills what follows it."""
        start = self.start(z)
        return decoding.greedy(start, max_tokens=self.length, eos=self.end, pad=self.end).tokens

    def logprob(
        self, target: Int[Array, "B T"], z: Float[Array, "B D"], key: Key[Array, ""] | None = None
    ) -> Float[Array, " B"]:
        """log p(target|z), teacher-forced; with `eisl_share`, that share of it is minus EISL.

        EISL is of what the decoder says when it reads its own output: reading the target, it would only have
        to repeat the token before, since EISL lets a token be matched one place later.
        """
        real = eos_mask(target, self.end)
        logits = self(target, z, word_dropout=self.word_dropout, key=key)
        nll = sum_cross_entropy(logits, target, real)[0]
        if not self.eisl_share:
            return -nll
        own = jax.lax.stop_gradient(self).decode(jax.lax.stop_gradient(z))
        a_token = eisl.eisl_loss(
            self(own, z),
            target,
            ngrams=self.ngrams,
            logits_mask=eos_mask(own, self.end),
            targets_mask=real,
        )
        return -(1.0 - self.eisl_share) * nll - self.eisl_share * a_token * real.sum(-1)


class NonAutoregressiveDecoder(nnx.Module):
    """p(tokens | z) = prod_i p(token_i | z): z gives every position a vector, then a transformer."""

    def __init__(
        self,
        config: TransformerConfig,
        dim: int,
        *,
        vocab_size: int,
        length: int,
        pad: int,
        pad_weight: float = 1.0,
        eisl_share: float = 0.0,
        ngrams: tuple[int, ...] = (1, 2, 3),
        rngs: nnx.Rngs,
    ):
        """Args:
        dim: size of z.
        vocab_size: number of classes at each position, padding included.
        length: T of all sequences.
        pad: id of padding, which is predicted like any other, at the weight `pad_weight`.
        eisl_share: share of EISL, of n-grams `ngrams`, in what `logprob` gives.
        """
        self.length, self.pad, self.pad_weight = length, pad, pad_weight
        self.eisl_share, self.ngrams = eisl_share, ngrams
        self.latent = nnx.Linear(dim, length * config.width, rngs=rngs)
        self.stack = Transformer(config, rngs=rngs)
        self.head = nnx.Linear(config.width, vocab_size, rngs=rngs)

    def __call__(self, z: Float[Array, "B D"]) -> Float[Array, "B T V"]:
        """Logits of every position, padding included."""
        width = self.stack.config.width
        h, _, _ = self.stack(self.latent(z).reshape(z.shape[0], self.length, width))
        return linear(self.head, h).astype(jnp.float32)

    def decode(self, z: Float[Array, "B D"]) -> Int[Array, "B T"]:
        """The likeliest token of each position."""
        return self(z).argmax(-1).astype(jnp.int32)

    def logprob(
        self, target: Int[Array, "B T"], z: Float[Array, "B D"], key: Key[Array, ""] | None = None
    ) -> Float[Array, " B"]:
        """log p(target|z), padding weighted; with `eisl_share`, the mix of EISL and cross-entropy."""
        logits, pad = self(z), target == self.pad
        if self.eisl_share:
            share = self.eisl_share
            a_token = eisl.mixed_loss(
                logits, target, ngram_factor=share, ce_factor=1.0 - share, ngrams=self.ngrams
            )
            return -a_token * self.length
        nll, _ = sum_cross_entropy(logits, target)
        light, _ = sum_cross_entropy(logits, target, pad)
        return -nll + (1.0 - self.pad_weight) * light
