"""Draws of tokens through which gradients flow: Gumbel-softmax (Jang et al., 2017; Maddison et al., 2017).

`gumbel_softmax` draws at one position. `unroll` writes a whole text: each draw is what the model reads next, so
the gradient passes from every token to all later ones (Yang et al., 2018, section 3).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from jaxgen.errors import require
from jaxgen.numerics import Number, check_temperature, over_temperature, wide
from jaxgen.text.decoding import Start, force_ends
from jaxgen.text.rewind import scan


def gumbel_softmax(
    logits: Float[Array, "*N V"],
    key: Key[Array, ""],
    *,
    temperature: Number,
    hard: bool = False,
) -> Float[Array, "*N V"]:
    """softmax((logits + Gumbel noise) / temperature), whose argmax is an exact draw from the logits.

    Args:
      temperature: towards 0, draws become one-hot and gradients large; may be traced, to be annealed.
      hard: the value is that argmax, one-hot, and only the gradient is that of the softmax
        (straight-through): whatever reads the draw is never shown a mixture of tokens.

    Raises:
      ValueError: a temperature that is not finite and above 0.
    """
    check_temperature(temperature)
    noise = jax.random.gumbel(key, logits.shape, wide(logits))
    soft = jax.nn.softmax(over_temperature(logits + noise, temperature)).astype(logits.dtype)
    if not hard:
        return soft
    drawn = jax.nn.one_hot(soft.argmax(-1), soft.shape[-1], dtype=soft.dtype)
    return drawn + (soft - jax.lax.stop_gradient(soft))


def unroll(
    start: Start,
    key: Key[Array, ""],
    *,
    length: int,
    temperature: Number,
    hard: bool = False,
    end: int = -1,
    forced_end: Int[Array, " B"] | None = None,
    early_end: bool = False,
) -> tuple[Float[Array, "B T V"], Float[Array, "B T V"]]:
    """A text of `length` soft tokens, each drawn from the logits that those before it led to.

    One `lax.scan` over positions whose carry is the cache: T - 1 steps of `start.step`, which is given
    distributions [B, V]. With `hard` the logits are those of teacher forcing on the draws. Memory of the
    gradient grows linearly in T where the start has a `rewind`, see `jaxgen.text.rewind`; then there is no
    forward-mode derivative.

    Args:
      start: where writing begins; see a model's `start` method.
      temperature: of `gumbel_softmax`, as `hard`; may be traced.
      forced_end: of each row, the position (from 0) at which it ends at the latest, see
        `decoding.force_ends`, as end and early_end; None leaves rows to end by themselves, and to go on
        after that (`soft_eos_mask`).

    Returns:
      The draws, and the logits that they were drawn from.

    Raises:
      ValueError: a length below 1 or beyond the start's room, a temperature that is not finite and above
        0, ends to force without an `end` of the vocabulary.
    """
    check_temperature(temperature)
    most = length if start.room is None else start.room
    require("length", 1 <= length <= most, length, f"1 to {most}" if start.room else "at least 1")
    if forced_end is not None:
        start = force_ends(start, forced_end, end=end, early=early_end)

    def draw(logits: Array, key: Array) -> Array:
        return gumbel_softmax(logits, key, temperature=temperature, hard=hard)

    def turn(logits: Array, cache: PyTree, key: Array) -> tuple[Array, PyTree, Array]:
        drawn = draw(logits, key)
        return *start.step(cache, drawn), drawn

    keys = jax.random.split(key, length)
    drawn, before, logits = scan(turn, start.logits, start.cache, keys[:-1], start.rewind)
    drawn = jnp.concatenate([drawn, draw(logits, keys[-1])[None]])
    before = jnp.concatenate([before, logits[None]])
    return drawn.swapaxes(0, 1), before.swapaxes(0, 1)


def soft_eos_mask(text: Float[Array, "B T V"], end: int) -> Bool[Array, "B T"]:
    """Positions up to each row's first end token, that one included; a soft token is its likeliest."""
    hit = text.argmax(-1) == end
    return jnp.cumsum(hit, -1) - hit == 0


def temperature_at(
    step: Int[Array, ""] | int, *, start: Number = 1.0, floor: Number = 1e-3, half_life: Number
) -> Float[Array, ""]:
    """`start` halved every `half_life` steps, at least `floor` (Yang et al., 2018: an epoch; 0.001).

    All may be traced. For a line or a curve that ends at a step see `jaxgen.moe.gates.temperature_at`.

    Raises:
      ValueError: numbers that are not finite and above 0.
    """
    for name, value in (("start", start), ("floor", floor), ("half_life", half_life)):
        require(name, (value > 0) & (value < jnp.inf), value, "above 0, finite")
    halved = start * 0.5 ** (jnp.asarray(step, jnp.float32) / half_life)
    return jnp.maximum(jnp.asarray(halved, jnp.float32), floor)
