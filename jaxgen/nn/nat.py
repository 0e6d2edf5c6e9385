"""Non-autoregressive translation: all target tokens at once, given their number (Gu et al., 2018).

    p(y | x) = p(T | x) prod_i p(y_i | x, T)

The decoder sees no target tokens. What it reads at position i is the source token at the same relative
place, i M / T ("uniform copy"), and it attends to all positions. One pass serves all tokens.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.models import bert, t5
from jaxgen.nn.layers import split_key


class NonAutoregressiveT5(nnx.Module):
    """T5's two stacks, the decoder's without a causal mask, and a classifier of the length."""

    def __init__(self, config: t5.T5Config, *, max_length: int, rngs: nnx.Rngs):
        """Args:
        max_length: the longest target, T at most.
        """
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

    def generate(
        self, source: Int[Array, "B M"], *, source_mask: Bool[Array, "B M"], pad: int
    ) -> Int[Array, "B T"]:
        """The likeliest tokens of the likeliest length."""
        memory = self.t5.encode(source, mask=source_mask)
        count = jnp.argmax(self._lengths(memory, source_mask), -1).astype(jnp.int32) + 1
        tokens = jnp.argmax(self._decode(source, memory, count, source_mask), -1)
        inside = jnp.arange(tokens.shape[1]) < count[:, None]
        return jnp.where(inside, tokens, pad).astype(jnp.int32)

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
