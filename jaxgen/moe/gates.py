"""Gates of mixtures of experts: router logits -> which experts each token goes to, with what weights.

With p = softmax(logits) over E experts, f_e the share of tokens whose first choice is e, P_e the mean of
p_e over tokens, K choices a token:

    switch         k = 1, weight p_e                                    (Fedus et al., 2022)
    top_k          the k largest, weights p_e, normalised if asked      (Shazeer et al., 2017)
    gshard         k = 2, normalised, the second kept with probability min(1, 2 w_2) (Lepikhin et al., 2021)
    expert_choice  each expert takes its C best tokens                  (Zhou et al., 2022)
    hash_gate     a fixed expert for each token id                     (Roller et al., 2021)
    dts            all experts above a threshold, dense to sparse       (Nie et al., 2021)

With state of their own, and so in files of their own: `loss_free` (a bias that balances) and `remoe` (ReLU).

    balance loss   E sum_e f_e P_e, 1 where perfectly even    (DTS has its own)
    z-loss         mean_n logsumexp(logits)^2                 (Zoph et al., 2022)

Weights have the dtype of the logits; probabilities and losses are computed in float32 or wider. Of no
tokens the losses are 0.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.errors import require
from jaxgen.numerics import Number, check_temperature, mean, over_temperature, wide


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Routing:
    """Where tokens go.

    Attributes:
      expert_ids: K choices of each token, the most wanted first (of expert choice: all E in order).
      weights: of their outputs in the sum; 0 where not kept.
      kept: which choices take part.
      balance: auxiliary loss, to be weighted and added.
      z: auxiliary loss on the size of the logits.
      overflow: choices that the gate wanted and a budget did not allow.
    """

    expert_ids: Int[Array, "N K"]
    weights: Float[Array, "N K"]
    kept: Bool[Array, "N K"]
    balance: Float[Array, ""]
    z: Float[Array, ""]
    overflow: Int[Array, ""]

    def counts(self, experts: int) -> Int[Array, " E"]:
        """Tokens that each expert gets."""
        flat = jnp.where(self.kept, self.expert_ids, experts).reshape(-1)
        return jnp.bincount(flat, length=experts + 1)[:experts].astype(jnp.int32)


def z_loss(logits: Float[Array, "N E"]) -> Float[Array, ""]:
    """mean_n logsumexp(logits)^2."""
    return mean(jax.nn.logsumexp(logits.astype(wide(logits)), -1) ** 2)


def balance_loss(probs: Float[Array, "N E"], first: Int[Array, " N"]) -> Float[Array, ""]:
    """E sum_e f_e P_e; gradients flow through P alone."""
    experts = probs.shape[-1]
    count = jnp.bincount(first, length=experts).astype(wide(probs))
    share = count / max(first.shape[0], 1)
    return experts * jnp.sum(share * mean(probs.astype(wide(probs)), 0))


def top_k(logits: Float[Array, "N E"], k: int, *, normalise: bool = False) -> Routing:
    """The k most probable experts.

    Args:
      normalise: divide the k weights by their sum.

    Raises:
      ValueError: k that is not between 1 and E.
    """
    _check_k("k", k, logits.shape[-1])
    probs = _softmax(logits)
    weights, ids = jax.lax.top_k(probs, k)
    if normalise:
        weights = weights / weights.sum(-1, keepdims=True)
    return _routing(logits, probs, ids, weights, jnp.ones(ids.shape, bool))


def switch(logits: Float[Array, "N E"]) -> Routing:
    """The most probable expert, weighted by its probability."""
    return top_k(logits, 1)


def gshard(logits: Float[Array, "N E"], key: Key[Array, ""] | None = None) -> Routing:
    """The two most probable experts, the second one at random.

    Args:
      key: of the draw that keeps the second expert; without it the second is always kept.
    """
    both = top_k(logits, 2, normalise=True)
    if key is None:
        return both
    drawn = jax.random.uniform(key, logits.shape[:1], jnp.float32) < 2.0 * both.weights[:, 1]
    kept = jnp.stack([jnp.ones_like(drawn), drawn], -1)
    return dataclasses.replace(both, kept=kept, weights=jnp.where(kept, both.weights, 0.0))


def expert_choice(logits: Float[Array, "N E"], *, capacity: int) -> Routing:
    """Each expert takes the `capacity` tokens that want it most: balanced by construction.

    A token may be taken by none or by all. What is taken depends on all tokens of the batch, so this gate
    is not causal.

    Raises:
      ValueError: capacity that is not between 1 and N.
    """
    tokens, experts = logits.shape
    _check_k("capacity", capacity, max(tokens, 1))
    probs = _softmax(logits)
    _, chosen = jax.lax.top_k(probs.T, min(capacity, tokens))  # [E, C]
    kept = jnp.zeros((tokens, experts), bool).at[chosen, jnp.arange(experts)[:, None]].set(True)
    ids = jnp.broadcast_to(jnp.arange(experts, dtype=jnp.int32), (tokens, experts))
    routing = _routing(logits, probs, ids, jnp.where(kept, probs, 0.0), kept)
    return dataclasses.replace(routing, balance=jnp.ones((), probs.dtype))


def hash_gate(token_ids: Int[Array, " N"], experts: int) -> Routing:
    """A fixed, random-looking expert for each token id, weight 1; nothing is learned.

    Knuth's multiplicative hash: the upper bits of id * 2654435761 modulo 2^32.
    """
    mixed = token_ids.astype(jnp.uint32) * jnp.uint32(2_654_435_761)
    ids = ((mixed >> 16) % jnp.uint32(experts)).astype(jnp.int32)[:, None]
    zero = jnp.zeros((), jnp.float32)
    ones = jnp.ones(ids.shape, jnp.float32)
    return Routing(ids, ones, ones.astype(bool), zero, zero, jnp.zeros((), jnp.int32))


def dts(
    logits: Float[Array, "N E"],
    key: Key[Array, ""] | None = None,
    *,
    temperature: Number,
    threshold: Number = 0.001,
    budget: int | None = None,
    hard: bool = False,
    noise_free_weights: bool | None = None,
    renormalise: bool = False,
) -> Routing:
    """Dense to sparse: experts whose Gumbel-softmax gate is above a threshold.

    g = softmax((logits + Gumbel noise) / temperature); experts with g_e > threshold take part with weight
    g_e, never none: the largest always does. At a high temperature all take part, at a low one a single
    one (Nie et al., 2021, section 3.2).

    With its options bound by `functools.partial` it is a gate of `MoEContext`.

    Args:
      key: of the noise; without it (evaluation) there is none.
      temperature: above 0; may be traced, since it changes with the step (see `temperature_at`).
      threshold: in [0, 1]; may be traced.
      budget: at most so many experts a token (shapes are static); E by default. What a token wanted
        beyond is counted in `overflow`.
      hard: one expert, the largest of g, with its noise-free probability as weight: without noise that is
        Switch.
      noise_free_weights: weights are softmax(logits), without temperature, if True, and g if False, soft and
        hard; by default g while soft.
      renormalise: where the budget cuts off, the kept weights are divided by their sum.

    Raises:
      ValueError: a threshold, temperature or budget that is not allowed.
    """
    experts = logits.shape[-1]
    require("threshold", (threshold >= 0) & (threshold <= 1), threshold, "0 to 1")
    check_temperature(temperature)
    budget = experts if budget is None else budget
    _check_k("budget", budget, experts)
    probs = _softmax(logits)
    noisy = logits.astype(probs.dtype)
    if key is not None:
        noisy = noisy + jax.random.gumbel(key, logits.shape, probs.dtype)
    gate = jax.nn.softmax(over_temperature(noisy, temperature), -1)
    threshold = jnp.asarray(threshold, gate.dtype)
    size = 1 if hard else budget
    value, ids = jax.lax.top_k(gate, size)
    kept = (value > threshold) | (jnp.arange(size) == 0)
    plain = jnp.take_along_axis(probs, ids, -1)
    if noise_free_weights is None:
        noise_free_weights = hard
    weights = jnp.where(kept, plain if noise_free_weights else value, 0.0)
    wanted = jnp.maximum((gate > threshold).sum(-1), 1)
    if renormalise and not hard:
        total = jnp.maximum(weights.sum(-1, keepdims=True), jnp.finfo(weights.dtype).tiny)
        cut = (wanted > kept.sum(-1))[:, None]
        weights = jnp.where(cut, weights / total, weights)
    routing = _routing(logits, probs, ids, weights, kept)
    if hard:
        return routing
    rows = jnp.arange(logits.shape[0])[:, None]
    all_weights = jnp.zeros_like(gate).at[rows, ids].set(weights)
    all_kept = jnp.zeros_like(gate).at[rows, ids].set(kept.astype(gate.dtype))
    balance = experts**2 * jnp.mean(mean(all_weights, 0) * mean(all_kept, 0))
    overflow = (wanted - kept.sum(-1)).sum().astype(jnp.int32)
    return dataclasses.replace(routing, balance=balance, overflow=overflow)


def temperature_at(
    step: Int[Array, ""] | int,
    *,
    start: Number = 2.0,
    end: Number = 0.3,
    decay_steps: int,
    kind: str = "exponential",
) -> Float[Array, ""]:
    """DTS's annealing from `start` to `end` in `decay_steps` steps, constant from there.

    Raises:
      ValueError: an unknown kind, temperatures that are not above 0, decay_steps below 1.
    """
    ok = (start > 0) & (start < jnp.inf) & (end > 0) & (end < jnp.inf) & (decay_steps >= 1)
    if not isinstance(ok, jax.core.Tracer) and not ok:
        raise ValueError(
            f"start, end, decay_steps are {start}, {end}, {decay_steps}, allowed: above 0, finite"
        )
    done = jnp.minimum(jnp.asarray(step, jnp.float32) / decay_steps, 1.0)
    if kind == "exponential":
        return start * (end / start) ** done
    if kind == "linear":
        return start + (end - start) * done
    raise ValueError(f"kind is {kind!r}, allowed: exponential, linear")


def _check_k(name: str, k: int, most: int) -> None:
    if not 1 <= k <= most:
        raise ValueError(f"{name} is {k}, allowed: 1 to {most}")


def _softmax(logits: Array) -> Array:
    return jax.nn.softmax(logits.astype(wide(logits)), -1)


def _routing(logits: Array, probs: Array, ids: Array, weights: Array, kept: Array) -> Routing:
    """With Switch's balance loss and the z-loss."""
    first, weights = probs.argmax(-1), weights.astype(logits.dtype)
    zero = jnp.zeros((), jnp.int32)
    return Routing(ids, weights, kept, balance_loss(probs, first), z_loss(logits), zero)
