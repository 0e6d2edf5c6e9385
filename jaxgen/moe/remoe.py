"""ReMoE (Wang et al., 2024): ReLU routing, dense at first and sparse later, without a switch.

    w = relu(logits),   y_n = sum_{e: w_ne > 0} w_ne f_e(x_n)

A fresh router's logits are positive about half of the time, so training begins nearly dense; an L1 penalty on w
makes it sparse, and its coefficient moves by itself until K experts a token are left:

    penalty = mean_n sum_e F_e w_ne,   F_e = E / (K N) (tokens that have expert e)
    coefficient <- coefficient alpha^sign(share of active pairs - K / E)    after each step

Everything is differentiable where ReLU is. A token may have no expert at all.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxgen.errors import require
from jaxgen.moe.gates import Routing, z_loss
from jaxgen.numerics import Number, mean, wide


def relu(
    logits: Float[Array, "N E"],
    key: Key[Array, ""] | None = None,
    *,
    target: Number = 1.0,
    budget: int | None = None,
    balanced: bool = True,
) -> Routing:
    """All experts with a positive logit, weighted by it.

    With its options bound by `functools.partial` it is a gate of `MoEContext`. `Routing.balance` is the L1
    penalty, to be weighted by the coefficient.

    Args:
      key: not used; gates have it.
      target: K, experts a token to end at; may be traced.
      budget: at most so many experts a token (shapes are static), the largest; E by default. What a token wanted
        beyond is counted in `overflow`.
      balanced: the penalty of an expert grows with its load, F_e above; else F_e = 1.

    Raises:
      ValueError: a budget that is not between 1 and E, a target that is not above 0.
    """
    experts = logits.shape[-1]
    budget = experts if budget is None else budget
    require("budget", 1 <= budget <= experts, budget, f"1 to {experts}")
    require("target", target > 0, target, "above 0")
    x = jax.nn.relu(logits.astype(wide(logits)))
    weights, ids = jax.lax.top_k(x, budget)
    active = x > 0
    load = mean(active.astype(x.dtype), 0) * experts / target if balanced else jnp.ones_like(x[0])
    penalty = jnp.sum(jax.lax.stop_gradient(load) * mean(x, 0))
    kept = weights > 0
    overflow = (active.sum() - kept.sum()).astype(jnp.int32)
    return Routing(ids, weights.astype(logits.dtype), kept, penalty, z_loss(logits), overflow)


def update_coefficient(
    coefficient: Float[Array, ""],
    counts: Int[Array, "*L E"],
    tokens: Number,
    *,
    target: Number = 1.0,
    factor: Number = 1.2,
) -> Float[Array, ""]:
    """The penalty's coefficient after a step: larger if tokens had more than `target` experts, else smaller.

    Args:
      coefficient: above 0; 1e-8 is the published start.
      counts: pairs of token and expert in each layer; all layers share one coefficient.
      tokens: N, of one layer.
      factor: alpha, above 1; 1.2 is the published one.
    """
    each = counts.astype(coefficient.dtype).sum(-1).mean() / tokens
    return coefficient * jnp.asarray(factor, coefficient.dtype) ** jnp.sign(each - target)
