"""Decoders that copy: words to generate and items of a memory to copy share one distribution.

With generate scores g_w over words and copy scores c_i over items, of which item i stands for the word id_i, one
softmax without a gate has

    p(w) = (exp g_w + sum_{i: id_i = w} exp c_i) / Z,    Z = sum_w exp g_w + sum_i exp c_i,    a_i = exp c_i / Z

where a_i is the probability that item i is copied (CopyNet, Gu et al., 2016; Wang et al., 2019). With a gate s,

    p(w) = (1 - s) softmax(g)_w + s sum_{i: id_i = w} softmax(c)_i

(Pointer-Generator, See et al., 2017), which is the first one of other scores: `gated_scores`. All is computed in log
space. Nothing here knows of a model: any decoder's states and any memory do.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxgen.errors import require
from jaxgen.nn.layers import linear
from jaxgen.numerics import wide


class Copied(NamedTuple):
    """Log-probabilities, and those parts of the probabilities that are copies, in float32 or wider.

    Attributes:
      logprobs: of words, [B, T, V]; -inf of what can be neither generated nor copied.
      copied: a, of the memory's items, [B, T, M]; 0 of those that are not real.
    """

    logprobs: Float[Array, "B T V"]
    copied: Float[Array, "B T M"]


def joint_copy(
    generate: Float[Array, "B T G"],
    copy: Float[Array, "B T M"],
    ids: Int[Array, "B M"],
    mask: Bool[Array, "B M"],
    *,
    copied_only: Bool[Array, " G"] | None = None,
    size: int = 0,
) -> Copied:
    """One softmax over words and items.

    Rows sum to 1, unless there is nothing to generate nor to copy: then all is impossible.

    Args:
      generate: scores of the first G words; -inf of one that cannot be generated.
      copy: scores of items.
      ids: the word that each item stands for; several items may stand for one.
      mask: which items are real; scores of others may be anything.
      copied_only: words that are not to be generated either.
      size: V, words in all; those from G on can be copied only. 0 is G.

    Raises:
      ValueError: fewer words than scores; outside jit, a real item of no word. Under jit it stands for none.
    """
    count = generate.shape[-1]
    size = size or count
    require("size", size >= count, size, f"at least {count}, as there are scores")
    _check_ids(ids, mask, size)
    g, c, low = _finite(generate, copy, mask, copied_only)
    log_z = _log_z(g, c)
    known = mask & (ids >= 0) & (ids < size)
    same = (ids[:, :, None] == ids[:, None, :]) & known[:, None, :]
    place = jnp.arange(ids.shape[1])
    first = known & ~(same & (place < place[:, None])).any(-1)
    # Of each word that can be copied its first item writes the score; unique indices make that one scatter.
    together = jax.nn.logsumexp(jnp.where(same[:, None], c[:, :, None, :], low), -1)
    words = jnp.pad(g, ((0, 0), (0, 0), (0, size - count)), constant_values=low)
    old = jnp.take_along_axis(words, jnp.where(known, ids, 0)[:, None], -1)
    at = jnp.where(first, ids, size + place)
    put = jax.vmap(lambda w, i, v: w.at[:, i].set(v, mode="drop", unique_indices=True))
    words = put(words, at, jnp.logaddexp(old, together))
    logprobs = jnp.where(words < low / 2, -jnp.inf, words - log_z[..., None])
    return Copied(logprobs, _weights(c, log_z, mask))


def joint_logprob(
    generate: Float[Array, "B T G"],
    copy: Float[Array, "B T M"],
    ids: Int[Array, "B M"],
    mask: Bool[Array, "B M"],
    targets: Int[Array, "B T"],
    *,
    copied_only: Bool[Array, " G"] | None = None,
) -> tuple[Float[Array, "B T"], Float[Array, "B T M"]]:
    """log p of target words under `joint_copy`, and a, without the distribution over all words.

    It costs what a softmax over G words costs, and is what training needs. Targets that can be neither generated nor
    copied have -inf, and give no gradient.

    Args:
      targets: ids from G on may be items' only; other arguments as of `joint_copy`.
    """
    g, c, low = _finite(generate, copy, mask, copied_only)
    log_z = _log_z(g, c)
    known = (targets >= 0) & (targets < g.shape[-1])
    word = jnp.where(known, targets, 0)
    if copied_only is not None:
        known = known & ~copied_only[word]
    # From the scores as they came, so that those of `_finite` need never be written to memory.
    made = jnp.take_along_axis(generate, word[..., None], -1)[..., 0].astype(g.dtype)
    made = jnp.where(known & ~jnp.isneginf(made), made, low)
    match = (ids[:, None, :] == targets[..., None]) & mask[:, None]
    total = jnp.logaddexp(made, jax.nn.logsumexp(jnp.where(match, c, low), -1))
    return jnp.where(total < low / 2, -jnp.inf, total - log_z), _weights(c, log_z, mask)


def gated_scores(
    generate: Float[Array, "B T G"],
    copy: Float[Array, "B T M"],
    gate: Float[Array, "B T"],
    mask: Bool[Array, "B M"],
    *,
    copied_only: Bool[Array, " G"] | None = None,
) -> tuple[Float[Array, "B T G"], Float[Array, "B T M"]]:
    """(generate, copy) scores whose joint softmax is the gated mixture.

    Where nothing can be copied, or nothing generated, the gate does not count.

    Args:
      gate: its logit: s = sigmoid(gate) is the share of copies.
    """
    g, c, low = _finite(generate, copy, mask, copied_only)
    lse_g, lse_c = (jax.nn.logsumexp(x, -1, keepdims=True) for x in (g, c))
    open_, shut = (jax.nn.log_sigmoid(x.astype(g.dtype))[..., None] for x in (gate, -gate))
    g = jnp.where(g < low / 2, -jnp.inf, g - lse_g + shut)
    return g, c - lse_c + open_


def gated_copy(
    generate: Float[Array, "B T G"],
    copy: Float[Array, "B T M"],
    gate: Float[Array, "B T"],
    ids: Int[Array, "B M"],
    mask: Bool[Array, "B M"],
    *,
    copied_only: Bool[Array, " G"] | None = None,
    size: int = 0,
) -> Copied:
    """The mixture of two softmaxes by a gate; see `gated_scores` and `joint_copy`."""
    g, c = gated_scores(generate, copy, gate, mask, copied_only=copied_only)
    return joint_copy(g, c, ids, mask, size=size)


def _finite(
    generate: Float[Array, "B T G"],
    copy: Float[Array, "B T M"],
    mask: Bool[Array, "B M"],
    copied_only: Bool[Array, " G"] | None,
) -> tuple[Float[Array, "B T G"], Float[Array, "B T M"], float]:
    """Scores in float32 or wider, and the low number that stands for -inf in them: gradients stay finite."""
    dtype = jnp.promote_types(wide(generate), wide(copy))
    low = _low(dtype)
    g = generate.astype(dtype)
    barred = jnp.isneginf(g)
    if copied_only is not None:
        barred = barred | copied_only
    return jnp.where(barred, low, g), jnp.where(mask[:, None], copy.astype(dtype), low), low


def _low(dtype: np.dtype) -> float:
    """Stands for -inf: sums and differences of a few such stay finite."""
    return float(jnp.finfo(dtype).min) / 4


def _log_z(g: Float[Array, "B T G"], c: Float[Array, "B T M"]) -> Float[Array, "B T"]:
    return jnp.logaddexp(jax.nn.logsumexp(g, -1), jax.nn.logsumexp(c, -1))


def _weights(
    c: Float[Array, "B T M"], log_z: Float[Array, "B T"], mask: Bool[Array, "B M"]
) -> Float[Array, "B T M"]:
    return jnp.where(mask[:, None], jnp.exp(c - log_z[..., None]), 0.0)


def _check_ids(ids: Int[Array, "B M"], mask: Bool[Array, "B M"], size: int) -> None:
    if isinstance(ids, jax.core.Tracer) or isinstance(mask, jax.core.Tracer):
        return
    real = np.asarray(ids)[np.asarray(mask)]
    bad = real[(real < 0) | (real >= size)]
    require("ids", not bad.size, bad[:4], f"0 to {size - 1}")


class Scores(NamedTuple):
    """What `CopyHead` makes of decoder states.

    Attributes:
      copy: scores of items [B, T, M].
      gate: its logit [B, T], or None without a gate.
      state: of coverage, [B, M, C], after the last step.
    """

    copy: Float[Array, "B T M"]
    gate: Float[Array, "B T"] | None
    state: Float[Array, "B M C"]


class CopyHead(nnx.Module):
    """c_i = tanh(U h_i + W k_i) . s: scores of a memory's items h for a decoder's states s.

    k_i is the coverage state of item i, a GRU that reads a_i and s after every step, so that the head knows what it
    has copied. It makes training sequential over steps, but no step of it sees the words. (Wang et al., 2019)
    """

    def __init__(
        self,
        memory_width: int,
        width: int,
        *,
        coverage: int = 128,
        gated: bool = False,
        rngs: nnx.Rngs,
    ):
        """Args:
        memory_width: E, of items; `width` D, of decoder states.
        coverage: C, width of the coverage state; 0 for none.
        gated: whether there is a gate.
        """
        self.coverage = coverage
        small = nnx.initializers.normal(1 / memory_width)  # so that first scores are of order 1
        self.project = nnx.Linear(memory_width, width, use_bias=False, kernel_init=small, rngs=rngs)
        self.gate = nnx.Linear(width, 1, rngs=rngs) if gated else None
        if coverage:
            self.read = nnx.Linear(coverage, width, use_bias=False, kernel_init=small, rngs=rngs)
            self.of_states = nnx.Linear(width, 3 * coverage, rngs=rngs)
            self.of_copies = nnx.Linear(1, 3 * coverage, use_bias=False, rngs=rngs)
            self.recurrent = nnx.Linear(coverage, 3 * coverage, rngs=rngs)

    def keys(self, memory: Float[Array, "B M E"]) -> Float[Array, "B M D"]:
        """U h, the same for all steps."""
        return linear(self.project, memory)

    def empty(self, keys: Float[Array, "B M D"]) -> Float[Array, "B M C"]:
        """The coverage state before the first step."""
        return jnp.zeros((*keys.shape[:2], self.coverage), keys.dtype)

    def __call__(
        self,
        keys: Float[Array, "B M D"],
        states: Float[Array, "B T D"],
        log_generate: Float[Array, "B T"],
        mask: Bool[Array, "B M"],
        state: Float[Array, "B M C"],
    ) -> Scores:
        """Scores of T steps.

        Args:
          log_generate: log sum_w exp g_w of each step, since a depends on it; not read with a gate.
          mask: which items are real.
          state: of coverage, from `empty` or from the step before.
        """
        gate = None if self.gate is None else linear(self.gate, states)[..., 0]
        if not self.coverage:
            return Scores(jnp.einsum("bmd,btd->btm", jnp.tanh(keys), states), gate, state)
        dtype = wide(states)
        low = _low(dtype)

        def body(
            state: Float[Array, "B M C"], turn: tuple[Array, Array]
        ) -> tuple[Float[Array, "B M C"], Float[Array, "B M"]]:
            s, rest = turn
            c = jnp.einsum("bmd,bd->bm", jnp.tanh(keys + linear(self.read, state)), s)
            x = jnp.where(mask, c.astype(dtype), low)
            if gate is None:
                log_z = jnp.logaddexp(rest, jax.nn.logsumexp(x, -1))
            else:  # a = s softmax(c)
                log_z = jax.nn.logsumexp(x, -1) - jax.nn.log_sigmoid(rest)
            a = jnp.where(mask, jnp.exp(x - log_z[:, None]), 0.0)
            return self._update(state, a.astype(s.dtype), s), c

        rest = (log_generate if gate is None else gate).astype(dtype)
        state, copy = jax.lax.scan(body, state, (states.swapaxes(0, 1), rest.swapaxes(0, 1)))
        return Scores(copy.swapaxes(0, 1), gate, state)

    def _update(
        self, state: Float[Array, "B M C"], copied: Float[Array, "B M"], s: Float[Array, "B D"]
    ) -> Float[Array, "B M C"]:
        """A GRU's step for every item; what reads s is the same for all of them."""
        given = linear(self.of_copies, copied[..., None]) + self.of_states(s)[:, None]
        kept = linear(self.recurrent, state)
        (r, z, n), (hr, hz, hn) = jnp.split(given, 3, -1), jnp.split(kept, 3, -1)
        z = jax.nn.sigmoid(z + hz)
        return (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + hr) * hn) + z * state
