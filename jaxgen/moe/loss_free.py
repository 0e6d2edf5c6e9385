"""Balance without an auxiliary loss: a bias for the choice alone (Wang et al., 2024; DeepSeek-V3).

    chosen = the K largest of s + b,   weights s of the chosen (without b)
    b_e <- b_e + u sign(mean load - load_e)    after each step

s are sigmoid or softmax scores of the router's logits. The bias has no gradient and is no parameter: it is state
of the training loss, one row a layer, moved by the loads that the step itself counted
(`MoEContext.router_bias`, `RouterStats.counts`).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxgen.errors import require
from jaxgen.moe.gates import Routing, top_k
from jaxgen.numerics import Number, wide

SCORES = ("sigmoid", "softmax")


def loss_free(
    logits: Float[Array, "N E"],
    key: Key[Array, ""] | None = None,
    *,
    bias: Float[Array, " E"],
    k: int = 1,
    score: str = "sigmoid",
    normalise: bool = False,
) -> Routing:
    """The k experts with the largest score plus bias, weighted by their scores.

    With its options but for `bias` bound by `functools.partial` it is a gate of `MoEContext`.

    Args:
      key: not used; gates have it.
      bias: of the choice; no gradient flows into it, and it enters no weight.
      score: "sigmoid" (as published) or "softmax".
      normalise: divide the k weights by their sum (DeepSeek-V3). With k = 1 every weight is 1 then, and the
        router gets no gradient.

    Raises:
      ValueError: a k that is not between 1 and E, or an unknown score.
    """
    require("score", score in SCORES, score, ", ".join(SCORES))
    losses = top_k(logits, k)  # its balance and z-loss, to be watched
    x = logits.astype(wide(logits))
    scores = jax.nn.sigmoid(x) if score == "sigmoid" else jax.nn.softmax(x, -1)
    _, ids = jax.lax.top_k(jax.lax.stop_gradient(scores + bias), k)
    weights = jnp.take_along_axis(scores, ids, -1)
    if normalise:
        total = jnp.maximum(weights.sum(-1, keepdims=True), jnp.finfo(weights.dtype).tiny)
        weights = weights / total
    return dataclasses.replace(losses, expert_ids=ids, weights=weights.astype(logits.dtype))


def update_bias(
    bias: Float[Array, "*L E"], counts: Int[Array, "*L E"], *, rate: Number = 0.001
) -> Float[Array, "*L E"]:
    """The bias after a step in which experts got `counts` tokens: up by `rate` below the mean load, down above.

    Args:
      rate: u; 0.001 is the published one. Scores of a sigmoid lie between 0 and 1.
    """
    load = counts.astype(bias.dtype)
    return bias + rate * jnp.sign(load.mean(-1, keepdims=True) - load)
