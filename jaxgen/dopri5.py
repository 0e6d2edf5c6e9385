"""Dormand and Prince's pair of orders 5 and 4 as one loop, for solves that nobody differentiates.

The method is diffrax's (its tableau is read from there), the step sizes are those of an I-controller with diffrax's
defaults, the first one is Hairer's. What is left out is what such a solve does not need: saved points, adjoints,
events. Sources: Dormand and Prince (1980); Hairer, Norsett and Wanner (1993, section II.4).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from numpy import ndarray

TABLEAU = diffrax.Dopri5.tableau
SAFETY, SMALLEST, LARGEST = 0.9, 0.2, 10.0  # of a step size to the next
ORDER = 5  # of the error estimate, whose root scales step sizes


class _Carry(NamedTuple):
    """Where a solve stands: `slope` is the drift at (t, y), the first stage of the step to come."""

    t: Float[Array, ""]
    h: Float[Array, ""]
    y: Float[Array, "..."]
    slope: Float[Array, "..."]
    tried: Int[Array, ""]


def solve(
    drift: Callable[[Array, Array], Array],
    y: Float[Array, "..."],
    t0: Float[Array, ""],
    t1: Float[Array, ""],
    *,
    rtol: float,
    atol: float,
    max_steps: int,
) -> tuple[Float[Array, "..."], Bool[Array, ""], Int[Array, ""]]:
    """Solves dy/dt = drift(t, y) from t0 to t1 with one step size for all of y; no reverse-mode gradient.

    Returns:
      The state where it stopped, whether that is t1, and the steps that were tried.
    """
    length, way = jnp.abs(t1 - t0), jnp.sign(t1 - t0)

    def field(t: Array, y: Array) -> Array:
        return way * drift(t0 + way * t, y)

    def unfinished(at: _Carry) -> Bool[Array, ""]:
        # A step size that is not a number comes of a state that is none.
        return (at.t < length) & (at.tried < max_steps) & ~jnp.isnan(at.h)

    def step(at: _Carry) -> _Carry:
        last = at.t + at.h >= length
        h = jnp.where(last, length - at.t, at.h)
        stages = [at.slope]
        for c, row in zip(TABLEAU.c, TABLEAU.a_lower, strict=True):
            place = at.y + h * _weighted(row, stages)
            stages.append(field(at.t + float(c) * h, place))
        # The last row of the tableau is the solution itself, so its slope is the next step's first.
        error = h * _weighted(TABLEAU.b_error, stages)
        scale = atol + rtol * jnp.maximum(jnp.abs(at.y), jnp.abs(place))
        size = _rms(error / scale)
        taken = size <= 1.0
        factor = SAFETY * jnp.maximum(size, 1e-10) ** (-1.0 / ORDER)
        factor = jnp.clip(factor, jnp.where(taken, 1.0, SMALLEST), LARGEST)
        factor = jnp.where(jnp.isfinite(factor), factor, SMALLEST)
        reached = jnp.where(last, length, at.t + h)
        return _Carry(
            jnp.where(taken, reached, at.t),
            h * factor,
            jnp.where(taken, place, at.y),
            jnp.where(taken, stages[-1], at.slope),
            at.tried + 1,
        )

    slope = field(jnp.zeros_like(length), y)
    h = jnp.minimum(_first_step(field, y, slope, rtol, atol), length)
    begin = _Carry(jnp.zeros_like(length), h, y, slope, jnp.zeros((), jnp.int32))
    end = jax.lax.while_loop(unfinished, step, begin)
    return end.y, end.t >= length, end.tried


def _first_step(
    field: Callable[[Array, Array], Array], y: Array, slope: Array, rtol: float, atol: float
) -> Float[Array, ""]:
    """A step size of which an explicit Euler step would be of the right order, and its second derivative too."""
    scale = atol + rtol * jnp.abs(y)
    state, speed = _rms(y / scale), _rms(slope / scale)
    tiny = (state < 1e-5) | (speed < 1e-5)
    guess = jnp.where(tiny, 1e-6, 0.01 * state / jnp.where(tiny, 1.0, speed))
    bend = _rms((field(guess, y + guess * slope) - slope) / scale) / guess
    most = jnp.maximum(speed, bend)
    flat = most <= 1e-15
    better = (0.01 / jnp.where(flat, 1.0, most)) ** (1.0 / ORDER)
    better = jnp.where(flat, jnp.maximum(1e-6, 1e-3 * guess), better)
    return jnp.minimum(100.0 * guess, better)


def _weighted(weights: ndarray, stages: list[Array]) -> Array:
    terms = (float(w) * k for w, k in zip(weights, stages, strict=False) if w)
    return functools.reduce(jnp.add, terms)


def _rms(x: Array) -> Float[Array, ""]:
    return jnp.sqrt(jnp.mean(jnp.square(x)))
