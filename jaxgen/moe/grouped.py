"""Rows sorted by group, each group times its own matrix: `jax.lax.ragged_dot`, fast on CPUs and GPUs too.

XLA's CPU and GPU backends multiply all rows by the matrices of all groups and mask (on an H100, jax 0.11.2, it takes
seven times as long as the padded form). Three forms of the product, equal but for rounding:

    blocks   blocks of rows of one group, one after the other; the default on CPUs
    padded   a buffer of equal size for each group and one batched product; the default on GPUs
    ragged   `ragged_dot`, for which XLA has kernels on TPUs; the default elsewhere

No form drops a row, whatever the sizes of the groups.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxgen.errors import require

IMPLEMENTATIONS = ("blocks", "padded", "ragged")

_BLOCK = 128  # rows; large enough for a matrix product at full speed, small beside a group
_WIDE_BLOCK = 512  # where one product of 128 rows leaves most of the chip idle


def grouped_matmul(
    x: Float[Array, "M D"],
    w: Float[Array, "E D F"],
    sizes: Int[Array, " E"],
    *,
    implementation: str | None = None,
) -> Float[Array, "M F"]:
    """The first sizes[0] rows of x times w[0], the next sizes[1] times w[1], ...; rows after that give 0.

    In the wider dtype of x and w.

    Args:
      implementation: one of `IMPLEMENTATIONS`; None for the platform's default.

    Raises:
      ValueError: another implementation.
    """
    known = implementation is None or implementation in IMPLEMENTATIONS
    require("implementation", known, implementation, f"None, {', '.join(IMPLEMENTATIONS)}")
    dtype = jnp.promote_types(x.dtype, w.dtype)
    x, w, sizes = x.astype(dtype), w.astype(dtype), sizes.astype(jnp.int32)
    if not len(x):
        return jnp.zeros((0, w.shape[2]), dtype)
    if implementation == "ragged":
        return jax.lax.ragged_dot(x, w, sizes)

    def marked(product: Callable[..., Array]) -> Callable[..., Array]:
        return lambda x, w, s: product(varying_like(x, w, s), varying_like(w, x, s), s)

    narrow, padded = marked(functools.partial(_blockwise, _BLOCK)), marked(_padded)
    if implementation == "padded":
        return padded(x, w, sizes)
    if implementation == "blocks":
        wide = marked(functools.partial(_blockwise, _WIDE_BLOCK))
        return jax.lax.platform_dependent(x, w, sizes, cpu=narrow, default=wide)
    return jax.lax.platform_dependent(
        x, w, sizes, cpu=narrow, cuda=padded, rocm=padded, default=jax.lax.ragged_dot
    )


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


def _lengthened(x: Array, block: int) -> Array:
    return jnp.pad(x, ((0, block), (0, 0)))


def _product(block: int, x: Array, w: Array, sizes: Array, transposed: bool) -> Array:
    """Blocks are written in the order of rows: what one writes beyond its group, the next overwrites."""
    rows, block = len(x), min(block, len(x))
    total, at = _blocks(sizes, block)
    x = _lengthened(x, block)
    contract = (((1,), (1 if transposed else 0,)), ((), ()))

    def body(i: Array, y: Array) -> Array:
        e, start, _ = at(i)
        piece = jax.lax.dynamic_slice_in_dim(x, start, block)
        out = jax.lax.dot_general(piece, jax.lax.dynamic_index_in_dim(w, e, 0, False), contract)
        return jax.lax.dynamic_update_slice_in_dim(y, out, start, 0)

    y = jnp.zeros_like(x, shape=(len(x), w.shape[1 if transposed else 2]))
    y = jax.lax.fori_loop(0, total, body, varying_like(y, x))[:rows]
    return jnp.where((jnp.arange(rows) < sizes.sum())[:, None], y, 0.0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blockwise(block: int, x: Array, w: Array, sizes: Array) -> Array:
    return _product(block, x, w, sizes, False)


def _forward(
    block: int, x: Array, w: Array, sizes: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    return _blockwise(block, x, w, sizes), (x, w, sizes)


def _backward(most: int, saved: tuple[Array, Array, Array], g: Array) -> tuple[Array, Array, None]:
    x, w, sizes = saved
    block = min(most, len(x))
    total, at = _blocks(sizes, block)
    rows, cotangents = _lengthened(x, block), _lengthened(g, block)

    def body(i: Array, dw: Array) -> Array:
        e, start, own = at(i)
        mine = (jnp.arange(block) < own)[:, None]
        a = jnp.where(mine, jax.lax.dynamic_slice_in_dim(rows, start, block), 0.0)
        b = jnp.where(mine, jax.lax.dynamic_slice_in_dim(cotangents, start, block), 0.0)
        return dw.at[e].add(a.T @ b)

    dw = jax.lax.fori_loop(0, total, body, varying_like(jnp.zeros_like(w), x))
    return _product(most, g, w, sizes, True), dw, None


_blockwise.defvjp(_forward, _backward)


class _Buffers(NamedTuple):
    """Where rows lie: in round r, place c of group e's buffer holds its row r C + c."""

    rows: int
    capacity: int
    sizes: Int[Array, " E"]

    def fill(self, x: Float[Array, "M D"], r: ArrayLike) -> Float[Array, "E C D"]:
        """The buffers of a round; places without a row hold 0."""
        place = r * self.capacity + jnp.arange(self.capacity)
        first = jnp.cumsum(self.sizes) - self.sizes
        source = jnp.where(place < self.sizes[:, None], first[:, None] + place, self.rows)
        return x.at[source].get(mode="fill", fill_value=0)

    def read(
        self, out: Float[Array, "E C F"], y: Float[Array, "M F"], r: ArrayLike
    ) -> Float[Array, "M F"]:
        """y, with the rows of a round taken from the buffers."""
        row, ends = jnp.arange(self.rows), jnp.cumsum(self.sizes)
        e = jnp.minimum(jnp.searchsorted(ends, row, side="right"), len(ends) - 1)
        place = row - (ends[e] - self.sizes[e])
        mine = (place // self.capacity == r) & (row < ends[-1])
        found = out[e, place % self.capacity]
        return jnp.where(mine[:, None], found, y)

    def over(self, start: Array, step: Callable[[ArrayLike, Array], Array]) -> Array:
        """Steps of all rounds, one after another; mostly the first holds all rows."""
        most, start = self.sizes.max(), step(0, start)
        return jax.lax.while_loop(
            lambda carry: carry[0] * self.capacity < most,
            lambda carry: (carry[0] + 1, step(*carry)),
            (jnp.int32(1), start),
        )[1]


def _buffers(rows: int, sizes: Int[Array, " E"]) -> _Buffers:
    """A quarter more room than an even share, in whole blocks; fuller groups need a second round."""
    share = -(-5 * rows // (4 * len(sizes)))
    return _Buffers(rows, min(rows, -(-share // _BLOCK) * _BLOCK), sizes)


def _batched(x: Array, w: Array, sizes: Array, form: str) -> Array:
    buffers = _buffers(len(x), sizes)
    y = jnp.zeros_like(x, shape=(len(x), w.shape[2 if form == "edf" else 1]))

    def step(r: ArrayLike, y: Array) -> Array:
        out = jnp.einsum(f"ecd,{form}->ecf", buffers.fill(x, r), w)
        return buffers.read(out, y, r)

    return buffers.over(varying_like(y, x), step)


@jax.custom_vjp
def _padded(x: Array, w: Array, sizes: Array) -> Array:
    return _batched(x, w, sizes, "edf")


def _padded_forward(x: Array, w: Array, sizes: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return _padded(x, w, sizes), (x, w, sizes)


def _padded_backward(saved: tuple[Array, Array, Array], g: Array) -> tuple[Array, Array, None]:
    x, w, sizes = saved
    buffers = _buffers(len(x), sizes)

    def step(r: ArrayLike, dw: Array) -> Array:
        return dw + jnp.einsum("ecd,ecf->edf", buffers.fill(x, r), buffers.fill(g, r))

    dw = buffers.over(varying_like(jnp.zeros_like(w), x), step)
    return _batched(g, w, sizes, "efd"), dw, None


_padded.defvjp(_padded_forward, _padded_backward)


def varying_like(a: Float[Array, "..."], *others: Array) -> Float[Array, "..."]:
    """`a`, marked inside `shard_map` as different on the devices on which any of the others is.

    It adds a zero that depends on them as far as types go; XLA takes it out again.
    """
    marks = [jnp.where(o.reshape(-1)[0] > 0, 0, 0).astype(a.dtype) for o in others]
    return a + sum(marks)
