"""Tokens to experts and back: two ways that agree where nothing is dropped.

    y_n = sum_{k kept} w_nk f_{e_nk}(x_n)

`capacity` gives every expert a buffer of C tokens (GShard, Switch): equal shapes, so that buffers can be
exchanged between devices, but a token that finds its expert's buffer full is dropped, and counted.
`dropless` sorts the pairs of token and expert by expert and hands them over as groups of different size
(Gale et al., 2023, MegaBlocks). Neither builds an array of tokens x experts x capacity.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.errors import require
from jaxgen.moe.gates import Routing


def capacity_of(tokens: int, experts: int, k: int, factor: float) -> int:
    """Slots of a buffer: `factor` times an expert's even share of tokens * k pairs, at least 1.

    Raises:
      ValueError: a factor that is not above 0.
    """
    require("capacity factor", (factor > 0) & (factor < float("inf")), factor, "above 0, finite")
    return max(1, int(-(-tokens * k * factor // experts)))


def capacity(
    x: Float[Array, "N D"],
    routing: Routing,
    experts: Callable[[Float[Array, "E C D"]], Float[Array, "E C F"]],
    *,
    num_experts: int,
    slots: int,
) -> tuple[Float[Array, "N F"], Int[Array, ""]]:
    """y, and the number of kept pairs that were dropped since buffers were full.

    First choices are seated before second ones, and tokens in their order.

    Args:
      experts: all experts on their buffers; empty slots hold 0 and their outputs are not used.
      slots: C, such as `capacity_of(...)`.
    """
    tokens, k = routing.expert_ids.shape
    ids = jnp.where(routing.kept, routing.expert_ids, num_experts).T.reshape(-1)  # choice by choice
    member = jax.nn.one_hot(ids, num_experts, dtype=jnp.int32)
    place = ((jnp.cumsum(member, 0) - 1) * member).sum(-1)  # how many came before at that expert
    wanted = ids < num_experts
    seated = wanted & (place < slots)
    target = jnp.where(seated, ids * slots + place, num_experts * slots)
    source = jnp.tile(jnp.arange(tokens), k)
    buffer = jnp.zeros((num_experts * slots, x.shape[-1]), x.dtype)
    buffer = buffer.at[target].set(x[source], mode="drop")
    out = experts(buffer.reshape(num_experts, slots, -1)).reshape(num_experts * slots, -1)
    read = out.at[target].get(mode="fill", fill_value=0.0)
    weight = routing.weights.T.reshape(-1, 1).astype(out.dtype)
    y = (read * weight).reshape(k, tokens, out.shape[-1]).sum(0)
    return y, (wanted & ~seated).sum(dtype=jnp.int32)


def dropless(
    x: Float[Array, "N D"],
    routing: Routing,
    experts: Callable[[Float[Array, "M D"], Int[Array, " E"]], Float[Array, "M F"]],
    *,
    num_experts: int,
) -> Float[Array, "N F"]:
    """y, with every kept pair computed.

    Args:
      experts: (rows sorted by expert, group sizes) -> outputs; M = N K. Pairs that are not kept come last
        and belong to no group; what is returned for them is not used.
    """
    tokens, k = routing.expert_ids.shape
    ids = jnp.where(routing.kept, routing.expert_ids, num_experts).reshape(-1)
    order = jnp.argsort(ids)  # stable
    sizes = jnp.bincount(ids, length=num_experts + 1)[:num_experts].astype(jnp.int32)
    kept = (ids[order] < num_experts)[:, None]
    pairs = jnp.argsort(order).reshape(tokens, k)
    # Pairs that are not kept may hold anything, which a product with 0 would not stop.
    out = experts(jnp.where(kept, to_pairs(x, order, pairs), 0), sizes)
    out = jnp.where(kept, out, 0.0)
    weighted = out * routing.weights.reshape(-1)[order][:, None].astype(out.dtype)
    return of_pairs(weighted, order, pairs)


# Each is the other's transpose, and both gather: scattering rows that meet is slower, and on some devices adds
# them in another order each time.


@jax.custom_vjp
def to_pairs(
    x: Float[Array, "N D"], order: Int[Array, " M"], pairs: Int[Array, "N K"]
) -> Float[Array, "M D"]:
    """Each pair's token, in the pairs' order."""
    return x[order // pairs.shape[1]]


@jax.custom_vjp
def of_pairs(
    rows: Float[Array, "M D"], order: Int[Array, " M"], pairs: Int[Array, "N K"]
) -> Float[Array, "N D"]:
    """The sum of each token's pairs, whose places `pairs` are."""
    return rows[pairs].sum(1)


to_pairs.defvjp(
    lambda x, order, pairs: (to_pairs(x, order, pairs), (order, pairs)),
    lambda saved, g: (of_pairs(g, *saved), None, None),
)
of_pairs.defvjp(
    lambda rows, order, pairs: (of_pairs(rows, order, pairs), (order, pairs)),
    lambda saved, g: (to_pairs(g, *saved), None, None),
)
