"""Policy gradient on whole sequences: REINFORCE with a baseline (Williams, 1992; Ranzato et al., 2016)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.losses.cross_entropy import sum_cross_entropy


def policy_gradient_loss(
    logits: Float[Array, "B T V"],
    samples: Int[Array, "B T"],
    rewards: Float[Array, " B"],
    *,
    mask: Bool[Array, "B T"] | None = None,
    baseline: Float[Array, " B"] | None = None,
) -> Float[Array, " B"]:
    """-(reward - baseline) log p(sample) of each row; its gradient is REINFORCE's estimate.

    Args:
      logits: of the sampled tokens, given those before them.
      samples: drawn from the model.
      rewards: such as sentence BLEU; no gradient flows through them.
      mask: which sampled tokens count.
      baseline: subtracted from the rewards, such as those of greedy decoding (Rennie et al., 2017);
        the mean of the other rows by default, 0 for a single row.

    The loss is float32, or as wide as the logits; a row without real tokens has 0.
    """
    if baseline is None:
        others = jnp.maximum(rewards.shape[0] - 1, 1)
        baseline = (rewards.sum() - rewards) / others
    advantage = jax.lax.stop_gradient(rewards - baseline)
    cost, _ = sum_cross_entropy(logits, samples, mask)
    return advantage.astype(cost.dtype) * cost
