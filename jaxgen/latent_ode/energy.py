"""Operators on latents as energies, and their composition.

Any differentiable function of a latent becomes an operator with an energy E(z, target), low where the
attribute holds. Operators compose by weighted sums (Liu et al., 2023, LatentOps, section 3.1):

    p(z, a) ~ p(z) exp(-sum_i w_i E_i(z, a_i))

    classifier   E = -f(z)_a + logsumexp f(z)              = -log p(a | z)
    without      E = -log(1 - p(a | z))
    regression   E = ||f(z) - a||^2 / (2 sigma^2)
    keywords     E = -sum_{w in a} log sigmoid f(z)_w      (bag of words)
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxgen.errors import require
from jaxgen.numerics import Number

Energy = Callable[[Float[Array, " D"]], Float[Array, ""]]
# What a user asks for: a label or a word by name or index, several words, a number.
Target: TypeAlias = ArrayLike | str | Sequence[str | int | np.integer]


@dataclasses.dataclass(frozen=True)
class Operator:
    """One attribute as an energy.

    Attributes:
      name: for error messages.
      energy: (z [D], target) -> scalar; the target is what `resolve` returned.
      resolve: checks a user's target (a label's name, a number, words) and turns it into arrays;
        raises ValueError for one that is not known.
      dim: the latent size D that the operator was made for, or None where any will do.
    """

    name: str
    energy: Callable[[Float[Array, " D"], ArrayLike], Float[Array, ""]]
    resolve: Callable[[Target], ArrayLike]
    dim: int | None = None


def _index(name: str, what: str, known: Sequence[str], target: Target) -> ArrayLike:
    """Place of a label given by name or by index; a traced array is taken as it is."""
    if isinstance(target, jax.core.Tracer):
        return target
    if isinstance(target, jax.Array | np.ndarray):
        places = np.asarray(target)
        ok = np.issubdtype(places.dtype, np.integer) and (places >= 0) & (places < len(known))
        require(f"operator {name!r}: {what}", ok, target, f"0 to {len(known) - 1}")
        return target
    if isinstance(target, str) and target in known:
        return known.index(target)
    if (
        isinstance(target, int | np.integer)
        and not isinstance(target, bool)
        and 0 <= int(target) < len(known)
    ):
        return int(target)
    some = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    raise ValueError(
        f"operator {name!r}: {what} is {target!r}, allowed: {some} (or 0 to {len(known) - 1})"
    )


def classifier(
    logits: Callable[[Float[Array, " D"]], Float[Array, " K"]],
    labels: Sequence[str],
    *,
    name: str = "classifier",
    dim: int | None = None,
) -> Operator:
    """-log p(a|z) of any function z -> logits; a constant added to all logits changes nothing."""

    def energy(z: Array, a: ArrayLike) -> Array:
        f = logits(z)
        # NaN for a traced label that there is not, instead of its neighbour's energy.
        chosen = f.at[a].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return jax.nn.logsumexp(f) - chosen

    return Operator(name, energy, lambda t: _index(name, "label", tuple(labels), t), dim)


def without(
    logits: Callable[[Float[Array, " D"]], Float[Array, " K"]],
    labels: Sequence[str],
    *,
    name: str = "without",
    dim: int | None = None,
) -> Operator:
    """Negation: -log(1 - p(a|z)), the negative log-probability of all other labels together."""
    if len(labels) < 2:
        raise ValueError(f"operator {name!r}: labels are {list(labels)}, allowed: at least two")

    def energy(z: Array, a: ArrayLike) -> Array:
        f = logits(z)
        others = jnp.where(jnp.arange(f.shape[0]) == a, -jnp.inf, f)
        cost = jax.nn.logsumexp(f) - jax.nn.logsumexp(others)
        known = (jnp.asarray(a) >= 0) & (jnp.asarray(a) < f.shape[0])
        return jnp.where(known, cost, jnp.nan)

    return Operator(name, energy, lambda t: _index(name, "label", tuple(labels), t), dim)


def regression(
    predict: Callable[[Float[Array, " D"]], Float[Array, "..."]],
    *,
    sigma: Number = 0.1,
    name: str = "regression",
    dim: int | None = None,
) -> Operator:
    """||f(z) - a||^2 / (2 sigma^2); `sigma` is in the units of f.

    Raises:
      ValueError: sigma that is not above 0.
    """
    ok = (sigma > 0) & (sigma < jnp.inf)
    require(f"operator {name!r}: sigma", ok, sigma, "above 0, finite")

    def energy(z: Array, a: ArrayLike) -> Array:
        return jnp.sum((predict(z) - a) ** 2) / (2.0 * sigma**2)

    def resolve(target: Target) -> Array:
        value = jnp.asarray(target, jnp.float32)
        if not isinstance(value, jax.core.Tracer) and not np.isfinite(np.asarray(value)).all():
            raise ValueError(f"operator {name!r}: target is {target!r}, allowed: finite numbers")
        return value

    return Operator(name, energy, resolve, dim)


def keywords(
    logits: Callable[[Float[Array, " D"]], Float[Array, " W"]],
    words: Sequence[str],
    *,
    name: str = "keywords",
    dim: int | None = None,
) -> Operator:
    """-sum log p(word occurs | z) over the target words, each an independent Bernoulli.

    Args:
      logits: z -> one logit of each word of `words`.
    """

    def energy(z: Array, chosen: ArrayLike) -> Array:
        return -jnp.sum(jax.nn.log_sigmoid(logits(z)) * chosen)

    def resolve(target: Target) -> Array:
        wanted: list[Target] = [target]
        if isinstance(target, Iterable) and not isinstance(target, str):
            wanted = list(target)
        if not wanted:
            raise ValueError(f"operator {name!r}: no word is given, allowed: at least one")
        chosen = np.zeros(len(words), np.float32)
        for word in wanted:
            chosen[np.asarray(_index(name, "word", tuple(words), word))] = 1.0
        return jnp.asarray(chosen)

    return Operator(name, energy, resolve, dim)


def compose(parts: Sequence[tuple[Operator, Target, float | Array]]) -> Energy:
    """The energy sum_i w_i E_i(z, a_i) of (operator, target, weight) triples.

    A target and a weight may be traced; neither is checked then (a traced label that there is not gives
    NaN). No operators give the zero energy, which leaves latents as they are.

    Raises:
      ValueError: an unknown target, or a weight that is negative or not finite (to steer away from
        a label, use `without`). The returned function raises for a z of another size than an
        operator's.
    """
    bound = []
    for operator, target, weight in parts:
        ok = (weight >= 0) & (weight < jnp.inf)
        require(f"operator {operator.name!r}: weight", ok, weight, "0 or more")
        bound.append((operator, operator.resolve(target), weight))

    def energy(z: Float[Array, " D"]) -> Float[Array, ""]:
        total = jnp.zeros((), z.dtype)
        for operator, target, weight in bound:
            if operator.dim is not None and operator.dim != z.shape[-1]:
                raise ValueError(
                    f"operator {operator.name!r}: latent size is {z.shape[-1]}, "
                    f"allowed: {operator.dim}, which it was trained on"
                )
            total = total + (weight * operator.energy(z, target)).astype(z.dtype)
        return total

    return energy
