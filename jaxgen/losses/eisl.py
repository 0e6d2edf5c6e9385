"""EISL, the edit-invariant sequence loss (Liu et al., 2022).

Each n-gram of the target is matched with all n-grams of the model's output, so that a target whose
words are shifted, repeated or partly wrong costs less than under cross-entropy. With c[i, j] the
log-probability of target token j at output position i (`jaxgen.losses.pair_logprobs`),

    m_n[i, j] = (1/n) sum_{k<n} c[i+k, j+k]             an n x n identity convolution (eq. 6)
    a_n[i, j] = softmax_i(m_n[i, j] / temperature)      where in the output it fits best
    L_n       = - mean_j sum_i a_n[i, j] m_n[i, j]
    L         = sum_n w_n L_n                           (eq. 7)

The diagonal sums of n are those of n - 1 plus one more term. n-grams that touch padding, of the output
or of the target, are left out exactly.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.errors import require
from jaxgen.losses.pair_logprobs import pair_logprobs
from jaxgen.numerics import Number, check_temperature, is_zero, mean, over_temperature


def eisl_loss(
    logits: Float[Array, "B T V"],
    targets: Int[Array, "B S"],
    *,
    ngrams: Sequence[int] = (2, 3, 4),
    logits_mask: Bool[Array, "B T"] | None = None,
    targets_mask: Bool[Array, "B S"] | None = None,
    weights: Sequence[float] | None = None,
    temperature: Number = 1.0,
    key: Key[Array, ""] | None = None,
    clip: Number | None = None,
) -> Float[Array, " B"]:
    """L of each row, in nats a token, in float32 or wider. Reverse-mode differentiable.

    Infinite where some n-gram of the target is impossible everywhere in the output. What stands at
    masked positions reaches neither value nor gradient, be it NaN.

    Args:
      logits: of the output positions; T and S may differ.
      ngrams: the n; 0 stands for the length of each row's target, -1 for one less.
      logits_mask: which output positions are real (all by default), padding at the end.
      targets_mask: which target tokens are real, padding at the end.
      weights: w_n; equal and of sum 1 by default.
      temperature: of the softmax over output positions; may be traced, to be annealed.
      key: given, the weights are Gumbel-softmax draws, as in the authors' code; else deterministic.
      clip: lower bound of c (the authors take -20); its gradient below is 0.

    Raises:
      ValueError: an n that does not fit into T and S, weights of another number, a temperature that
        is not above 0.
    """
    check(ngrams, weights, temperature, logits.shape[1], targets.shape[1])
    return eisl_from_pairs(
        pair_logprobs(logits, targets),
        ngrams=ngrams,
        logits_mask=logits_mask,
        targets_mask=targets_mask,
        weights=weights,
        temperature=temperature,
        key=key,
        clip=clip,
    )


def eisl_from_pairs(
    c: Float[Array, "B T S"],
    *,
    ngrams: Sequence[int] = (2, 3, 4),
    logits_mask: Bool[Array, "B T"] | None = None,
    targets_mask: Bool[Array, "B S"] | None = None,
    weights: Sequence[float] | None = None,
    temperature: Number = 1.0,
    key: Key[Array, ""] | None = None,
    clip: Number | None = None,
) -> Float[Array, " B"]:
    """The loss of log-probabilities c; see `eisl_loss`. A row without any n-gram of a size has 0."""
    batch, outputs, length = c.shape
    check(ngrams, weights, temperature, outputs, length)
    each = [1.0 / len(ngrams)] * len(ngrams) if weights is None else list(weights)
    real_i = jnp.ones((batch, outputs), bool) if logits_mask is None else logits_mask
    real_j = jnp.ones((batch, length), bool) if targets_mask is None else targets_mask
    if clip is not None:
        c = jnp.maximum(c, jnp.asarray(clip, c.dtype))
    total = jnp.zeros(batch, c.dtype)
    # Padding gets 0, so that no NaN or infinity of a padded position can reach a sum.
    c = jnp.where(real_i[:, :, None] & real_j[:, None, :], c, 0.0)
    sums = {1: (c, real_i, real_j)}
    for n in range(2, max([1, *ngrams]) + 1):
        last, ok_i, ok_j = sums[n - 1]
        sums[n] = (
            last[:, :-1, :-1] + c[:, n - 1 :, n - 1 :],
            ok_i[:, :-1] & real_i[:, n - 1 :],
            ok_j[:, :-1] & real_j[:, n - 1 :],
        )
    for place, (n, w) in enumerate(zip(ngrams, each, strict=True)):
        noise = None if key is None else jax.random.fold_in(key, place)
        if n >= 1:
            diagonal, ok_i, ok_j = sums[n]
            match = diagonal / n
        else:
            match, ok_i, ok_j = _long_matches(c, real_i, real_j, spare=-n)
        matched = _soft_match(match, ok_i, ok_j, temperature, noise)
        total = total + jnp.asarray(w, c.dtype) * matched
    return total


def check(
    ngrams: Sequence[int],
    weights: Sequence[float] | None,
    temperature: Number,
    outputs: int,
    length: int,
) -> None:
    """Raises ValueError for settings of `eisl_loss` that cannot be."""
    if not ngrams or min(ngrams) < -1:
        raise ValueError(f"ngrams is {tuple(ngrams)}, allowed: one or more of -1, 0, 1, 2, ...")
    if max(ngrams) > min(outputs, length):
        raise ValueError(
            f"ngrams is {tuple(ngrams)}, allowed: at most {min(outputs, length)}, the shorter of "
            f"output ({outputs}) and target ({length})"
        )
    if weights is not None and len(weights) != len(ngrams):
        raise ValueError(f"weights are {len(weights)}, allowed: {len(ngrams)}, one for each n")
    check_temperature(temperature)


def _soft_match(
    match: Float[Array, "B I J"],
    ok_i: Bool[Array, "B I"],
    ok_j: Bool[Array, "B J"],
    temperature: Number,
    key: Key[Array, ""] | None,
) -> Float[Array, " B"]:
    """- mean over allowed j of sum_i softmax_i((match + noise) / temperature) match."""
    offset = jnp.where(ok_i[:, :, None], 0.0, -jnp.inf).astype(match.dtype)
    if key is not None:
        offset = offset + jax.random.gumbel(key, match.shape, match.dtype)
    # 0 where it does not count: an infinity there would make its weight of 0 a NaN.
    match = jnp.where(ok_i[:, :, None], match, 0.0)
    best = _soft_average(match, offset, jnp.asarray(temperature, match.dtype))
    there = ok_j & ok_i.any(1, keepdims=True)
    return -jnp.where(there, best, 0.0).sum(1) / jnp.maximum(there.sum(1), 1)


@jax.custom_jvp
def _soft_average(match: Float[Array, "B I J"], offset: Array, temperature: Array) -> Array:
    """sum_i a_i m_i, [B, J], with a = softmax_i((m + offset) / temperature); the offset is a constant.

    Its derivative, a_i (1 + (m_i - sum a m) / temperature), takes one array where automatic
    differentiation keeps several.
    """
    return _soft_weights(match, offset, temperature)[2]


def _soft_weights(match: Array, offset: Array, temperature: Array) -> tuple[Array, Array, Array]:
    """Weights, m_i - sum a m, and sum a m. Nothing overflows at a small temperature."""
    each = jnp.exp(over_temperature(match + offset, temperature, axis=1))
    # The sum is at least 1, but where nothing is possible: there weights are 0 and sum a m -infinity.
    weight = each / jnp.maximum(each.sum(1, keepdims=True), 1.0)
    # From the largest, so that equal matches differ by exactly 0.
    top = jnp.where(offset > -jnp.inf, match, -jnp.inf).max(1, keepdims=True)
    apart = jnp.where(weight > 0, match - top, 0.0)
    mean = (weight * apart).sum(1, keepdims=True)
    return weight, jnp.where(weight > 0, apart - mean, 0.0), (top + mean)[:, 0]


def _soft_average_jvp(
    primals: tuple[Array, ...], tangents: tuple[Array | SymbolicZero, ...]
) -> tuple[Array, Array]:
    match, offset, temperature = primals
    weight, apart, best = _soft_weights(match, offset, temperature)
    t = jnp.maximum(temperature, jnp.finfo(match.dtype).tiny)
    tangent = jnp.zeros_like(best)
    if not isinstance(tangents[0], SymbolicZero):
        tangent = tangent + (weight * (1.0 + apart / t) * tangents[0]).sum(1)
    if not isinstance(tangents[2], SymbolicZero):
        score = jnp.where(weight > 0, match + offset, 0.0)
        tangent = tangent - (weight * apart * score).sum(1) / t**2 * tangents[2]
    return best, tangent


_soft_average.defjvp(_soft_average_jvp, symbolic_zeros=True)


def _long_matches(
    c: Float[Array, "B T S"], real_i: Bool[Array, "B T"], real_j: Bool[Array, "B S"], *, spare: int
) -> tuple[Array, Array, Array]:
    """Matches of n-grams that are as long as each row's target, less `spare` (0 or 1).

    Such an n-gram starts at j <= spare, and n differs from row to row.
    """
    _, outputs, length = c.shape
    size = real_j.sum(1) - spare  # n of each row
    i, k = jnp.arange(outputs), jnp.arange(length)
    ahead = jnp.minimum(i[:, None] + k[None], outputs - 1)  # [T, S]
    columns = []
    for j in range(min(spare + 1, length)):
        # [B, T, S]: c at (i + k, j + k).
        diagonal = c[:, ahead, jnp.minimum(j + k, length - 1)[None]]
        used = k[None, None] < size[:, None, None]
        columns.append(jnp.where(used, diagonal, 0.0).sum(-1) / jnp.maximum(size, 1)[:, None])
    fits = (i[None] + size[:, None] <= real_i.sum(1)[:, None]) & (size[:, None] > 0)
    return (
        jnp.stack(columns, -1),
        fits,
        jnp.broadcast_to(size[:, None] > 0, (c.shape[0], len(columns))),
    )


def mixed_loss(
    logits: Float[Array, "B T V"],
    targets: Int[Array, "B T"],
    *,
    ngram_factor: Number = 1.0,
    ce_factor: Number = 1.0,
    label_smoothing: Number = 0.0,
    mask: Bool[Array, "B T"] | None = None,
    ngrams: Sequence[int] = (2, 3, 4),
    weights: Sequence[float] | None = None,
    temperature: Number = 1.0,
    key: Key[Array, ""] | None = None,
    clip: Number | None = None,
) -> Float[Array, " B"]:
    """ngram_factor EISL + ce_factor CE of each row; outputs and targets stand side by side (T = S).

    Cross-entropy is on the diagonal of c, so it costs nothing more.

    Args:
      label_smoothing: the share of the uniform distribution in CE (Szegedy et al., 2016).
      mask: real positions, of output and target alike.

    The other arguments are those of `eisl_loss`.

    Raises:
      ValueError: as `eisl_loss`; label_smoothing outside [0, 1).
    """
    ok = (label_smoothing >= 0) & (label_smoothing < 1)
    require("label_smoothing", ok, label_smoothing, "at least 0, below 1")
    for name, factor in (("ngram_factor", ngram_factor), ("ce_factor", ce_factor)):
        require(name, (factor > -jnp.inf) & (factor < jnp.inf), factor, "finite")
    c = pair_logprobs(logits, targets)
    each = -jnp.diagonal(c, axis1=1, axis2=2)
    if not is_zero(label_smoothing):
        x = logits.astype(c.dtype)
        if mask is not None:
            x = jnp.where(mask[..., None], x, 0.0)
        uniform = jax.nn.logsumexp(x, -1) - x.mean(-1)
        each = (1.0 - label_smoothing) * each + label_smoothing * uniform
    loss = jnp.zeros(c.shape[0], c.dtype)
    if not is_zero(ce_factor):
        loss = loss + jnp.asarray(ce_factor, c.dtype) * _mean_over(each, mask)
    if not is_zero(ngram_factor):
        matched = eisl_from_pairs(
            c,
            ngrams=ngrams,
            logits_mask=mask,
            targets_mask=mask,
            weights=weights,
            temperature=temperature,
            key=key,
            clip=clip,
        )
        loss = loss + jnp.asarray(ngram_factor, c.dtype) * matched
    return loss


def _mean_over(x: Float[Array, "B T"], mask: Bool[Array, "B T"] | None) -> Float[Array, " B"]:
    if mask is None:
        return mean(x, 1)
    return jnp.where(mask, x, 0.0).sum(1) / jnp.maximum(mask.sum(1), 1)
