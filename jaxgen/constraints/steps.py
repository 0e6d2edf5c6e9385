"""The two steps of a model under a learnable constraint: phi teaches the constraint, theta the model.

    phi:    maximise E_data[log q(x)], whose gradient is alpha (E_data[grad f] - E_q[grad f])
    theta:  minimise KL(q || p) with q fixed, for a model with a density: likelihood weighted by q's weights;
            minimise KL(p || q) for one that only samples: its gradient at the theta that q was made from is
            that of -alpha E_p[f]

They alternate, on fresh samples each. Losses of arrays come first; below them the same steps from callables, which
stop the gradients that would be wrong: through weights, through samples into phi, through rewards into an
explicit model. No model and no trainer is known here.
Source: Hu et al. (2018), sections 3.1 and 3.2; the phi-step is that of maximum-entropy inverse reinforcement
learning with importance weights (Finn et al., 2016); `m_step_loss` is after Hu et al. (2016).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.constraints import posterior
from jaxgen.errors import require
from jaxgen.numerics import Number, wide

Aux = dict[str, Float[Array, ""]]
# x -> its reward; of data [N], of samples [C, K].
Reward = Callable[[PyTree], Float[Array, "..."]]


def constraint_loss(
    f_data: Float[Array, " N"],
    f_samples: Float[Array, "*C K"],
    alpha: Number,
    *,
    log_ratio: Float[Array, "*C K"] | None = None,
) -> tuple[Float[Array, ""], Aux]:
    """The phi-step's loss: alpha (E_q[f] - E_data[f]), weights fixed; in float32 or wider.

    At alpha near 0 it is an energy GAN's critic, whose samples all weigh the same. With K = 1 too: a
    generator without noise has no q beside p.

    Args:
      f_data: rewards of real examples, with a path to phi; as `f_samples`, those of samples of p.
      log_ratio: see `posterior.weights`, as alpha.

    Returns:
      The loss, and means over conditions: "ess", "log_partition", "f_data", "f_q", "f_p". Where "ess" is
      below K / 4, alpha is too large for K samples; see `posterior.solve_alpha`.

    Raises:
      ValueError: as `posterior.weights`.
    """
    w, aux = _weigh(f_samples, alpha, log_ratio)
    data = f_data.astype(wide(f_data)).mean()
    under_q = posterior.expect(f_samples.astype(w.dtype), w).mean()
    return jnp.asarray(alpha, w.dtype) * (under_q - data), aux | {"f_data": data}


def explicit_model_loss(
    logprob: Float[Array, "*C K"],
    f: Float[Array, "*C K"],
    alpha: Number,
    *,
    log_ratio: Float[Array, "*C K"] | None = None,
) -> Float[Array, "*C"]:
    """The theta-step of a model with a density: - sum_k w_k log p(x_k), KL(q || p) but for a constant.

    Args:
      logprob: log p of the samples, with a path to theta.
      f: their rewards; no gradient passes, as through the weights.
      log_ratio: see `posterior.weights`, as alpha.

    Raises:
      ValueError: fewer than 2 samples a condition, which would weigh 1 whatever they are; as
        `posterior.weights`.
    """
    return _explicit(logprob, f, alpha, log_ratio)[0]


def implicit_model_loss(f: Float[Array, "*C K"], alpha: Number) -> Float[Array, "*C"]:
    """The theta-step of a model that only samples: -alpha mean_k f(x_k), in float32 or wider.

    Args:
      f: rewards with a path to theta through the samples (reparameterised); phi is not trained by it.

    Raises:
      ValueError: alpha negative or not finite.
    """
    require("alpha", (alpha >= 0) & (alpha < jnp.inf), alpha, "0 or more, finite")
    return -jnp.asarray(alpha, wide(f)) * f.astype(wide(f)).mean(-1)


def m_step_loss(
    f: Float[Array, "*C K"], alpha: Number, *, log_ratio: Float[Array, "*C K"] | None = None
) -> Float[Array, "*C"]:
    """The baseline that teaches phi on model samples alone: -alpha E_q[f], weights fixed.

    It sees no data, so it praises whatever the model makes.

    Raises:
      ValueError: as `posterior.weights`.
    """
    w, _ = _weigh(f, alpha, log_ratio)
    return -jnp.asarray(alpha, w.dtype) * posterior.expect(f.astype(w.dtype), w)


def phi_step(
    f: Reward,
    data: PyTree,
    samples: PyTree,
    alpha: Number,
    *,
    log_ratio: Float[Array, "*C K"] | None = None,
) -> tuple[Float[Array, ""], Aux]:
    """`constraint_loss` of a reward with a path to phi, on data and on samples of the present model.

    Args:
      f: x -> reward, [N] of `data` and [C, K] of `samples`; a condition, where there is one, is part of x.
      samples: no gradient passes into the model that drew them.

    Returns:
      The loss to minimise by phi, and what `constraint_loss` reports.
    """
    fixed = jax.tree.map(jax.lax.stop_gradient, samples)
    return constraint_loss(f(data), f(fixed), alpha, log_ratio=log_ratio)


def explicit_theta_step(
    sample: Callable[[Key[Array, ""]], PyTree],
    log_prob: Callable[[PyTree], Float[Array, "*C K"]],
    f: Reward,
    key: Key[Array, ""],
    alpha: Number,
) -> tuple[Float[Array, ""], Aux]:
    """Draws, weighs, and returns the mean `explicit_model_loss`: theta learns by `log_prob` alone.

    Args:
      sample: key -> K samples of each of C conditions from the present model.
      log_prob: samples -> log p [C, K] with a path to theta.
      f: samples -> rewards [C, K].

    Returns:
      The loss, to be added to the model's own with a weight, and "ess", "log_partition", "f_q", "f_p".
    """
    x = jax.tree.map(jax.lax.stop_gradient, sample(key))
    loss, aux = _explicit(log_prob(x), f(x), alpha, None)
    return loss.mean(), aux


def implicit_theta_step(
    sample: Callable[[Key[Array, ""]], PyTree], f: Reward, key: Key[Array, ""], alpha: Number
) -> tuple[Float[Array, ""], Aux]:
    """Draws, and returns the mean `implicit_model_loss`: theta learns through the samples.

    Args:
      sample: key -> K samples of each of C conditions, with a path to theta.
      f: samples -> rewards [C, K]; differentiate by theta alone.

    Returns:
      As `explicit_theta_step`.
    """
    rewards = f(sample(key))
    loss = implicit_model_loss(rewards, alpha).mean()
    return loss, _weigh(rewards, alpha, None)[1]


def _explicit(
    logprob: Float[Array, "*C K"],
    f: Float[Array, "*C K"],
    alpha: Number,
    log_ratio: Float[Array, "*C K"] | None,
) -> tuple[Float[Array, "*C"], Aux]:
    require("samples a condition", f.shape[-1] > 1, f.shape[-1], "at least 2")
    w, aux = _weigh(f, alpha, log_ratio)
    return -posterior.expect(logprob.astype(w.dtype), w), aux


def _weigh(
    f: Float[Array, "*C K"], alpha: Number, log_ratio: Float[Array, "*C K"] | None
) -> tuple[Float[Array, "*C K"], Aux]:
    """The fixed weights, and what they say about the samples."""
    f = jax.lax.stop_gradient(f)
    ratio = None if log_ratio is None else jax.lax.stop_gradient(log_ratio)
    w = posterior.weights(f, alpha, log_ratio=ratio)
    plain = posterior.weights(f, 0.0, log_ratio=ratio)
    return w, {
        "ess": posterior.effective_sample_size(w).mean(),
        "log_partition": posterior.log_partition(f, alpha, log_ratio=ratio).mean(),
        "f_q": posterior.expect(f.astype(w.dtype), w).mean(),
        "f_p": posterior.expect(f.astype(w.dtype), plain).mean(),
    }
