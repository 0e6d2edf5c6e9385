"""Translators: an encoder-decoder that writes token by token, and one that writes all tokens at once.

The second is non-autoregressive (Gu et al., 2018):

    p(y | x) = p(T | x) prod_i p(y_i | x, T)

Its decoder sees no target tokens. What it reads at position i is the source token at the same relative
place, i M / T ("uniform copy"), and it attends to all positions. One pass serves all tokens.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.models import bert, t5
from jaxgen.nn.layers import split_key
from jaxgen.text import decoding
from jaxgen.text.masking import eos_mask, shift_right


@runtime_checkable
class TranslationModel(Protocol):
    """What translation is trained and tested by.

    Attributes:
      end: id of the end token.
      pad: id of padding, in sources and targets.
    """

    end: int
    pad: int

    def translate(self, source: Int[Array, "B M"]) -> Int[Array, "B T"]:
        """The likeliest translations, as near as the model comes to them."""
        ...

    def teacher_forced(
        self,
        source: Int[Array, "B M"],
        target: Int[Array, "B T"],
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T V"], Float[Array, " B"]]:
        """Logits of each target token, and what each row's length costs (0 where none is predicted)."""
        ...


class Translator(t5.T5):
    """T5's encoder-decoder, with the tokens that sentences begin and end with."""

    def __init__(
        self,
        config: t5.T5Config,
        *,
        max_length: int,
        begin: int = 1,
        end: int = 2,
        pad: int = 0,
        rngs: nnx.Rngs,
    ):
        """Args:
        max_length: of a translation in tokens, the end token included.
        begin: id that the decoder begins with; `end` of the end token, `pad` of padding.
        """
        super().__init__(config, rngs=rngs)
        self.max_length, self.begin, self.end, self.pad = max_length, begin, end, pad

    def translate(
        self, source: Int[Array, "B M"], max_tokens: int | None = None
    ) -> Int[Array, "B T"]:
        """Greedy translations.

        Args:
          max_tokens: that may be written; `max_length` by default.
        """
        most = self.max_length if max_tokens is None else max_tokens
        start = self._start(source)
        return decoding.greedy(start, max_tokens=most, eos=self.end, pad=self.pad).tokens

    def sample(
        self, source: Int[Array, "B M"], key: Key[Array, ""], max_tokens: int
    ) -> Int[Array, "B T"]:
        """Translations drawn token by token."""
        start = self._start(source)
        drawn = decoding.sample(start, key, max_tokens=max_tokens, eos=self.end, pad=self.pad)
        return drawn.tokens

    def candidates(
        self, source: Int[Array, "B M"], beams: int, max_tokens: int
    ) -> Int[Array, "B K T"]:
        """The K = `beams` best translations that a beam search finds, the best first.

        Raises:
          ValueError: fewer than 1 beam, or more than the vocabulary allows.
        """
        start = self._start(source)
        ends = {"eos": self.end, "pad": self.pad}
        return decoding.candidates(start, beams=beams, max_tokens=max_tokens, **ends).tokens

    def teacher_forced(
        self,
        source: Int[Array, "B M"],
        target: Int[Array, "B T"],
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T V"], Float[Array, " B"]]:
        """Logits of each target token given those before it, and zeros [B]."""
        shifted = shift_right(target, self.begin)
        logits = self(source, shifted, source_mask=source != self.pad, key=key)
        return logits, jnp.zeros(source.shape[:1])

    def teacher_forced_states(
        self,
        source: Int[Array, "B M"],
        target: Int[Array, "B T"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T D"]:
        """What the output layer reads at each target token; see `t5.T5.output_embedding`."""
        key_enc, key_dec = jax.random.split(key) if key is not None else (None, None)
        mask = source != self.pad
        memory = self.encode(source, mask=mask, key=key_enc)
        shifted = shift_right(target, self.begin)
        return self.states(shifted, memory, memory_mask=mask, key=key_dec)[0]

    def _start(self, source: Int[Array, "B M"]) -> decoding.Start:
        mask = source != self.pad
        return self.start(source, max_tokens=self.max_length, mask=mask, start=self.begin)


class NonAutoregressiveT5(nnx.Module):
    """T5's two stacks, the decoder's without a causal mask, and a classifier of the length."""

    def __init__(
        self,
        config: t5.T5Config,
        *,
        max_length: int,
        end: int = 2,
        pad: int = 0,
        rngs: nnx.Rngs,
    ):
        """Args:
        max_length: the longest target, T at most.
        end: id of the end token, `pad` of padding.
        """
        self.end, self.pad = end, pad
        decoder = dataclasses.replace(config.decoder, causal=False)
        self.t5 = t5.T5(dataclasses.replace(config, decoder=decoder), rngs=rngs)
        self.length = nnx.Linear(config.encoder.width, max_length, rngs=rngs)

    def __call__(
        self,
        source: Int[Array, "B M"],
        count: Int[Array, " B"],
        *,
        source_mask: Bool[Array, "B M"],
        positions: int | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B P V"], Float[Array, "B T"]]:
        """Logits of the first P positions, and of the lengths 1, ..., T.

        Args:
          count: number of target tokens of each row; positions from there on mean nothing.
          positions: P, where no row has more tokens than that; T by default.
        """
        key_enc, key_dec = split_key(key, 2)
        memory = self.t5.encode(source, mask=source_mask, key=key_enc)
        logits = self._decode(source, memory, count, source_mask, positions, key_dec)
        return logits, self._lengths(memory, source_mask)

    def translate(self, source: Int[Array, "B M"]) -> Int[Array, "B T"]:
        """As `generate`, with repeated tokens dropped."""
        tokens = self.generate(source, source_mask=source != self.pad)
        return drop_repeats(tokens, self.pad)

    def teacher_forced(
        self,
        source: Int[Array, "B M"],
        target: Int[Array, "B T"],
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T V"], Float[Array, " B"]]:
        """Logits of each target token, given how many there are, and what the length costs in nats.

        The decoder is told the true length; the model's own guess is trained by cross-entropy.
        """
        mask, count = source != self.pad, eos_mask(target, self.end).sum(1)
        logits, lengths = self(source, count, source_mask=mask, positions=target.shape[1], key=key)
        return logits, optax.softmax_cross_entropy_with_integer_labels(lengths, count - 1)

    def generate(
        self, source: Int[Array, "B M"], *, source_mask: Bool[Array, "B M"]
    ) -> Int[Array, "B T"]:
        """The likeliest tokens of the likeliest length."""
        memory = self.t5.encode(source, mask=source_mask)
        count = jnp.argmax(self._lengths(memory, source_mask), -1).astype(jnp.int32) + 1
        tokens = jnp.argmax(self._decode(source, memory, count, source_mask), -1)
        inside = jnp.arange(tokens.shape[1]) < count[:, None]
        return jnp.where(inside, tokens, self.pad).astype(jnp.int32)

    def _lengths(
        self, memory: Float[Array, "B M D"], mask: Bool[Array, "B M"]
    ) -> Float[Array, "B T"]:
        return self.length(bert.mean_pool(memory, mask).astype(jnp.float32))

    def _decode(
        self,
        source: Int[Array, "B M"],
        memory: Float[Array, "B M D"],
        count: Int[Array, " B"],
        source_mask: Bool[Array, "B M"],
        positions: int | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B P V"]:
        length = self.length.out_features if positions is None else positions
        read = copy_uniformly(source, source_mask.sum(1), count, length)
        mask = jnp.arange(length) < count[:, None]
        return self.t5.decode(read, memory, memory_mask=source_mask, mask=mask, key=key)[0]


def copy_uniformly(
    source: Int[Array, "B M"], size: Int[Array, " B"], count: Int[Array, " B"], length: int
) -> Int[Array, "B T"]:
    """Position i of `count` gets source token floor(i size / count), the last one from there on."""
    i = jnp.arange(length, dtype=jnp.int32)[None]
    place = jnp.minimum(i * size[:, None] // jnp.maximum(count, 1)[:, None], size[:, None] - 1)
    return jnp.take_along_axis(source, jnp.maximum(place, 0), 1)


def drop_repeats(tokens: Int[Array, "B T"], fill: int) -> Int[Array, "B T"]:
    """`fill` in place of every token that repeats the one before it, the usual repair (Gu et al.)."""
    same = tokens[:, 1:] == tokens[:, :-1]
    return jnp.concatenate([tokens[:, :1], jnp.where(same, fill, tokens[:, 1:])], 1)
