"""Arithmetic at the edges: half precision, tiny temperatures, no rows, ids that a table does not have."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Real

from jaxgen.errors import require

# An option that may be traced.
Number = Real[Array, ""] | np.floating | np.integer | float | int


def wide(x: Array | np.ndarray | DTypeLike) -> np.dtype:
    """The dtype to compute in for an array (or a dtype): its own, but float32 at least."""
    dtype: Any = getattr(x, "dtype", x)
    return jnp.promote_types(dtype, jnp.float32)


def is_zero(x: Number) -> bool:
    """Whether an option is known to be 0, so that its term can be left out; a traced one never is."""
    return not isinstance(x, jax.core.Tracer) and bool(np.all(np.asarray(x) == 0))


def mean(x: Float[Array, "..."], axis: int | None = None) -> Float[Array, "..."]:
    """The mean, and 0 where there is nothing."""
    count = x.size if axis is None else x.shape[axis]
    return x.mean(axis) if count else jnp.zeros_like(x.sum(axis))


def sum_trailing(x: Float[Array, "B ..."]) -> Float[Array, " B"]:
    """Sums all axes but the first, in float32 or wider."""
    flat = x.reshape(x.shape[0], math.prod(x.shape[1:]))
    return flat.astype(wide(x)).sum(axis=-1)


def check_temperature(temperature: Number) -> None:
    """Raises ValueError for one that is not above 0 and finite; a traced one passes."""
    # By NumPy, for which the smallest numbers of float32 are not 0.
    t = temperature if isinstance(temperature, jax.core.Tracer) else np.asarray(temperature)
    require("temperature", (t > 0) & (t < np.inf), temperature, "above 0, finite")


def over_temperature(
    logits: Float[Array, "..."], temperature: Number, *, axis: int = -1
) -> Float[Array, "..."]:
    """(logits - their largest) / temperature, in float32 or wider.

    A softmax does not see the shift, but without it the quotient overflows at small temperatures, and
    equal infinities hide which logit was the largest. Here that one is 0, at any temperature.
    """
    x = logits.astype(wide(logits))
    top = jax.lax.stop_gradient(x.max(axis, keepdims=True))
    x = x - jnp.where(jnp.isfinite(top), top, 0.0)
    return x / jnp.maximum(jnp.asarray(temperature, x.dtype), jnp.finfo(x.dtype).tiny)


def finite_padding(x: Float[Array, "*N D"], real: Bool[Array, "*N"] | None) -> Float[Array, "*N D"]:
    """x, with 0 for rows of padding that hold a NaN or an infinity, which a weight of 0 does not stop."""
    if real is None:
        return x
    keep = real | jnp.isfinite(x).all(-1)
    return jnp.where(keep[..., None], x, 0)


def lookup(
    table: Float[Array, "N D"],
    ids: Int[Array, "..."],
    name: str,
    real: Bool[Array, "..."] | None = None,
) -> Float[Array, "... D"]:
    """Rows of a table. Under jit, an id that it does not have gives NaN, never a neighbour's row.

    Args:
      name: of the ids, for the error.
      real: where ids count; elsewhere one that the table does not have gives row 0.

    Raises:
      ValueError: such an id, outside jit.
    """
    size = table.shape[0]
    if real is not None:
        ids = jnp.where(real | ((ids >= 0) & (ids < size)), ids, 0)
    if not isinstance(ids, jax.core.Tracer) and getattr(ids, "is_fully_addressable", True):
        known = np.asarray(ids)
        bad = known[(known < 0) | (known >= size)]
        require(name, not bad.size, bad[:4], f"0 to {size - 1}")
    return table.at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
