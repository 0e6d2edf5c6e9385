"""A record and a sentence in, a sentence out: the content of the one in the style of the other.

    memory = [set encoder(record); style encoder(sentence)]
    p(w | before, memory) = joint softmax of words to generate and values of the record to copy

The record's encoder has no positions, so the order of tuples says nothing of the order of words. Words of both
sentences have positions, of the size of an embedding: the decoder then follows the reference also past a copied value,
which stands where the reference has another word. Values are copied, and words generated; see
`jaxgen.data.record_arrays` for the ids. Source: Wang et al. (2019), arXiv:1901.09501; with Transformers in place of
LSTMs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen import fsdp
from jaxgen.errors import require
from jaxgen.nn import copy_attention
from jaxgen.nn.attention import Cache, make_cache
from jaxgen.nn.copy_attention import CopyHead
from jaxgen.nn.embedding import embed
from jaxgen.nn.layers import dropout, linear, split_key
from jaxgen.nn.prepack import thin_matmul
from jaxgen.nn.rotary import Rotary
from jaxgen.nn.transformer import Transformer
from jaxgen.nn.transformer_config import TransformerConfig
from jaxgen.text import copy_limits, decoding
from jaxgen.text.masking import shift_right

SPECIAL = 4  # padding 0, begin 1, end 2, unknown 3


class RecordIds(NamedTuple):
    """Tuples of records, padded with value 0: ids of types, values and owners, [B, M] each."""

    type: Int[Array, "B M"]
    value: Int[Array, "B M"]
    owner: Int[Array, "B M"]

    @property
    def mask(self) -> Bool[Array, "B M"]:
        """Which tuples are real."""
        return self.value != 0


class Memory(NamedTuple):
    """What the decoder reads.

    Attributes:
      states: of tuples, then of the style sentence's words, [B, M + S, D].
      mask: which of them are real.
      keys: of the copy head, for tuples alone.
      ids: the words that tuples are copied as, `real` which of those may be.
    """

    states: Float[Array, "B N D"]
    mask: Bool[Array, "B N"]
    keys: Float[Array, "B M D"]
    ids: Int[Array, "B M"]
    real: Bool[Array, "B M"]


# Of decoding: keys and values, the memory without its states, and the state of coverage.
State = tuple[Cache, Memory, Array]


class DataToText(nnx.Module):
    """Record and style sentence to the distribution of a sentence, token by token."""

    end, pad, begin = 2, 0, 1

    def __init__(
        self,
        vocab_size: int,
        types: int,
        *,
        generated: int,
        slots: int = 16,
        width: int = 192,
        depth: int = 2,
        heads: int = 4,
        coverage: int = 128,
        gated: bool = False,
        ordered: bool = False,
        copies: bool = True,
        tied: bool = True,
        dropout: float = 0.1,
        rngs: nnx.Rngs,
    ):
        """Args:
        vocab_size: V, of known words: the generated ones first, then those that are copied only.
        types: of tuples.
        generated: G, how many words may be generated; V where values may be too.
        slots: E, ids from V on, which stand for other values in each item.
        width: D, of all states; `depth` blocks in each of the three stacks, of `heads` heads.
        coverage: width of the copy head's coverage state; 0 for none.
        gated: a gate between words and copies in place of one softmax.
        ordered: tuples have positions. They then tell where to say what, which is a leak where tuples stand in
          the order of the sentence to write.
        copies: False for a decoder that generates alone, the record's values too where they may be.
        tied: words are scored by their embeddings (Press & Wolf, 2017), so that repeating a word of the style
          sentence is little to learn.
        dropout: rate.

        Raises:
          ValueError: sizes that cannot be so.
        """
        ok = SPECIAL <= generated <= vocab_size
        require("generated", ok, generated, f"{SPECIAL} to the vocabulary's {vocab_size}")
        require("slots", slots >= 0, slots, "0 or more")
        require("types", types >= 1, types, "at least 1")
        self.generated, self.size = generated, vocab_size + slots
        self.ordered, self.copies, self.dropout = ordered, copies, dropout

        def stack(*, causal: bool = False, rotary: bool = True) -> Transformer:
            config = TransformerConfig(
                width=width,
                depth=depth,
                heads=heads,
                causal=causal,
                cross=causal,
                rotary=Rotary() if rotary else None,
                dropout=dropout,
            )
            return Transformer(config, rngs=rngs)

        init = nnx.initializers.normal(width**-0.5)
        self.tokens = nnx.Embed(self.size, width, embedding_init=init, rngs=rngs)
        self.types = nnx.Embed(types, width, embedding_init=init, rngs=rngs)
        self.tuple = nnx.Linear(3 * width, width, rngs=rngs)
        self.sides = nnx.Embed(2, width, embedding_init=init, rngs=rngs)
        self.record_encoder = stack(rotary=False)
        self.style_encoder = stack()
        self.decoder = stack(causal=True)
        self.out = None if tied else nnx.Linear(width, generated, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(generated)) if tied else None
        self.copy = CopyHead(width, width, coverage=coverage, gated=gated, rngs=rngs)

    def encode(
        self, record: RecordIds, style: Int[Array, "B S"], key: Key[Array, ""] | None = None
    ) -> Memory:
        """Reads both.

        Args:
          record: any number of tuples, at least one in each row.
          style: the reference, padded.
          key: switches dropout on.

        Raises:
          ValueError: outside jit, a record without tuples, or ids that the model does not have.
        """
        keys = split_key(key, 4)
        real = record.mask
        filled = real.any(-1)
        require("tuples of each record", filled, real.sum(-1), "at least 1")
        words = self.tokens.embedding[...]
        parts = (
            embed(words, record.value, "value", real),
            embed(self.types.embedding[...], record.type, "type", real),
            embed(words, record.owner, "owner", real),
        )
        x = linear(self.tuple, jnp.concatenate([fsdp.looked_up(p) for p in parts], -1))
        if self.ordered:
            x = _with_positions(x)
        tuples, _, _ = self.record_encoder(
            dropout(x, self.dropout, keys[0]), mask=real, key=keys[1]
        )
        seen = style != self.pad
        y = _with_positions(self._read(style, seen, "style", keys[2]))
        sentence, _, _ = self.style_encoder(y, mask=seen, key=keys[3])
        side = self.sides.embedding[...]
        states = jnp.concatenate([tuples + side[0], sentence + side[1]], 1)
        mask = jnp.concatenate([real, seen], 1)
        copied = real if self.copies else jnp.zeros_like(real)
        return Memory(states, mask, self.copy.keys(tuples), record.value, copied)

    def teacher_forced(
        self,
        record: RecordIds,
        style: Int[Array, "B S"],
        target: Int[Array, "B T"],
        key: Key[Array, ""] | None = None,
    ) -> copy_attention.Copied:
        """Log-probabilities [B, T, V + E] of each word of `target` given those before it, and copies [B, T, M]."""
        generate, copy, memory = self._scores(record, style, target, key)
        return copy_attention.joint_copy(generate, copy, memory.ids, memory.real, size=self.size)

    def logprob(
        self,
        record: RecordIds,
        style: Int[Array, "B S"],
        target: Int[Array, "B T"],
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T"], Float[Array, "B T M"]]:
        """The same of the target words alone, which is all that likelihoods need, and the copies.

        -inf of words that cannot be said: unknown ones, padding, and values that the record lacks; see
        `jaxgen.losses.coverage.possible_nll`.
        """
        generate, copy, memory = self._scores(record, style, target, key)
        return copy_attention.joint_logprob(generate, copy, memory.ids, memory.real, target)

    def start(
        self, record: RecordIds, style: Int[Array, "B S"], *, max_tokens: int
    ) -> decoding.Start:
        """Reads both; `jaxgen.text.decoding` writes from there. Its logits are log-probabilities [B, V + E].

        Args:
          max_tokens: room for what will be decoded.
        """
        memory = self.encode(record, style)
        batch = style.shape[0]
        first = jnp.full((batch, 1), self.begin, jnp.int32)
        cache = make_cache(self.decoder.config, batch, 1 + max_tokens)
        logits, state = self._step((cache, memory, self.copy.empty(memory.keys)), first)
        # Cross attention keeps what it needs of the states in its cache.
        cache, memory, covered = state
        held = memory._replace(states=memory.states[:, :0])
        return decoding.Start(self._decode_step, (cache, held, covered), logits, max_tokens)

    def write(
        self,
        record: RecordIds,
        style: Int[Array, "B S"],
        *,
        max_tokens: int,
        beams: int = 5,
        once: bool = False,
    ) -> decoding.Decoded:
        """The likeliest sentences that beam search finds; with 1 beam, greedy ones.

        Args:
          once: no value is written more often than the record has it; see `jaxgen.text.copy_limits`.
        """
        start = self.start(record, style, max_tokens=max_tokens)
        if once:
            start = copy_limits.as_often_as_there(start, record.value, record.mask)
        options = {"max_tokens": max_tokens, "eos": self.end, "pad": self.pad}
        if beams == 1:
            return decoding.greedy(start, **options)
        return decoding.beam(start, beams=beams, **options)

    def _read(
        self, tokens: Array, mask: Bool[Array, "B T"] | None, name: str, key: Array | None
    ) -> Float[Array, "B T D"]:
        rows = embed(self.tokens.embedding[...], tokens, name, mask)
        return dropout(fsdp.looked_up(rows), self.dropout, key)

    def states(
        self,
        record: RecordIds,
        style: Int[Array, "B S"],
        target: Int[Array, "B T"],
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], Memory]:
        """The decoder's states before each word of `target`, given those before it, and what it read."""
        keys = split_key(key, 4)
        memory = self.encode(record, style, keys[0])
        read = _with_positions(self._read(shift_right(target, self.begin), None, "target", keys[1]))
        h, _, _ = self.decoder(read, memory=memory.states, memory_mask=memory.mask, key=keys[2])
        return dropout(h, self.dropout, keys[3]), memory

    def _scores(
        self,
        record: RecordIds,
        style: Int[Array, "B S"],
        target: Int[Array, "B T"],
        key: Key[Array, ""] | None,
    ) -> tuple[Float[Array, "B T G"], Float[Array, "B T M"], Memory]:
        """Scores of the joint softmax."""
        h, memory = self.states(record, style, target, key)
        generate, copy, _ = self._heads(h, memory, self.copy.empty(memory.keys))
        return generate, copy, memory

    def _heads(
        self, h: Float[Array, "B T D"], memory: Memory, covered: Float[Array, "B M C"]
    ) -> tuple[Float[Array, "B T G"], Float[Array, "B T M"], Float[Array, "B M C"]]:
        scores = self._words(h).astype(jnp.float32)
        place = jnp.arange(self.generated)
        never = (place < SPECIAL) & (place != self.end)
        generate = jnp.where(never, -jnp.inf, scores)
        total = jax.nn.logsumexp(generate, -1)
        copy, gate, covered = self.copy(memory.keys, h, total, memory.real, covered)
        if gate is not None:
            generate, copy = copy_attention.gated_scores(generate, copy, gate, memory.real)
        return generate, copy, covered

    def _words(self, h: Float[Array, "B T D"]) -> Float[Array, "B T G"]:
        if self.out is not None:
            return linear(self.out, h)
        words = fsdp.gather_table(self.tokens.embedding[...], h.dtype)[: self.generated]
        scores = thin_matmul(h, words)
        return scores if self.bias is None else scores + self.bias[...].astype(h.dtype)

    def _step(self, state: State, token: Array) -> tuple[Float[Array, "B W"], State]:
        """`token`: ids [B, 1], or distributions over words [B, 1, V + E]."""
        cache, memory, covered = state
        first = memory.states if cache.cross is None else None
        h, filled, _ = self.decoder(
            _with_positions(self._read(token, None, "token", None), cache.read[:, None]),
            memory=first,
            memory_mask=memory.mask,
            cache=cache,
        )
        if filled is None:
            raise ValueError("cache is None, allowed: one of `make_cache`")
        generate, copy, covered = self._heads(h, memory, covered)
        whole = copy_attention.joint_copy(generate, copy, memory.ids, memory.real, size=self.size)
        return whole.logprobs[:, 0], (filled, memory, covered)

    def _decode_step(
        self, state: State, token: Int[Array, " N"] | Float[Array, "N W"]
    ) -> tuple[Float[Array, "N W"], State]:
        return self._step(state, token[:, None])


def _with_positions(
    x: Float[Array, "B N D"], at: Int[Array, "B N"] | None = None
) -> Float[Array, "B N D"]:
    """`x` with sinusoidal positions (Vaswani et al., 2017), 0, 1, ... unless they are given.

    They are scaled as embeddings are, by D^-1/2; at their own size they would drown them.
    """
    width = x.shape[-1]
    positions = jnp.arange(x.shape[1]) if at is None else at
    rates = 10_000.0 ** -jnp.linspace(0.0, 1.0, (width + 1) // 2)
    angles = positions[..., None] * rates
    waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)[..., :width]
    return x + (waves * width**-0.5).astype(x.dtype)
