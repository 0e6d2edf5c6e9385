"""The regularised posterior of a generative model under a constraint, by importance weights.

A model p(x | c) and a constraint f(x), trusted as much as alpha says, make

    q(x | c) = p(x | c) exp(alpha f(x)) / Z(c),

which minimises KL(q || p) - alpha E_q[f]; the minimum is -log Z. It is used through samples of p: K for each
condition, weighted by softmax(alpha f) over these K. Samples come from p already, so log p is no part of a
weight. Weights over samples of different conditions would prefer easy conditions.
Source: Hu et al. (2018), sections 2 and 3; posterior regularisation: Ganchev et al. (2010).

A reward of -inf forbids its sample, at any alpha. Outside jit, rewards that are NaN or +inf, or -inf for all
samples of a condition, raise; under jit they make the condition's weights NaN, at which a train loop stops.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxgen.errors import require
from jaxgen.numerics import Number, wide


def weights(
    f: Float[Array, "*C K"], alpha: Number, *, log_ratio: Float[Array, "*C K"] | None = None
) -> Float[Array, "*C K"]:
    """Of the K samples of each condition, which sum to 1: softmax(alpha f) over the last axis.

    In float32 or wider. Losses that use them as the fixed q stop their gradient (`jaxgen.constraints.steps`).

    Args:
      f: rewards.
      alpha: 0 weighs all alike; may be traced.
      log_ratio: log p(x) - log proposal(x), where the samples come from a proposal instead of p, such as an
        older or averaged model.

    Raises:
      ValueError: alpha negative or not finite, no samples; outside jit, rewards that make no weights.
    """
    exponents, _, good = _exponents(f, alpha, log_ratio)
    return jnp.where(good, jax.nn.softmax(exponents, -1), jnp.nan)


def effective_sample_size(weights: Float[Array, "*C K"]) -> Float[Array, "*C"]:
    """1 / sum w^2 of weights that sum to 1: K of equal ones, 1 where one sample has all (Kong, 1992)."""
    return 1.0 / (weights**2).sum(-1)


def log_partition(
    f: Float[Array, "*C K"], alpha: Number, *, log_ratio: Float[Array, "*C K"] | None = None
) -> Float[Array, "*C"]:
    """log mean exp(alpha f), an estimate of log Z(c) that is too low on average.

    Raises:
      ValueError: as `weights`.
    """
    exponents, top, good = _exponents(f, alpha, log_ratio)
    log_sum = jax.nn.logsumexp(exponents, -1) - np.log(f.shape[-1])
    return jnp.where(good[..., 0], log_sum + top, jnp.nan)


def expect(values: Float[Array, "*C K"], weights: Float[Array, "*C K"]) -> Float[Array, "*C"]:
    """sum_i w_i h(x_i), of E_q[h]: its bias falls as 1/K, its standard error as K^-1/2.

    A sample without weight does not count, whatever its value is.
    """
    return (weights * jnp.where(weights == 0, 0, values)).sum(-1)


def solve_alpha(
    f: Float[Array, "*C K"], target_ess: Number, *, most: float = 1e4, steps: int = 60
) -> Float[Array, ""]:
    """The alpha at which the effective sample size, mean over conditions, is `target_ess`.

    By bisection: the size falls as alpha grows from 0. Where even at `most` it is above the target (rewards
    that hardly differ), that is returned; 0 where it is below the target already at 0. No gradient passes.

    Args:
      target_ess: above 1 and at most K; may be traced.
      most: the largest alpha.

    Raises:
      ValueError: another target; outside jit, rewards that make no weights.
    """
    samples = f.shape[-1]
    ok = (target_ess > 1) & (target_ess <= samples)
    require("target_ess", ok, target_ess, f"above 1 and at most {samples} samples")
    weights(f, 0.0)  # checked here, where it can raise
    f = jax.lax.stop_gradient(f)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        above = effective_sample_size(weights(f, middle)).mean() >= target_ess
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    start = jnp.zeros((), wide(f)), jnp.asarray(most, wide(f))
    low, _ = jax.lax.fori_loop(0, steps, halve, start)
    at_most = effective_sample_size(weights(f, most)).mean() >= target_ess
    return jnp.where(at_most, start[1], low)


def _exponents(
    f: Float[Array, "*C K"], alpha: Number, log_ratio: Float[Array, "*C K"] | None
) -> tuple[Float[Array, "*C K"], Float[Array, "*C"], Bool[Array, "*C 1"]]:
    """alpha (f - the condition's largest) + log_ratio, alpha times that largest, and whether they make weights.

    Rewards of any size: what is exponentiated is at most log_ratio. It is 0 where they make none; a NaN in its place is
    lost in XLA's fused exp on CPUs, so it has to come last.
    """
    require("alpha", (alpha >= 0) & (alpha < jnp.inf), alpha, "0 or more, finite")
    require("samples a condition", f.shape[-1] > 0, f.shape[-1], "at least 1")
    x = f.astype(wide(f))
    top = jax.lax.stop_gradient(x.max(-1, keepdims=True))  # NaN where one reward is
    good = jnp.isfinite(top)
    if not isinstance(top, jax.core.Tracer):
        bad = np.asarray(top)[~np.asarray(good)]
        allowed = "numbers, and not -inf for all samples of a condition"
        require("rewards' maximum", not bad.size, bad[:4], allowed)
    forbidden = jnp.isneginf(x)
    trust = jnp.asarray(alpha, x.dtype)
    exponents = trust * (jnp.where(forbidden, top, x) - top)
    if log_ratio is not None:
        exponents = exponents + log_ratio.astype(x.dtype)
    exponents = jnp.where(forbidden, -jnp.inf, exponents)
    return jnp.where(good, exponents, 0.0), (trust * top)[..., 0], good
