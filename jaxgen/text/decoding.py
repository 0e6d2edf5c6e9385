"""Decoding under jit: greedy, sampling with temperature, top-k and top-p, and beam search with all it found.

Everything works on a `step` function and its cache, so any autoregressive model decodes:

    step(cache, tokens [N]) -> (logits [N, V] of the next token, cache)

The steps of this project's models take distributions over tokens [N, V] too (`gumbel_softmax.unroll`).

A model's `start` method makes that function, a filled cache and the first logits. Loops are `lax.while_loop`s that end when every row has met its end-of-text token.
On a CPU, `jaxgen.nn.prepack.prepack(model)` decodes up to 64 rows faster than the model itself.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.errors import require
from jaxgen.numerics import Number, check_temperature, over_temperature, wide

# What a step reads: tokens, or distributions over them.
Token: TypeAlias = Int[Array, " N"] | Float[Array, "N V"]
Step = Callable[[PyTree, Token], tuple[Float[Array, "N V"], PyTree]]


class Rewind(NamedTuple):
    """How a cache of before is found again from a later one, so that a gradient need not store them all.

    Attributes:
      keep: cache -> the part of it that a later one does not hold, stored at every step.
      back: (a later cache, that part, by how many steps it is later) -> the cache. What the later one holds
        beyond may stay in it, as long as no step looks at it.
    """

    keep: Callable[[PyTree], PyTree]
    back: Callable[[PyTree, PyTree, Int[Array, ""]], PyTree]


class Start(NamedTuple):
    """Where decoding begins: the step function, its cache, and logits [B, V] of the first token.

    `room` is how many tokens the cache has room for; None says that it does not matter. `rewind` is used
    where gradients pass through the steps (`jaxgen.text.gumbel_softmax.unroll`).
    """

    step: Step
    cache: PyTree
    logits: Array
    room: int | None = None
    rewind: Rewind | None = None


class Decoded(NamedTuple):
    """Tokens [B, T], padded after the end, their number (the end-of-text token counts) and score.

    The score is the log-probability of the tokens under the model, in float32 or wider; for beam search
    it is divided by length ** length_penalty. Of max_tokens 0 there are no tokens and the score is 0.
    """

    tokens: Int[Array, "B T"]
    lengths: Int[Array, " B"]
    scores: Float[Array, " B"]


def force_ends(start: Start, last: Int[Array, " B"], *, end: int, early: bool = False) -> Start:
    """The same decoding, with rows that end where they have to.

    From a row's last position on, all tokens are `end`; what cannot be said has the dtype's lowest logit, so
    that logits stay finite.

    Args:
      last: position of each row's end token, counted from 0.
      end: its id.
      early: whether rows may end before that; if not, their length is known.

    Raises:
      ValueError: an end that is not in the vocabulary.
    """
    size = start.logits.shape[-1]
    require("end", 0 <= end < size, end, f"0 to {size - 1}")
    is_end = np.arange(size) == end  # a constant of any trace

    def forced(logits: Float[Array, "N V"], left: Int[Array, " N"]) -> Float[Array, "N V"]:
        lowest = jnp.finfo(logits.dtype).min
        due = (left <= 0)[:, None]
        barred = (due & ~is_end) | (~due & is_end & (not early))
        return jnp.where(barred, lowest, logits)

    def step(cache: PyTree, token: Array) -> tuple[Array, PyTree]:
        inner, left = cache
        logits, inner = start.step(inner, token)
        return forced(logits, left - 1), (inner, left - 1)

    inner = start.rewind
    rewind = inner and Rewind(
        lambda cache: inner.keep(cache[0]),
        lambda cache, part, n: (inner.back(cache[0], part, n), cache[1] + n),
    )
    return Start(step, (start.cache, last), forced(start.logits, last), start.room, rewind)


def filter_logits(
    logits: Float[Array, "N V"], *, top_k: int = 0, top_p: Number = 1.0
) -> Float[Array, "N V"]:
    """-inf for all but the k likeliest tokens, and outside the smallest set of probability p.

    Args:
      top_k: 0 keeps all (Fan et al., 2018).
      top_p: 1.0 keeps all (Holtzman et al., 2020); the likeliest token always stays. May be traced.

    Raises:
      ValueError: top_k negative, or top_p outside (0, 1].
    """
    require("top_k", top_k >= 0, top_k, "0 or more")
    require("top_p", (top_p > 0) & (top_p <= 1), top_p, "above 0 and at most 1")
    if top_k:
        threshold = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < threshold, -jnp.inf, logits)
    if isinstance(top_p, jax.core.Tracer) or top_p < 1.0:
        ordered = jnp.sort(logits, -1, descending=True)
        probs = jax.nn.softmax(ordered.astype(wide(logits)), -1)
        before = jnp.cumsum(probs, -1) - probs
        last = jnp.sum((before < top_p) | (top_p >= 1.0), -1, keepdims=True) - 1
        threshold = jnp.take_along_axis(ordered, last, -1)
        logits = jnp.where(logits < threshold, -jnp.inf, logits)
    return logits


def _check_room(start: Start, max_tokens: int) -> None:
    most = max_tokens if start.room is None else start.room
    allowed = "0 or more" + ("" if start.room is None else f", at most the prompt's {start.room}")
    require("max_tokens", 0 <= max_tokens <= most, max_tokens, allowed)


def _decode(
    start: Start,
    choose: Callable[[Array, Array], Int[Array, " N"]],
    *,
    max_tokens: int,
    eos: int,
    pad: int,
) -> Decoded:
    batch, dtype = start.logits.shape[0], wide(start.logits)
    _check_room(start, max_tokens)

    def body(carry: PyTree) -> PyTree:
        i, out, lengths, scores, done, logits, cache = carry
        token = jnp.where(done, pad, choose(logits, i)).astype(jnp.int32)
        x = logits.astype(dtype)
        taken = jnp.take_along_axis(x, token[:, None], -1)[:, 0] - jax.nn.logsumexp(x, -1)
        scores = scores + jnp.where(done, 0.0, taken)
        lengths = lengths + ~done
        out = jax.lax.dynamic_update_slice_in_dim(out, token[:, None], i, 1)
        done = done | (token == eos)
        # The last token's successor is not needed, but the loop body is the same for all.
        logits, cache = start.step(cache, token)
        return i + 1, out, lengths, scores, done, logits, cache

    def unfinished(carry: PyTree) -> Array:
        return (carry[0] < max_tokens) & ~carry[4].all()

    first = (
        jnp.zeros((), jnp.int32),
        jnp.full((batch, max_tokens), pad, jnp.int32),
        jnp.zeros(batch, jnp.int32),
        jnp.zeros(batch, dtype),
        jnp.zeros(batch, bool),
        start.logits,
        start.cache,
    )
    if max_tokens == 0:
        return Decoded(*first[1:4])
    _, out, lengths, scores, *_ = jax.lax.while_loop(unfinished, body, first)
    return Decoded(out, lengths, scores)


def greedy(start: Start, *, max_tokens: int, eos: int = -1, pad: int = 0) -> Decoded:
    """The likeliest token at each step. `eos` -1 never ends a row early."""
    return _decode(
        start, lambda logits, _: logits.argmax(-1), max_tokens=max_tokens, eos=eos, pad=pad
    )


def sample(
    start: Start,
    key: Key[Array, ""],
    *,
    max_tokens: int,
    eos: int = -1,
    pad: int = 0,
    temperature: Number = 1.0,
    top_k: int = 0,
    top_p: Number = 1.0,
) -> Decoded:
    """Draws each token from the filtered distribution at this temperature; towards 0, that is `greedy`.

    Args:
      temperature: may be traced, as top_p.

    Raises:
      ValueError: temperature not finite and above 0, top_k negative, or top_p outside (0, 1].
    """
    check_temperature(temperature)

    def choose(logits: Array, i: Array) -> Array:
        kept = filter_logits(over_temperature(logits, temperature), top_k=top_k, top_p=top_p)
        return jax.random.categorical(jax.random.fold_in(key, i), kept)

    return _decode(start, choose, max_tokens=max_tokens, eos=eos, pad=pad)


_NEVER = -1e9  # score of a hypothesis that is not there


def beam(
    start: Start,
    *,
    beams: int,
    max_tokens: int,
    eos: int = -1,
    pad: int = 0,
    length_penalty: Number = 1.0,
) -> Decoded:
    """Beam search; the best finished hypothesis of each row, by log p / length ** length_penalty.

    It is the first of `candidates`, whose arguments and errors it has.
    """
    found = candidates(
        start,
        beams=beams,
        max_tokens=max_tokens,
        eos=eos,
        pad=pad,
        length_penalty=length_penalty,
    )
    return Decoded(found.tokens[:, 0], found.lengths[:, 0], found.scores[:, 0])


class Candidates(NamedTuple):
    """What `candidates` found: tokens [B, K, T], lengths and scores [B, K] as those of `Decoded`, best first."""

    tokens: Int[Array, "B K T"]
    lengths: Int[Array, "B K"]
    scores: Float[Array, "B K"]


def candidates(
    start: Start,
    *,
    beams: int,
    max_tokens: int,
    eos: int = -1,
    pad: int = 0,
    length_penalty: Number = 1.0,
) -> Candidates:
    """Beam search; the `beams` best finished hypotheses of each row, by log p / length ** length_penalty.

    The rules are those of transformers' `generate` with early_stopping=False, so its tokens are the
    same: of the 2 x beams best continuations the unfinished ones go on, finished ones count only
    among the first `beams`, and a row stops when its best running hypothesis, scored at its present
    length, is below its worst finished one.

    Raises:
      ValueError: fewer than 1 beam, or more than the vocabulary allows.
    """
    batch, vocab = start.logits.shape
    if not 1 <= beams <= vocab // 2:
        raise ValueError(f"beams is {beams}, allowed: 1 to {vocab // 2}")
    _check_room(start, max_tokens)
    dtype = wide(start.logits)
    if max_tokens == 0:
        none = jnp.zeros((batch, beams), jnp.int32)
        return Candidates(jnp.zeros((batch, beams, 0), jnp.int32), none, none.astype(dtype))
    rows = jnp.arange(batch)[:, None]

    def spread(a: Array) -> Array:
        """Each row `beams` times."""
        return jnp.repeat(a, beams, 0) if jnp.ndim(a) else a

    def reorder(cache: PyTree, origin: Int[Array, "B K"]) -> PyTree:
        flat = (rows * beams + origin).reshape(-1)
        return jax.tree.map(lambda a: a[flat] if jnp.ndim(a) else a, cache)

    def gather(a: Array, index: Array) -> Array:
        return a[rows, index]

    def body(carry: PyTree) -> PyTree:
        i, running, scores, done, done_scores, is_done, open_, logits, cache, _ = carry
        logp = jax.nn.log_softmax(logits.astype(dtype)).reshape(batch, beams, vocab)
        total = (logp + scores[..., None]).reshape(batch, beams * vocab)
        best, index = jax.lax.top_k(total, 2 * beams)
        origin, token = index // vocab, (index % vocab).astype(jnp.int32)
        text = gather(running, origin).at[:, :, i].set(token)
        ends = (token == eos) | (i + 1 >= max_tokens)

        going, keep = jax.lax.top_k(best + ends * _NEVER, beams)
        running = gather(text, keep)

        share = (i + 1).astype(dtype) ** jnp.asarray(length_penalty, dtype)
        final = best / share
        final += ~open_[:, None] * _NEVER
        final += ~(ends & (jnp.arange(2 * beams) < beams)) * _NEVER
        merged = jnp.concatenate([done_scores, final], 1)
        finished = jnp.concatenate([is_done, ends & (jnp.arange(2 * beams) < beams)], 1)
        done_scores, keep_done = jax.lax.top_k(merged, beams)
        done = gather(jnp.concatenate([done, text], 1), keep_done)
        is_done = gather(finished, keep_done)

        hope = going[:, :1] / share
        worst = jnp.where(is_done, done_scores.min(1, keepdims=True), _NEVER)
        open_ = open_ & (hope > worst).any(1)
        cache = reorder(cache, gather(origin, keep))
        logits, cache = start.step(cache, running[:, :, i].reshape(-1))
        return i + 1, running, going, done, done_scores, is_done, open_, logits, cache, ends.all()

    def unfinished(carry: PyTree) -> Array:
        i, open_, all_end = carry[0], carry[6], carry[9]
        return (i < max_tokens) & open_.any() & ~all_end

    blank = jnp.full((batch, beams, max_tokens), pad, jnp.int32)
    first = (
        jnp.zeros((), jnp.int32),
        blank,
        jnp.where(jnp.arange(beams) == 0, 0.0, _NEVER) * jnp.ones((batch, 1), dtype),
        blank,
        jnp.full((batch, beams), _NEVER, dtype),
        jnp.zeros((batch, beams), bool),
        jnp.ones(batch, bool),
        spread(start.logits),
        jax.tree.map(spread, start.cache),
        jnp.zeros((), bool),
    )
    _, _, _, done, done_scores, *_ = jax.lax.while_loop(unfinished, body, first)
    hit = done == eos
    lengths = jnp.where(hit.any(-1), hit.argmax(-1) + 1, max_tokens).astype(jnp.int32)
    inside = jnp.arange(max_tokens) < lengths[..., None]
    return Candidates(jnp.where(inside, done, pad), lengths, done_scores)
