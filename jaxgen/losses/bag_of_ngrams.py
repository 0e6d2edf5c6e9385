"""Bag-of-n-grams: how many of the target's n-grams the output is expected to hold.

The expected count of n-gram g in an output whose positions are independent is
sum_i prod_k p(g_k at i + k); the loss is one minus the matched share (Shao et al., 2020, eqs. 8 to 11):

    L = 1 - sum_g min(E[count of g], count of g in the target) / (number of n-grams in the target)
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.losses.pair_logprobs import pair_logprobs
from jaxgen.metrics.sentence_bleu import equal_ngrams


def bag_of_ngrams_loss(
    logits: Float[Array, "B T V"],
    targets: Int[Array, "B S"],
    *,
    n: int = 2,
    logits_mask: Bool[Array, "B T"] | None = None,
    targets_mask: Bool[Array, "B S"] | None = None,
) -> Float[Array, " B"]:
    """L of each row, in [0, 1]; 1 where the target has no n-gram.

    Args:
      logits_mask: which output positions are real, padding at the end.
      targets_mask: which target tokens are real, padding at the end.

    Raises:
      ValueError: n below 1 or above T or S.
    """
    most = min(logits.shape[1], targets.shape[1])
    if not 1 <= n <= most:
        raise ValueError(f"n is {n}, allowed: 1 to {most}")
    c = pair_logprobs(logits, targets)
    real_i = jnp.ones(logits.shape[:2], bool) if logits_mask is None else logits_mask
    real_j = jnp.ones(targets.shape, bool) if targets_mask is None else targets_mask
    outputs, length = logits.shape[1] - n + 1, targets.shape[1] - n + 1
    # Before any sum, so that nothing of a padded position reaches a gradient.
    c = jnp.where(real_i[:, :, None] & real_j[:, None, :], c, 0.0)
    total = sum(c[:, k : k + outputs, k : k + length] for k in range(n))
    ok_i, ok_j = real_i[:, n - 1 :], real_j[:, n - 1 :]
    expected = jnp.where(ok_i[:, :, None], jnp.exp(total), 0.0).sum(1)  # [B, J]
    count = (equal_ngrams(targets, targets, n) & ok_j[:, None, :]).sum(-1)
    # Each occurrence of an n-gram in the target carries its share of the n-gram's match.
    matched = jnp.minimum(expected, count) / jnp.maximum(count, 1)
    return 1.0 - jnp.where(ok_j, matched, 0.0).sum(1) / jnp.maximum(ok_j.sum(1), 1)
