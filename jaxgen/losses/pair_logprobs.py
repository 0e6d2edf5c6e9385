"""Log-probabilities of every target token at every output position, at the cost of cross-entropy.

    c[b, i, j] = log p(y_bj | position i) = logits[b, i, y_bj] - logsumexp(logits[b, i])

All that sequence losses here need of [B, T, V] logits is these [B, T, S] numbers. Neither pass holds a
second array of the logits' size but the gradient itself: it is the softmax term, into which the S
entries of each position are added in place.

On CPU, where exponentials are the cost, those of the forward pass are kept in the buffer that becomes the gradient
(0.6 to 0.9 of the time, `benchmarks/eisl.py`). Elsewhere memory traffic is the cost, and they are computed again from
the logits, which are there anyway: keeping them would write and read one array more.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxgen.numerics import wide

LARGE = 1e15  # sums of exponentials up to here leave room for their inverse times a small gradient


@jax.custom_vjp
def pair_logprobs(
    logits: Float[Array, "B T V"], targets: Int[Array, "B S"]
) -> Float[Array, "B T S"]:
    """c, in float32 or wider, for logits of any float type; T and S may differ. Reverse mode only.

    A target outside the vocabulary has NaN. Positions to which no gradient flows pass none on, whatever
    their logits are.
    """
    chosen = at_targets(logits, targets).astype(wide(logits))
    lse = logsumexp(logits, shift_of(chosen))
    return known(chosen - lse[..., None], targets, logits.shape[-1])


def _forward(logits: Array, targets: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    chosen = at_targets(logits, targets).astype(wide(logits))
    kept, row, lse = jax.lax.platform_dependent(
        logits, shift_of(chosen), cpu=_exponentials, default=_logits
    )
    c = known(chosen - lse[..., None], targets, logits.shape[-1])
    return c, (kept, row, targets)


def _logits(x: Array, shift: Array) -> tuple[Array, Array, Array]:
    """What the gradient needs where exponentials are computed twice: logits and logsumexp (and logsumexp)."""
    lse = logsumexp(x, shift)
    return x, lse, lse


def _exponentials(x: Array, shift: Array) -> tuple[Array, Array, Array]:
    """What it needs where they are kept: exp(x - shift) in x' dtype, its sum (and logsumexp)."""

    # Where a sum is too large, all once more from the maximum. A loop of at most one turn, since what a loop
    # carries is updated in place, and what a branch returns is copied; its turn depends on what is carried, or
    # XLA would take it out of the loop.
    most = min(LARGE, float(jnp.finfo(x.dtype).max))
    Carry = tuple[Array, Array, Array, Array]

    def at(shift: Array, first: bool) -> Carry:
        e = jnp.exp(x.astype(shift.dtype) - shift[..., None])
        total = e.sum(-1)
        return e.astype(x.dtype), total, shift, first & ~(total < most).all()

    def from_maximum(carry: Carry) -> Carry:
        return at(jnp.maximum(x.astype(shift.dtype), carry[2][..., None]).max(-1), False)

    e, total, shift, _ = jax.lax.while_loop(lambda carry: carry[3], from_maximum, at(shift, True))
    return e, total, shift + jnp.log(total)


def shift_of(chosen: Float[Array, "B T S"]) -> Float[Array, "B T"]:
    """Of `logsumexp`: the largest of the targets' logits, or 0 without targets."""
    return chosen.max(-1) if chosen.shape[-1] else jnp.zeros(chosen.shape[:-1], chosen.dtype)


def known(
    c: Float[Array, "B T S"], targets: Int[Array, "B S"], vocab: int, fill: float = jnp.nan
) -> Float[Array, "B T S"]:
    """c, and `fill` for targets outside the vocabulary."""
    return jnp.where(((targets >= 0) & (targets < vocab))[:, None], c, fill)


def at_targets(logits: Float[Array, "B T V"], targets: Int[Array, "B S"]) -> Float[Array, "B T S"]:
    """logits[b, i, y_bj]; of the nearest entry where there is no such one (see `known`)."""
    take = jax.vmap(lambda x, y: x.at[:, y].get(mode="clip"))
    return take(jnp.asarray(logits), jnp.asarray(targets))


def logsumexp(
    logits: Float[Array, "B T V"], shift: Float[Array, "B T"], axis_name: str | None = None
) -> Float[Array, "B T"]:
    """In one pass over the logits where that is exact, and in the usual two where it is not.

    The shift need not be the maximum: with any entry of the row as shift, the sum is at least 1, and
    where it stays far from overflow nothing is lost.

    Args:
      shift: entries of the rows, in the dtype of the result.
      axis_name: a mesh axis over which V is split.
    """
    x = logits.astype(shift.dtype)

    def over_axis(reduce: Callable[[Array, str], Array], value: Array) -> Array:
        return value if axis_name is None else reduce(value, axis_name)

    def safe() -> Array:
        top = over_axis(jax.lax.pmax, x.max(-1))
        return top + jnp.log(over_axis(jax.lax.psum, jnp.exp(x - top[..., None]).sum(-1)))

    total = over_axis(jax.lax.psum, jnp.exp(x - shift[..., None]).sum(-1))
    return jax.lax.cond((total < 1e30).all(), lambda: shift + jnp.log(total), safe)


def logits_gradient(
    logits: Float[Array, "B T V"],
    lse: Float[Array, "B T"],
    targets: Int[Array, "B S"],
    g: Float[Array, "B T S"],
    here: Bool[Array, "B S"] | None = None,
) -> Float[Array, "B T V"]:
    """Gradient with respect to the logits, where that of c is g.

    Args:
      lse: logsumexp of the whole vocabulary.
      here: which targets are among these V entries of a split vocabulary; all by default.
    """
    softmax = jnp.exp(logits.astype(lse.dtype) - lse[..., None])
    return _scattered(softmax, jnp.ones_like(lse), targets, g, logits.dtype, here)


def _scattered(
    e: Float[Array, "B T V"],
    scale: Float[Array, "B T"],
    targets: Int[Array, "B S"],
    g: Float[Array, "B T S"],
    dtype: DTypeLike,
    here: Bool[Array, "B S"] | None = None,
) -> Float[Array, "B T V"]:
    """The gradient, of a softmax that is e * scale."""
    total = g.sum(-1)
    # 0 times the NaN of a position that does not count would be NaN.
    factor = jnp.where(total != 0, -total * scale, 0.0)[..., None]
    grad = jnp.where(factor != 0, factor * e, 0.0).astype(dtype)
    own = g if here is None else jnp.where(here[:, None], g, 0.0)
    # A target's column of all T positions at a time: half the time of entry by entry.
    add = jax.vmap(lambda d, y, g: d.at[:, y].add(g, mode="clip"))
    return add(grad, targets, own.astype(dtype))


def _backward(saved: tuple[Array, Array, Array], g: Array) -> tuple[Array, None]:
    kept, row, targets = saved
    g = known(g, targets, kept.shape[-1], 0.0)
    e, scale = jax.lax.platform_dependent(
        kept,
        row,
        cpu=lambda e, total: (e.astype(total.dtype), 1.0 / total),
        default=lambda x, lse: (jnp.exp(x.astype(lse.dtype) - lse[..., None]), jnp.ones_like(lse)),
    )
    return _scattered(e, scale, targets, g, kept.dtype), None


pair_logprobs.defvjp(_forward, _backward)
