"""Sets of a world's nodes as bits of unsigned words: node i is bit i % 32 of word i // 32.

A relation is a set of nodes for each node, so that a world of 60 nodes is 4 kB, and what an action does to it
is a few bitwise operations.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped, UInt32

WORD = 32


def pack(mask: Bool[Array, "*batch N"]) -> UInt32[Array, "*batch W"]:
    """The set of the nodes that `mask` marks; N is a multiple of 32."""
    bits = mask.reshape(*mask.shape[:-1], -1, WORD).astype(jnp.uint32)
    return (bits << jnp.arange(WORD, dtype=jnp.uint32)).sum(-1, dtype=jnp.uint32)


def unpack(nodes: UInt32[Array, "*batch W"]) -> Bool[Array, "*batch N"]:
    """Whether each node is in the set."""
    bits = (nodes[..., None] >> jnp.arange(WORD, dtype=jnp.uint32)) & 1
    return bits.reshape(*nodes.shape[:-1], -1).astype(bool)


def single(node: Int[Array, "*batch"], words: int) -> UInt32[Array, "*batch W"]:
    """The set of one node, or the empty set of -1."""
    place = node[..., None] - WORD * jnp.arange(words)
    inside = (place >= 0) & (place < WORD)
    one = jnp.uint32(1) << jnp.clip(place, 0, WORD - 1).astype(jnp.uint32)
    return jnp.where(inside, one, jnp.uint32(0))


def has(nodes: UInt32[Array, " W"], node: Int[Array, ""]) -> Bool[Array, ""]:
    """Whether a node is in the set; -1 is in none."""
    return overlap(nodes, single(node, nodes.shape[-1]))


def some(nodes: UInt32[Array, "*batch W"]) -> Bool[Array, "*batch"]:
    """Whether the set has a node."""
    return (nodes != 0).any(-1)


def overlap(a: UInt32[Array, "*#batch W"], b: UInt32[Array, "*#batch W"]) -> Bool[Array, "*batch"]:
    """Whether two sets share a node."""
    return some(a & b)


def lowest(nodes: UInt32[Array, "*batch W"]) -> UInt32[Array, "*batch W"]:
    """The set of the first node alone; empty of an empty set."""
    words, seen = [], jnp.zeros(nodes.shape[:-1], bool)
    # A loop over a handful of words: a cumulative sum would be a pass of its own.
    for word in jnp.moveaxis(nodes, -1, 0):
        words.append(jnp.where(seen, jnp.uint32(0), word & (~word + 1)))
        seen |= word != 0
    return jnp.stack(words, axis=-1)


def first(nodes: UInt32[Array, "*batch W"]) -> Int[Array, "*batch"]:
    """The first node of the set, or -1."""
    word = jnp.argmax(nodes != 0, axis=-1)
    value = jnp.take_along_axis(nodes, word[..., None], axis=-1)[..., 0]
    low = jax.lax.population_count((value & (~value + 1)) - 1).astype(jnp.int32)
    return jnp.where(value == 0, -1, word.astype(jnp.int32) * WORD + low)


def sources(relation: UInt32[Array, "N W"], targets: UInt32[Array, " W"]) -> UInt32[Array, " W"]:
    """The nodes with an edge to one of `targets`."""
    return pack(overlap(relation, targets[None]))


def reached(relation: UInt32[Array, "N W"], starts: UInt32[Array, " W"]) -> UInt32[Array, " W"]:
    """The nodes to which one of `starts` has an edge."""
    rows = jnp.where(unpack(starts)[:, None], relation, jnp.uint32(0))
    return jax.lax.reduce(rows, jnp.uint32(0), jax.lax.bitwise_or, (0,))


def at_least(relation: UInt32[Array, "N W"], most: int) -> UInt32[Array, "most W"]:
    """For k = 1 to `most`, the nodes to which k nodes or more have an edge."""
    none = jnp.zeros_like(relation)
    counts = [relation] + [none] * (most - 1)  # of one row each: once, and never more often
    while counts[0].shape[0] > 1:
        # Halves are added as unary numbers of `most` digits.
        a, b = ([c[i::2] for c in counts] for i in (0, 1))
        sums = []
        for k in range(most):
            total = a[k] | b[k]
            for i in range(k):
                total = total | (a[i] & b[k - 1 - i])
            sums.append(total)
        counts = sums
        if counts[0].shape[0] % 2 and counts[0].shape[0] > 1:
            counts = [jnp.concatenate([c, jnp.zeros_like(c[:1])]) for c in counts]
    return jnp.stack([c[0] for c in counts])


def settle(values: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    """`values`, computed once.

    XLA would fuse what makes them into each of their many uses, and compute it anew for every element; a
    reduction is not fused in that way, and this is one over the values and zeros.
    """
    zero = jnp.zeros((), values.dtype)
    pair = jnp.stack([values, jnp.zeros_like(values)])
    return jax.lax.reduce(pair, zero, jax.lax.bitwise_or, (0,))
