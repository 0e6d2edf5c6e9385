"""Losses of decoders that copy (`jaxgen.nn.copy_attention`): every item said once, and words that can be said.

    C = sum_i (sum_t a_ti - 1)^2

over the real items i of a record and the steps t up to the end token, where a_ti is the probability that step t
copies item i (Wang et al., 2019). Items of one value and one owner share one word in real sentences; asked for one
by one they would have to be written twice, so they may be asked for as a group.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.numerics import wide


def exact_coverage(
    copied: Float[Array, "B T M"],
    *,
    step_mask: Bool[Array, "B T"],
    tuple_mask: Bool[Array, "B M"],
    groups: Int[Array, "B M"] | None = None,
) -> Float[Array, " B"]:
    """C of each row, in float32 or wider: 0 where every tuple is copied once.

    Args:
      copied: a; anything may stand where the masks are False.
      step_mask: steps up to the end token, that one included: `jaxgen.text.masking.eos_mask`.
      tuple_mask: which tuples are real.
      groups: of `shared_values`, to ask for each group once; None for each tuple.
    """
    a = copied.astype(wide(copied))
    a = jnp.where(step_mask[..., None] & tuple_mask[:, None], a, 0.0)
    total, asked = a.sum(1), tuple_mask
    if groups is not None:
        asked = asked & (groups == jnp.arange(groups.shape[1]))
        same = (groups[:, :, None] == groups[:, None]) & tuple_mask[:, None]
        total = jnp.where(same, total[:, None], 0.0).sum(-1)
    return jnp.where(asked, (total - 1.0) ** 2, 0.0).sum(-1)


def shared_values(
    value: Int[Array, "B M"], owner: Int[Array, "B M"], mask: Bool[Array, "B M"]
) -> Int[Array, "B M"]:
    """For each tuple, the place of the first real one with its value and its owner."""
    same = (value[:, :, None] == value[:, None]) & (owner[:, :, None] == owner[:, None])
    return jnp.argmax(same & mask[:, None], -1).astype(jnp.int32)


def possible_nll(
    logprobs: Float[Array, "B T"], mask: Bool[Array, "B T"]
) -> tuple[Float[Array, " B"], Int[Array, " B"], Int[Array, " B"]]:
    """Nats of each row's targets, how many those are, and how many were left out as impossible.

    A target is impossible where its log-probability is -inf: a value that the record lacks. A small number in its
    place would add a constant to the loss and no gradient. It is counted instead.

    Args:
      logprobs: of targets, from `jaxgen.nn.copy_attention.joint_logprob`.
      mask: which targets are real.
    """
    impossible = mask & jnp.isneginf(logprobs)
    counted = mask & ~impossible
    nats = -jnp.where(counted, logprobs, 0.0).sum(-1)
    return nats, counted.sum(-1, dtype=jnp.int32), impossible.sum(-1, dtype=jnp.int32)
