"""Style transfer without pairs: an encoder, a decoder that attends to it, and a style that it is told.

    memory = E(x)            a GRU that reads the text in both directions
    y ~ G(memory, style)     a GRU that begins from the style and the last state, and attends to the memory

It reads tokens or distributions over them, so that what it wrote (`jaxgen.text.gumbel_softmax.unroll`) can be read
again for a cycle back. Source: Yang et al. (2018), section 4, with the attention of Bahdanau et al. (2015) in the
form of Luong et al. (2015).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.errors import require
from jaxgen.nn.embedding import embed
from jaxgen.nn.layers import dropout, linear, split_key
from jaxgen.numerics import Number
from jaxgen.text import decoding
from jaxgen.text.masking import shift_right

# What a decoding step carries: hidden state, attention's output, keys [B, M, D] and the mask of the memory.
State = tuple[Array, Array, Array, Array]


class StyleTransfer(nnx.Module):
    """G(E(x), style): text to logits of text in one of several styles."""

    def __init__(
        self,
        vocab_size: int,
        styles: int,
        *,
        width: int,
        embedding: int = 0,
        dropout: float = 0.0,
        begin: int,
        rngs: nnx.Rngs,
    ):
        """Args:
        vocab_size: V, of both sides: all styles share it.
        styles: number of styles.
        width: D, of states and memory.
        embedding: width of tokens; 0 is D.
        dropout: rate, of embeddings and of what the output layer reads.
        begin: id that the decoder reads first.

        Raises:
          ValueError: fewer than 1 style, an odd width.
        """
        require("styles", styles >= 1, styles, "at least 1")
        require("width", width % 2 == 0, width, "an even number: half for each direction")
        size = embedding or width
        self.begin, self.dropout = begin, dropout
        init = nnx.initializers.normal(size**-0.5)
        self.tokens = nnx.Embed(vocab_size, size, embedding_init=init, rngs=rngs)
        self.styles = nnx.Embed(styles, width, embedding_init=init, rngs=rngs)
        self.forwards = nnx.GRUCell(size, width // 2, rngs=rngs)
        self.backwards = nnx.GRUCell(size, width // 2, rngs=rngs)
        self.bridge = nnx.Linear(2 * width, width, rngs=rngs)
        self.cell = nnx.GRUCell(size + width, width, rngs=rngs)
        self.query = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.mix = nnx.Linear(2 * width, width, rngs=rngs)
        self.out = nnx.Linear(width, vocab_size, rngs=rngs)

    def encode(
        self,
        text: Int[Array, "B M"] | Float[Array, "B M V"],
        mask: Bool[Array, "B M"],
        *,
        hidden: Bool[Array, "B M"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B M D"], Float[Array, "B D"]]:
        """States of all positions, and the last one of each direction.

        Args:
          mask: which positions are real, the first of each row; the others may hold anything.
          hidden: positions whose token is not seen, so that a copy is not all there is to learn.
          key: switches dropout on.
        """
        h = embed(self.tokens.embedding[...], text, "text", mask)
        if hidden is not None:
            h = jnp.where(hidden[..., None], 0, h)
        h = jnp.where(mask[..., None], dropout(h, self.dropout, key), 0)
        ahead, last = _read(self.forwards, h, mask)
        back, first = _read(self.backwards, h[:, ::-1], mask[:, ::-1])
        return jnp.concatenate([ahead, back[:, ::-1]], -1), jnp.concatenate([last, first], -1)

    def start(
        self,
        text: Int[Array, "B M"] | Float[Array, "B M V"],
        mask: Bool[Array, "B M"],
        style: Int[Array, " B"],
        *,
        hidden: Bool[Array, "B M"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> decoding.Start:
        """Reads a text; `jaxgen.text.decoding` and `gumbel_softmax.unroll` write from there, of any length.

        Args:
          text: see `encode`, as mask, hidden and key.
          style: of what is to be written.
        """
        state = self._begin(text, mask, style, hidden, key)
        first = jnp.full(state[0].shape[:1], self.begin, jnp.int32)
        logits, state = self._step(state, first)
        # The memory is the same at every step; the two states are stored.
        again = decoding.Rewind(lambda s: s[:2], lambda later, part, _: (*part, *later[2:]))
        return decoding.Start(self._step, state, logits, rewind=again)

    def __call__(
        self,
        text: Int[Array, "B M"] | Float[Array, "B M V"],
        mask: Bool[Array, "B M"],
        style: Int[Array, " B"],
        target: Int[Array, "B T"] | Float[Array, "B T V"],
        *,
        hidden: Bool[Array, "B M"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T V"]:
        """Logits of each token of `target` given those before it; see `start`."""
        key_in, key_read, key_out = split_key(key, 3)
        state = self._begin(text, mask, style, hidden, key_in)
        read = embed(self.tokens.embedding[...], shift_right(target, self.begin), "target")
        read = dropout(read, self.dropout, key_read)

        def body(carry: State, vector: Array) -> tuple[State, Array]:
            carry = self._move(carry, vector)
            return carry, carry[1]

        _, h = jax.lax.scan(body, state, read.swapaxes(0, 1))
        h = dropout(h.swapaxes(0, 1), self.dropout, key_out)
        return linear(self.out, h).astype(jnp.float32)

    def _begin(
        self, text: Array, mask: Array, style: Array, hidden: Array | None, key: Array | None
    ) -> State:
        memory, last = self.encode(text, mask, hidden=hidden, key=key)
        told = embed(self.styles.embedding[...], style, "style")
        h = jnp.tanh(self.bridge(jnp.concatenate([told, last], -1)))
        return h, jnp.zeros_like(h), memory, mask

    def _step(self, state: State, token: decoding.Token) -> tuple[Float[Array, "N V"], State]:
        state = self._move(state, embed(self.tokens.embedding[...], token))
        return self.out(state[1]).astype(jnp.float32), state

    def _move(self, state: State, read: Float[Array, "B E"]) -> State:
        h, attended, memory, mask = state
        h, _ = self.cell(h, jnp.concatenate([read, attended], -1))
        scores = jnp.einsum("BMD,BD->BM", memory, self.query(h))
        weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min))
        context = jnp.einsum("BM,BMD->BD", weights, memory)
        attended = jnp.tanh(self.mix(jnp.concatenate([h, context], -1)))
        return h, attended, memory, mask


def _read(
    cell: nnx.GRUCell, h: Float[Array, "B M E"], mask: Bool[Array, "B M"]
) -> tuple[Float[Array, "B M D"], Float[Array, "B D"]]:
    """A GRU's state at each position, and the last; it stays where a position is not real."""

    def body(carry: Array, turn: tuple[Array, Array]) -> tuple[Array, Array]:
        vector, real = turn
        new, _ = cell(carry, vector)
        new = jnp.where(real[:, None], new, carry)
        return new, new

    start = jnp.zeros((h.shape[0], cell.hidden_features), h.dtype)
    last, states = jax.lax.scan(body, start, (h.swapaxes(0, 1), mask.swapaxes(0, 1)))
    return states.swapaxes(0, 1), last


def hidden_words(key: Key[Array, ""], mask: Bool[Array, "B M"], rate: Number) -> Bool[Array, "B M"]:
    """About a share `rate` of the positions, to be hidden from an encoder.

    Raises:
      ValueError: a rate outside [0, 1].
    """
    require("rate", (rate >= 0) & (rate <= 1), rate, "0 to 1")
    return mask & jax.random.bernoulli(key, jnp.asarray(rate, jnp.float32), mask.shape)
