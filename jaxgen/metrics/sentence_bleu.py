"""Sentence BLEU on token ids under jit, for rewards. To report BLEU use `jaxgen.metrics.text.bleu`."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def sentence_bleu(
    outputs: Int[Array, "B T"],
    targets: Int[Array, "B S"],
    outputs_mask: Bool[Array, "B T"],
    targets_mask: Bool[Array, "B S"],
    *,
    order: int = 4,
) -> Float[Array, " B"]:
    """Smoothed BLEU in [0, 1] of each row: one is added to both counts of every order above the first.

    Lin and Och (2004); with the brevity penalty of Papineni et al. (2002).

    Args:
      outputs_mask: real tokens, padding at the end; as `targets_mask`.

    Raises:
      ValueError: an order below 1.
    """
    if order < 1:
        raise ValueError(f"order is {order}, allowed: at least 1")
    log_precision = jnp.zeros(outputs.shape[0], jnp.float32)
    for n in range(1, order + 1):
        matched, there = _matches(outputs, targets, outputs_mask, targets_mask, n)
        plus = float(n > 1)
        share = (matched + plus) / jnp.maximum(there + plus, 1.0)
        log_precision += jnp.log(jnp.maximum(share, 1e-9)) / order
    output = outputs_mask.sum(1).astype(jnp.float32)
    target = targets_mask.sum(1).astype(jnp.float32)
    brevity = jnp.minimum(1.0 - target / jnp.maximum(output, 1), 0.0)
    return jnp.where(output > 0, jnp.exp(brevity + log_precision), 0.0)


def equal_ngrams(a: Int[Array, "B T"], b: Int[Array, "B S"], n: int) -> Bool[Array, "B I J"]:
    """Whether the n-gram of a at i is that of b at j; I = T - n + 1, J = S - n + 1."""
    i, j = a.shape[1] - n + 1, b.shape[1] - n + 1
    same = jnp.ones((a.shape[0], i, j), bool)
    for k in range(n):
        same &= a[:, k : k + i, None] == b[:, None, k : k + j]
    return same


def _matches(
    outputs: Array, targets: Array, outputs_mask: Array, targets_mask: Array, n: int
) -> tuple[Array, Array]:
    """Clipped matches of n-grams, and the number of n-grams of the output."""
    rows = outputs.shape[0]
    if n > min(outputs.shape[1], targets.shape[1]):
        there = (outputs_mask.sum(1) - n + 1).clip(0)
        return jnp.zeros(rows, jnp.float32), there.astype(jnp.float32)
    same, own = equal_ngrams(outputs, targets, n), equal_ngrams(outputs, outputs, n)
    ok_i, ok_j = outputs_mask[:, n - 1 :], targets_mask[:, n - 1 :]
    in_target = (same & ok_j[:, None]).sum(-1)
    in_output = (own & ok_i[:, None]).sum(-1)
    # Each occurrence in the output carries its share of min(count in output, count in target).
    each = jnp.minimum(in_output, in_target).astype(jnp.float32) / jnp.maximum(in_output, 1)
    return jnp.where(ok_i, each, 0.0).sum(1), ok_i.sum(1).astype(jnp.float32)
