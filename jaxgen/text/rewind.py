"""A scan of decoding steps whose gradient stores one cache instead of one for each step.

A cache of keys and values is as long as the text, and a plain scan stores it, as its carry, at every step:
memory grows as the square of the length. But the last cache holds all earlier ones. The backward pass goes from
the last step to the first, finds each step's cache in the last one, and makes the step again.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.text.decoding import Rewind

# (logits, cache, key) -> (the next logits, the next cache, what was drawn)
Turn: TypeAlias = Callable[[Array, PyTree, Array], tuple[Array, PyTree, Array]]
# What was drawn and the logits before, at each step; the last logits.
Steps: TypeAlias = tuple[Float[Array, "T B V"], Float[Array, "T B V"], Float[Array, "B V"]]


class _Leaves(NamedTuple):
    """A cache's structure, and which of its leaves have a gradient."""

    tree: jax.tree_util.PyTreeDef
    moving: tuple[bool, ...]

    @classmethod
    def of(cls, cache: PyTree) -> "_Leaves":
        leaves, tree = jax.tree.flatten(cache)
        return cls(tree, tuple(jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in leaves))

    def split(self, cache: PyTree) -> tuple[list[Array], list[Array]]:
        """Leaves that have a gradient, and the others, each in their order."""
        pairs = list(zip(jax.tree.leaves(cache), self.moving, strict=True))
        return [x for x, moves in pairs if moves], [x for x, moves in pairs if not moves]

    def join(self, moving: list[Array], fixed: list[Array]) -> PyTree:
        """The cache again."""
        ones, others = iter(moving), iter(fixed)
        leaves = [next(ones if moves else others) for moves in self.moving]
        return jax.tree.unflatten(self.tree, leaves)


def scan(
    turn: Turn,
    logits: Float[Array, "B V"],
    cache: PyTree,
    keys: Key[Array, " T"],
    rewind: Rewind | None = None,
) -> Steps:
    """T turns, one for each key; gradients reach logits, cache and whatever `turn` closes over.

    Args:
      turn: one step; its draws and logits have one shape and dtype throughout.
      rewind: how earlier caches are found; None stores them all.

    Returns:
      What was drawn, the logits that it was drawn from, and the logits after the last turn.
    """
    if rewind is None or not len(keys):
        (last, _), (drawn, before) = jax.lax.scan(
            lambda carry, key: _carry(turn, carry, key), (logits, cache), keys
        )
        return drawn, before, last
    pure, constants = jax.closure_convert(turn, logits, cache, keys[0])
    leaves = _Leaves.of(cache)
    return _scan(pure, rewind, leaves, logits, *leaves.split(cache), keys, constants)


def _carry(turn: Turn, carry: tuple[Array, PyTree], key: Array) -> tuple[PyTree, PyTree]:
    logits, cache = carry
    following, cache, drawn = turn(logits, cache, key)
    return (following, cache), (drawn, logits)


def _scan(
    pure: Callable[..., tuple[Array, PyTree, Array]],
    rewind: Rewind,
    leaves: _Leaves,
    logits: Array,
    moving: list[Array],
    fixed: list[Array],
    keys: Array,
    constants: list[Array],
) -> Steps:
    """`scan` of a turn without closure, on the cache's leaves: those with a gradient, and the others."""

    def forward(
        logits: Array, moving: list[Array], fixed: list[Array], keys: Array, constants: list[Array]
    ) -> tuple[Steps, PyTree]:
        def body(carry: tuple[Array, PyTree], key: Array) -> tuple[PyTree, PyTree]:
            kept = rewind.keep(carry[1])
            carry, out = _carry(lambda x, c, k: pure(x, c, k, *constants), carry, key)
            return carry, (*out, kept)

        start = logits, leaves.join(moving, fixed)
        (last, cache), (drawn, before, kept) = jax.lax.scan(body, start, keys)
        return (drawn, before, last), (cache, before, kept, keys, constants)

    def backward(residuals: PyTree, gradients: Steps) -> tuple[PyTree, ...]:
        cache, before, kept, keys, constants = residuals
        of_drawn, of_before, of_last = gradients
        count = len(keys)

        def body(carry: PyTree, turn: PyTree) -> tuple[PyTree, None]:
            of_logits, of_moving, of_constants = carry
            t, key, logits, part, of_draw, of_own = turn
            moving, fixed = leaves.split(rewind.back(cache, part, count - t))

            def again(logits: Array, moving: list[Array], constants: list[Array]) -> PyTree:
                following, after, drawn = pure(logits, leaves.join(moving, fixed), key, *constants)
                return following, leaves.split(after)[0], drawn

            _, pull = jax.vjp(again, logits, moving, constants)
            to_logits, to_moving, to_constants = pull((of_logits, of_moving, of_draw))
            summed = jax.tree.map(jnp.add, of_constants, to_constants)
            return (to_logits + of_own, to_moving, summed), None

        zeros = jax.tree.map(jnp.zeros_like, (leaves.split(cache)[0], constants))
        turns = jnp.arange(count), keys, before, kept, of_drawn, of_before
        (to_logits, to_moving, to_constants), _ = jax.lax.scan(
            body, (of_last, *zeros), turns, reverse=True
        )
        return to_logits, to_moving, None, None, to_constants

    run = jax.custom_vjp(lambda *args: forward(*args)[0])
    run.defvjp(forward, backward)
    return run(logits, moving, fixed, keys, constants)
