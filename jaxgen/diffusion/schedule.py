"""Noise schedules of variance-preserving diffusion, discrete and continuous.

A discrete chain has steps t = 1..T. Arrays are indexed by t itself and have a slot for t = 0
(`beta[0] = 0`, `alpha_bar[0] = 1`), so no formula needs a shifted index:

    z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps          (Ho et al., 2020, eq. 4)

`Schedule` (t in 0..T) and `VPSDE` (t in [0, 1]) both offer `horizon`, `beta_at` and
`log_alpha_bar_at` for real-valued t, which is all that the probability-flow ODE needs.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int

from jaxgen.numerics import lookup


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Schedule:
    """A discrete variance-preserving chain; a pytree, so it may be a jit argument.

    Attributes:
      beta: variance added at each step; beta[0] = 0 and 0 < beta[t] < 1 for t >= 1.
      alpha_bar: product of (1 - beta) up to and including t; alpha_bar[0] = 1.
      one_minus_alpha_bar: 1 - alpha_bar, kept apart because the subtraction loses every digit in
        float32 where beta is small.
    """

    beta: Float[Array, " T_plus_1"]
    alpha_bar: Float[Array, " T_plus_1"]
    one_minus_alpha_bar: Float[Array, " T_plus_1"]

    @property
    def num_steps(self) -> int:
        """T, the number of noising steps."""
        return self.beta.shape[0] - 1

    @property
    def horizon(self) -> float:
        """The largest t, as a float: the end of the interval on which `beta_at` is defined."""
        return float(self.num_steps)

    def astype(self, dtype: DTypeLike) -> "Schedule":
        """The same chain in another dtype, that of the latents it is used on."""
        return jax.tree.map(lambda a: a.astype(dtype), self)

    def at(
        self, values: Float[Array, " T_plus_1"], t: Int[ArrayLike, "..."]
    ) -> Float[Array, "..."]:
        """values[t], such as `alpha_bar`'s. Under jit a step that the chain does not have gives NaN.

        Raises:
          ValueError: such a step, outside jit.
        """
        return lookup(values[:, None], jnp.asarray(t), "t")[..., 0]

    @property
    def log_alpha_bar(self) -> Float[Array, " T_plus_1"]:
        """log(alpha_bar), also where alpha_bar itself is too small for its dtype (long chains)."""
        rest, tiny = self.one_minus_alpha_bar, jnp.finfo(self.beta.dtype).tiny
        seen = jnp.where(
            rest < 0.5,
            jnp.log1p(-jnp.minimum(rest, 0.5)),
            jnp.log(jnp.maximum(self.alpha_bar, tiny)),
        )
        return jnp.where(self.alpha_bar > 1e3 * tiny, seen, jnp.cumsum(jnp.log1p(-self.beta)))

    def ratio(self, t: Int[ArrayLike, "..."], s: Int[ArrayLike, "..."]) -> Float[Array, "..."]:
        """alpha_bar_t / alpha_bar_s for t >= s, above 0 also where both are too small for their dtype."""
        tiny = jnp.finfo(self.beta.dtype).tiny
        a, b, log = self.alpha_bar[t], self.alpha_bar[s], self.log_alpha_bar
        quotient = jnp.where(a > 1e3 * tiny, a / jnp.maximum(b, tiny), jnp.exp(log[t] - log[s]))
        return jnp.maximum(quotient, tiny)

    def alpha(self, t: Int[ArrayLike, "..."]) -> Float[Array, "..."]:
        """alpha_t = 1 - beta_t."""
        return 1.0 - self.beta[t]

    def elbo_weight(self, t: Int[ArrayLike, "..."]) -> Float[Array, "..."]:
        """lambda_t = beta_t / (2 alpha_t (1 - alpha_bar_t)), for t >= 1.

        The factor of ||eps - eps_theta||^2 in KL(q(z_{t-1}|z_t,z_0) || p(z_{t-1}|z_t)) when the
        reverse variance is beta_t (Ho et al., 2020, eq. 12).
        """
        return self.beta[t] / (2.0 * self.alpha(t) * self.one_minus_alpha_bar[t])

    def posterior_variance(self, t: Int[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Variance of q(z_{t-1} | z_t, z_0) for t >= 1 (Ho et al., 2020, eq. 7); 0 at t = 1."""
        return (
            self.beta[t]
            * self.one_minus_alpha_bar[jnp.asarray(t) - 1]
            / self.one_minus_alpha_bar[t]
        )

    def log_alpha_bar_at(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """log(alpha_bar) at real t in [0, T]: linear between the steps."""
        log = self.log_alpha_bar
        return jnp.interp(t, jnp.arange(self.num_steps + 1, dtype=log.dtype), log)

    def beta_at(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """-d log(alpha_bar) / dt at real t: the rate of the SDE that this chain samples."""
        step = jnp.clip(jnp.ceil(jnp.asarray(t)).astype(jnp.int32), 1, self.num_steps)
        return -jnp.log1p(-self.beta[step])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VPSDE:
    """Continuous VP-SDE dz = -beta(t)/2 z dt + sqrt(beta(t)) dW on [0, 1] (Song et al., 2021)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    @property
    def horizon(self) -> float:
        return 1.0

    def beta_at(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """beta(t) = beta_min + t (beta_max - beta_min)."""
        return self.beta_min + jnp.asarray(t) * (self.beta_max - self.beta_min)

    def log_alpha_bar_at(self, t: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """-int_0^t beta(s) ds."""
        t = jnp.asarray(t)
        return -(self.beta_min * t + 0.5 * t**2 * (self.beta_max - self.beta_min))

    def discretise(self, num_steps: int) -> Schedule:
        """The chain whose alpha_bar equals this SDE's at t / num_steps, exactly."""
        _check_steps(num_steps)
        t = np.arange(num_steps + 1, dtype=np.float64) / num_steps
        log_alpha_bar = -(self.beta_min * t + 0.5 * t * t * (self.beta_max - self.beta_min))
        return from_betas(-np.expm1(np.diff(log_alpha_bar)))


def from_betas(betas: Float[ArrayLike, " T"] | Sequence[float]) -> Schedule:
    """A schedule from beta_1..beta_T, each strictly between 0 and 1, also as float32.

    Products are taken in float64 on the host, since a float32 product over a thousand steps loses
    three digits. Not for use inside jit.

    Raises:
      ValueError: if there is no step or a beta is outside (0, 1); it names the step.
    """
    b = np.asarray(betas, np.float64)
    if b.ndim != 1 or b.size == 0:
        raise ValueError(f"schedule needs a vector of at least one beta, got shape {b.shape}")
    seen = b.astype(np.float32)  # 1 - 1e-12 is 1 there, after which nothing can be reversed
    bad = np.flatnonzero(~((seen > 0.0) & (seen < 1.0)))
    if bad.size:
        i = int(bad[0])
        raise ValueError(
            f"schedule: beta at step {i + 1} is {float(b[i])!r}, allowed: 0 < beta < 1 in float32"
        )
    log_alpha_bar = np.concatenate([[0.0], np.cumsum(np.log1p(-b))])
    return Schedule(
        beta=jnp.asarray(np.concatenate([[0.0], b])),
        alpha_bar=jnp.asarray(np.exp(log_alpha_bar)),
        one_minus_alpha_bar=jnp.asarray(-np.expm1(log_alpha_bar)),
    )


def linear(num_steps: int, beta_min: float = 1e-4, beta_max: float = 0.02) -> Schedule:
    """beta rises linearly from beta_min to beta_max (Ho et al., 2020, section 4)."""
    _check_steps(num_steps)
    return from_betas(np.linspace(beta_min, beta_max, num_steps))


def constant(num_steps: int, beta: float = 0.008) -> Schedule:
    """The same beta at every step (Liu et al., 2024, for proteins)."""
    _check_steps(num_steps)
    return from_betas(np.full(num_steps, beta, np.float64))


def cosine(num_steps: int, offset: float = 0.008, beta_clip: float = 0.999) -> Schedule:
    """alpha_bar follows cos^2, betas clipped at beta_clip (Nichol and Dhariwal, 2021, eq. 17)."""
    _check_steps(num_steps)
    t = np.arange(num_steps + 1, dtype=np.float64) / num_steps
    alpha_bar = np.cos((t + offset) / (1.0 + offset) * np.pi / 2.0) ** 2
    return from_betas(np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], beta_clip))


def vp_sde(num_steps: int, beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """The discretised VP-SDE; `beta_min` and `beta_max` are rates per unit time."""
    return VPSDE(beta_min, beta_max).discretise(num_steps)


KINDS: dict[str, Callable[..., Schedule]] = {
    "linear": linear,
    "cosine": cosine,
    "constant": constant,
    "vp_sde": vp_sde,
}


def make(kind: str, num_steps: int, **kwargs: float) -> Schedule:
    """A schedule by name, one of `KINDS`; `kwargs` go to its function.

    Raises:
      ValueError: for an unknown name, steps < 1, or a beta outside (0, 1).
    """
    if kind not in KINDS:
        raise ValueError(f"schedule.kind is {kind!r}, allowed: {', '.join(KINDS)}")
    return KINDS[kind](num_steps, **kwargs)


def _check_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"schedule.num_steps is {num_steps}, allowed: at least 1")
