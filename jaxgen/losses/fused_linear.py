"""Output layer and sequence loss in one, without an array [B, T, V].

The losses here need the logits only through c[b, i, j] = log p(y_bj | i) (`jaxgen.losses.pair_logprobs`),
and a sentence's loss needs only its own [T, S] of them. So sentences are worked off in tiles: a tile's
logits are made, its loss and at once its gradient with respect to hidden states and embedding, and then
they are forgotten. Nothing is computed twice: three matrix products, as without fusion. The number of
sentences in a tile follows from a budget of bytes, so memory does not grow with V; where one
sentence's logits exceed the budget, it is the smallest tile. Gradients are ready when the forward pass
ends, which is why the result is a scalar: its cotangent only scales them.

Over a mesh axis that splits the vocabulary, `axis_name` makes every sum over V a collective;
`sharded_fused_loss` does that for arrays of a whole mesh.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PyTree

from jaxgen.losses.pair_logprobs import at_targets, known, logits_gradient, logsumexp, shift_of
from jaxgen.mesh import BATCH_AXES
from jaxgen.numerics import wide

# Bytes of logits in a tile: larger ones gain little, smaller ones read the embedding more often.
BUDGET = 2**25

# (c [G, T, S], what belongs to the tile's rows) -> loss of each row [G].
PairLoss = Callable[[Float[Array, "G T S"], PyTree], Float[Array, " G"]]


def fused_loss(
    hidden: Float[Array, "B T D"],
    embedding: Float[Array, "V W"],
    targets: Int[Array, "N S"],
    loss: PairLoss,
    rows: PyTree = None,
    *,
    budget: int = BUDGET,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Mean over rows of loss(c) for logits hidden @ embedding^T, 0 without rows; float32 sums.

    Args:
      embedding: the tied output embedding, W = D; inside shard_map with `axis_name`, this device's rows of
        it, in the order of the axis.
      targets: N = B rows.
      loss: such as `lambda c, mask: eisl_from_pairs(c, targets_mask=mask)`; differentiable.
      rows: arrays [B, ...] that `loss` needs beside c (masks); not differentiated.
      budget: bytes of logits in a tile.
      axis_name: the mesh axis over which V is split.

    Raises:
      ValueError: a budget that is not above 0, or shapes that do not fit.
    """
    if budget <= 0:
        raise ValueError(f"budget is {budget}, allowed: bytes, above 0")
    if hidden.shape[-1] != embedding.shape[-1]:
        raise ValueError(
            f"embedding is {embedding.shape[-1]} wide, allowed: {hidden.shape[-1]}, as the hidden states"
        )
    if targets.shape[0] != hidden.shape[0]:
        raise ValueError(f"targets are {targets.shape[0]} rows, allowed: {hidden.shape[0]}")
    size = tile_rows(hidden.shape[0], hidden.shape[1], embedding.shape[0], budget)
    return _fused(loss, size, axis_name, hidden, embedding, targets, rows)


def sharded_fused_loss(
    mesh: Mesh,
    hidden: Float[Array, "B T D"],
    embedding: Float[Array, "V D"],
    targets: Int[Array, "B S"],
    loss: PairLoss,
    rows: PyTree = None,
    *,
    budget: int = BUDGET,
    batch_axes: tuple[str, ...] = BATCH_AXES,
    vocab_axis: str = "model",
) -> Float[Array, ""]:
    """`fused_loss` with rows split over `batch_axes` and the vocabulary over `vocab_axis`.

    For code under jit on that mesh: arrays are global, and XLA moves those that lie otherwise.

    Raises:
      ValueError: as `fused_loss`; V or B that the axes do not divide.
    """
    groups = math.prod(mesh.shape[axis] for axis in batch_axes)
    for name, size, parts in (
        ("embedding", embedding.shape[0], mesh.shape[vocab_axis]),
        ("hidden", hidden.shape[0], groups),
    ):
        if size % parts:
            raise ValueError(f"{name} has {size} rows, allowed: a multiple of {parts} (the mesh)")

    def forward(h: Array, e: Array, y: Array, extra: PyTree) -> tuple[Array, tuple[Array, Array]]:
        value, (dh, de) = jax.value_and_grad(
            lambda h, e: fused_loss(h, e, y, loss, extra, budget=budget, axis_name=vocab_axis),
            (0, 1),
        )(h, e)
        mean = functools.partial(jax.lax.pmean, axis_name=batch_axes)
        return mean(value), (dh / groups, mean(de))

    split = jax.shard_map(
        forward,
        mesh=mesh,
        in_specs=(P(batch_axes), P(vocab_axis), P(batch_axes), P(batch_axes)),
        out_specs=(P(), (P(batch_axes), P(vocab_axis))),
        check_vma=False,
    )

    # Gradients are there with the value, so differentiation need not go through shard_map.
    @jax.custom_vjp
    def total(h: Array, e: Array, y: Array, extra: PyTree) -> Array:
        return split(h, e, y, extra)[0]

    total.defvjp(
        split,
        lambda grads, g: (*(jax.tree.map(lambda d: (g * d).astype(d.dtype), grads)), None, None),
    )
    return total(hidden, embedding, targets, rows)


def tile_rows(batch: int, length: int, vocab: int, budget: int) -> int:
    """The largest divisor of the batch whose float32 logits fit the budget; at least 1."""
    return _largest_divisor(batch, max(1, budget // max(1, 4 * length * vocab)))


def _largest_divisor(n: int, most: int) -> int:
    return max((d for d in range(1, min(n, most) + 1) if n % d == 0), default=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _fused(
    loss: PairLoss,
    size: int,
    axis_name: str | None,
    hidden: Array,
    embedding: Array,
    targets: Array,
    rows: PyTree,
) -> Array:
    def tile(total: Array, part: PyTree) -> tuple[Array, None]:
        h, y, extra = part
        c, _ = _pairs(h, embedding, y, axis_name)
        return total + loss(c, extra).sum().astype(total.dtype), None

    parts = _tiles((hidden, targets, rows), size)
    total, _ = jax.lax.scan(tile, jnp.zeros((), wide(hidden)), parts)
    return total / max(hidden.shape[0], 1)


def _tiles(tree: PyTree, size: int) -> PyTree:
    return jax.tree.map(lambda a: a.reshape(len(a) // size, size, *a.shape[1:]), tree)


def _local(y: Array, vocab: int, axis_name: str | None) -> tuple[Array, Array | None]:
    """Index of each target in this device's part of the vocabulary, and whether it is there (or all)."""
    if axis_name is None:
        return y, None
    place = y - jax.lax.axis_index(axis_name) * vocab
    return jnp.clip(place, 0, vocab - 1), (place >= 0) & (place < vocab)


def _pairs(
    h: Array, embedding: Array, y: Array, axis_name: str | None
) -> tuple[Array, tuple[Array, Array, Array, Array | None]]:
    """c of a tile, and what its gradient needs: (logits, logsumexp, index, whether it is there)."""
    logits = jnp.einsum("gtd,vd->gtv", h, embedding, preferred_element_type=wide(h))
    index, here = _local(y, embedding.shape[0], axis_name)
    chosen = at_targets(logits, index)
    if here is not None:
        chosen = jax.lax.psum(jnp.where(here[:, None], chosen, 0.0), axis_name)
    lse = logsumexp(logits, shift_of(chosen), axis_name)
    c = known(chosen - lse[..., None], y, _vocabulary(embedding, axis_name))
    return c, (logits, lse, index, here)


def _vocabulary(embedding: Array, axis_name: str | None) -> int:
    """V of the whole axis."""
    return embedding.shape[0] * (1 if axis_name is None else jax.lax.axis_size(axis_name))


def _forward(
    loss: PairLoss,
    size: int,
    axis_name: str | None,
    hidden: Array,
    embedding: Array,
    targets: Array,
    rows: PyTree,
) -> tuple[Array, tuple[Array, Array]]:
    batch = max(hidden.shape[0], 1)

    def tile(carry: tuple[Array, Array], part: PyTree) -> tuple[tuple[Array, Array], Array]:
        total, d_embedding = carry
        h, y, extra = part
        c, (logits, lse, index, here) = _pairs(h, embedding, y, axis_name)
        value, pull = jax.vjp(lambda c: loss(c, extra).sum(), c)
        (g,) = pull(jnp.full((), 1.0 / batch, value.dtype))
        g = known(g, y, _vocabulary(embedding, axis_name), 0.0)
        d = logits_gradient(logits, lse, index, g, here).astype(hidden.dtype)
        d_hidden = jnp.einsum("gtv,vd->gtd", d, embedding, preferred_element_type=wide(h))
        if axis_name is not None:
            d_hidden = jax.lax.psum(d_hidden, axis_name)
        # A position without gradient adds nothing to the embedding's, whatever its state is.
        h = jnp.where((g != 0).any(-1, keepdims=True), h, 0)
        d_embedding = _add_product(d_embedding, d, h)
        return (total + value.astype(total.dtype), d_embedding), d_hidden.astype(hidden.dtype)

    start = (jnp.zeros((), wide(hidden)), jnp.zeros(embedding.shape, wide(hidden)))
    (total, d_embedding), d_hidden = jax.lax.scan(
        tile, start, _tiles((hidden, targets, rows), size)
    )
    grads = (d_hidden.reshape(hidden.shape), d_embedding.astype(embedding.dtype))
    return total / batch, grads


def _add_product(
    total: Float[Array, "V D"], d: Float[Array, "G T V"], h: Float[Array, "G T D"]
) -> Float[Array, "V D"]:
    """total + d^T h, block by block in place: the product of all V is never held beside the sum."""
    vocab = total.shape[0]
    d, h = (a.reshape(-1, a.shape[-1]) for a in (d, h))  # one axis to sum over: `jaxgen.nn.rows`
    size = _largest_divisor(vocab, 8192)  # rows of a block
    if size < 1024:  # blocks would be too thin to be worth their overhead
        return total + jnp.einsum("nv,nd->vd", d, h, preferred_element_type=total.dtype)

    def block(i: Array, total: Array) -> Array:
        part = jax.lax.dynamic_slice_in_dim(d, i * size, size, 1)
        more = jnp.einsum("nv,nd->vd", part, h, preferred_element_type=total.dtype)
        old = jax.lax.dynamic_slice_in_dim(total, i * size, size, 0)
        return jax.lax.dynamic_update_slice_in_dim(total, old + more, i * size, 0)

    return jax.lax.fori_loop(0, vocab // size, block, total)


def _backward(
    loss: PairLoss, size: int, axis_name: str | None, grads: tuple[Array, Array], g: Array
) -> tuple[Array, Array, None, None]:
    d_hidden, d_embedding = grads
    return (
        (g * d_hidden).astype(d_hidden.dtype),
        (g * d_embedding).astype(d_embedding.dtype),
        None,
        None,
    )


_fused.defvjp(_forward, _backward)
