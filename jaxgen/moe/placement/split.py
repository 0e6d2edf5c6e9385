"""How an expert's tokens are split over its replicas, for the counts of this very step.

A placement follows counts of steps that are over. What it misses, the split makes up: with x_s the share of its
expert's tokens that slot s computes, and n_e this step's tokens of expert e,

    min_x max_g sum_{s on g} x_s n_e(s),    sum_{s holds e} x_s = 1,  x >= 0

a linear programme of MicroMoE's authors (2025, arXiv 2511.16947). `scheduled` solves it by multiplicative weights in a fixed
number of rounds, inside the step: to within one per cent of the optimum (tests/moe/test_split.py). `even` is FlexMoE's
split (Nie et al., 2023, section 3.2). Which split it is changes no result, only where it is computed.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from jaxgen.errors import require
from jaxgen.moe.grouped import varying_like

SPLITS = ("even", "scheduled")


def even(placement: Int[Array, " slots"], num_experts: int) -> Float[Array, " slots"]:
    """The same share for each slot of an expert."""
    return 1.0 / jnp.bincount(placement, length=num_experts)[placement]


def scheduled(
    placement: Int[Array, " slots"],
    counts: Num[Array, " E"],
    *,
    devices: int,
    rounds: int = 60,
) -> Float[Array, " slots"]:
    """Shares that level the devices' loads; never a higher largest load than that of `even`.

    Args:
      placement: the expert in each slot; device g has the g-th of `devices` equal parts.
      counts: tokens of each expert in this step.

    Raises:
      ValueError: devices that do not divide the slots.
    """
    slots = len(placement)
    divides = devices > 0 and slots % devices == 0
    require("devices", divides, devices, f"a divisor of {slots}, the slots")
    tokens = counts.astype(jnp.float32)[placement]
    mean = jnp.maximum(counts.astype(jnp.float32).sum() / devices, 1e-30)

    def loads(shares: Array) -> Array:
        return (shares * tokens).reshape(devices, -1).sum(1) / mean

    def turn(
        carry: tuple[Array, Array, Array], t: Array
    ) -> tuple[tuple[Array, Array, Array], None]:
        shares, best, least = carry
        now = loads(shares)
        # Relative to the largest load: relative to the mean, hot devices would swing.
        rate = 4.0 * (1.0 + t) ** -0.25 / jnp.maximum(now.max(), 1.0)
        raised = shares * jnp.exp(-rate * jnp.repeat(now, slots // devices))
        total = jax.ops.segment_sum(raised, placement, len(counts))[placement]
        shares = raised / jnp.maximum(total, 1e-30)
        most = loads(shares).max()
        better = most < least
        return (shares, jnp.where(better, shares, best), jnp.minimum(most, least)), None

    start = varying_like(even(placement, len(counts)), tokens)
    carry = (start, start, loads(start).max())
    return jax.lax.scan(turn, carry, jnp.arange(rounds, dtype=jnp.float32))[0][1]


def quotas(
    shares: Float[Array, " slots"], holds: Int[Array, " slots"], counts: Int[Array, " E"]
) -> Int[Array, " slots"]:
    """Whole tokens of each slot: shares rounded so that those of an expert sum to its count exactly.

    Args:
      shares: of slots that are sorted by expert.
      holds: the expert in each, ascending.
    """
    ends = jnp.cumsum(shares)
    fresh = jnp.concatenate([jnp.ones(1, bool), holds[1:] != holds[:-1]])
    last = jnp.concatenate([holds[1:] != holds[:-1], jnp.ones(1, bool)])
    begins = jax.lax.cummax(jnp.where(fresh, ends - shares, 0.0))
    total = counts[holds]
    upto = jnp.clip(jnp.round((ends - begins) * total).astype(total.dtype), 0, total)
    upto = jnp.where(last, total, upto)
    before = jnp.where(fresh, 0, jnp.roll(upto, 1))
    return upto - before
