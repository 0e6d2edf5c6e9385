"""Rows sorted by group, each group times its own matrix: `jax.lax.ragged_dot`, fast on CPUs too.

XLA's CPU backend multiplies all rows by the matrices of all groups and masks. There, blocks of rows of one
group are multiplied one after the other; elsewhere this is `ragged_dot`, for which XLA has kernels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

_BLOCK = 128  # rows; large enough for a matrix product at full speed, small beside a group


def grouped_matmul(
    x: Float[Array, "M D"], w: Float[Array, "E D F"], sizes: Int[Array, " E"]
) -> Float[Array, "M F"]:
    """The first sizes[0] rows of x times w[0], the next sizes[1] times w[1], ...; rows after that give 0.

    In the wider dtype of x and w.
    """
    dtype = jnp.promote_types(x.dtype, w.dtype)
    x, w, sizes = x.astype(dtype), w.astype(dtype), sizes.astype(jnp.int32)
    if not len(x):
        return jnp.zeros((0, w.shape[2]), dtype)

    def on_cpu(x: Array, w: Array, sizes: Array) -> Array:
        return _blockwise(varying_like(x, w, sizes), varying_like(w, x, sizes), sizes)

    return jax.lax.platform_dependent(x, w, sizes, cpu=on_cpu, default=jax.lax.ragged_dot)


def _blocks(
    sizes: Int[Array, " E"], block: int
) -> tuple[Array, Callable[[ArrayLike], tuple[Array, Array, Array]]]:
    """The number of blocks, and i -> (group, first row, rows that are its own) of block i."""
    count = -(-sizes // block)
    ends, first = jnp.cumsum(count), jnp.cumsum(sizes) - sizes

    def at(i: ArrayLike) -> tuple[Array, Array, Array]:
        e = jnp.searchsorted(ends, i, side="right")
        done = (i - ends[e] + count[e]) * block
        return e, first[e] + done, jnp.minimum(sizes[e] - done, block)

    return ends[-1], at


def _padded(x: Array, block: int) -> Array:
    return jnp.pad(x, ((0, block), (0, 0)))


def _product(x: Array, w: Array, sizes: Array, transposed: bool) -> Array:
    """Blocks are written in the order of rows: what one writes beyond its group, the next overwrites."""
    rows, block = len(x), min(_BLOCK, len(x))
    total, at = _blocks(sizes, block)
    x = _padded(x, block)
    contract = (((1,), (1 if transposed else 0,)), ((), ()))

    def body(i: Array, y: Array) -> Array:
        e, start, _ = at(i)
        piece = jax.lax.dynamic_slice_in_dim(x, start, block)
        out = jax.lax.dot_general(piece, jax.lax.dynamic_index_in_dim(w, e, 0, False), contract)
        return jax.lax.dynamic_update_slice_in_dim(y, out, start, 0)

    y = jnp.zeros_like(x, shape=(len(x), w.shape[1 if transposed else 2]))
    y = jax.lax.fori_loop(0, total, body, varying_like(y, x))[:rows]
    return jnp.where((jnp.arange(rows) < sizes.sum())[:, None], y, 0.0)


@jax.custom_vjp
def _blockwise(x: Array, w: Array, sizes: Array) -> Array:
    return _product(x, w, sizes, False)


def _forward(x: Array, w: Array, sizes: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return _blockwise(x, w, sizes), (x, w, sizes)


def _backward(saved: tuple[Array, Array, Array], g: Array) -> tuple[Array, Array, None]:
    x, w, sizes = saved
    block = min(_BLOCK, len(x))
    total, at = _blocks(sizes, block)
    rows, cotangents = _padded(x, block), _padded(g, block)

    def body(i: Array, dw: Array) -> Array:
        e, start, own = at(i)
        mine = (jnp.arange(block) < own)[:, None]
        a = jnp.where(mine, jax.lax.dynamic_slice_in_dim(rows, start, block), 0.0)
        b = jnp.where(mine, jax.lax.dynamic_slice_in_dim(cotangents, start, block), 0.0)
        return dw.at[e].add(a.T @ b)

    dw = jax.lax.fori_loop(0, total, body, varying_like(jnp.zeros_like(w), x))
    return _product(g, w, sizes, True), dw, None


_blockwise.defvjp(_forward, _backward)


def varying_like(a: Float[Array, "..."], *others: Array) -> Float[Array, "..."]:
    """`a`, marked inside `shard_map` as different on the devices on which any of the others is.

    It adds a zero that depends on them as far as types go; XLA takes it out again.
    """
    marks = [jnp.where(o.reshape(-1)[0] > 0, 0, 0).astype(a.dtype) for o in others]
    return a + sum(marks)
