"""Cross-entropy of tokens (or of any classes) in nats: each, summed over a row, or its mean.

    CE(x, y) = logsumexp(x) - x_y

with label smoothing s (Szegedy et al., 2016) against (1 - s) one_hot(y) + s / V instead of one_hot(y).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.errors import require
from jaxgen.numerics import Number, is_zero, wide


def cross_entropy(
    logits: Float[Array, "*B V"],
    targets: Int[Array, "*B"],
    mask: Bool[Array, "*B"] | None = None,
    *,
    label_smoothing: Number = 0.0,
) -> Float[Array, "*B"]:
    """CE of each target, in float32 or wider; 0 where it does not count.

    Infinite where a logit of -inf says that the target (with smoothing: any token) is impossible.

    Args:
      mask: which targets count; all by default. What stands elsewhere reaches neither value nor
        gradient, be it NaN. A target that counts and is outside the vocabulary gives NaN.
      label_smoothing: may be traced.

    Raises:
      ValueError: label_smoothing outside [0, 1).
    """
    ok = (label_smoothing >= 0) & (label_smoothing < 1)
    require("label_smoothing", ok, label_smoothing, "at least 0, below 1")
    x = logits.astype(wide(logits))
    if mask is not None:
        x = jnp.where(mask[..., None], x, 0.0)
    known = (targets >= 0) & (targets < x.shape[-1])
    chosen = jnp.take_along_axis(x, jnp.where(known, targets, 0)[..., None], -1)[..., 0]
    lse = jax.nn.logsumexp(x, -1)
    each = jnp.where(known, lse - chosen, jnp.nan)
    if not is_zero(label_smoothing):
        share = jnp.asarray(label_smoothing, x.dtype)
        # A traced share of 0 times the infinity of an impossible token would be NaN.
        uniform = jnp.where(share > 0, share * (lse - x.mean(-1)), 0.0)
        each = (1.0 - share) * each + uniform
    return each if mask is None else jnp.where(mask, each, 0.0)


def sum_cross_entropy(
    logits: Float[Array, "*B T V"],
    targets: Int[Array, "*B T"],
    mask: Bool[Array, "*B T"] | None = None,
    *,
    label_smoothing: Number = 0.0,
) -> tuple[Float[Array, "*B"], Int[Array, "*B"]]:
    """The sum of CE over the last axis, and how many targets counted; see `cross_entropy`."""
    each = cross_entropy(logits, targets, mask, label_smoothing=label_smoothing)
    counted = jnp.ones(targets.shape, bool) if mask is None else mask
    return each.sum(-1), counted.sum(-1, dtype=jnp.int32)


def mean_cross_entropy(
    logits: Float[Array, "*B T V"],
    targets: Int[Array, "*B T"],
    mask: Bool[Array, "*B T"] | None = None,
    *,
    label_smoothing: Number = 0.0,
) -> Float[Array, "*B"]:
    """The mean of CE over the targets of the last axis that count, 0 where none does."""
    total, count = sum_cross_entropy(logits, targets, mask, label_smoothing=label_smoothing)
    return total / jnp.maximum(count, 1)
