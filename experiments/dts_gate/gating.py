"""Methods, the segments that each is trained in, and their gates."""

import dataclasses
import functools
from typing import Any

from jax import Array

from jaxgen.config import Config
from jaxgen.moe import gates
from jaxgen.moe.layer import MoEContext
from jaxgen.moe.loss_free import loss_free
from jaxgen.moe.remoe import relu

# Method -> its name in reports.
TITLES = {
    "dts": "DTS, raised thresholds",
    "dts_reference": "DTS, as its reference",
    "switch": "Switch",
    "switch_capacity": "Switch, with capacity",
    "gshard": "GShard top-2",
    "loss_free": "loss-free balance",
    "relu": "ReMoE",
    "hash": "hash",
    "dense": "dense",
}
METHODS = tuple(TITLES)
SOFT = ("dts", "dts_reference")


@dataclasses.dataclass(frozen=True)
class Segment:
    """Steps under one gate, which are one compilation.

    Attributes:
      end: the step after its last one.
      budget: experts that a token may have, of gates that have one.
      threshold: of DTS.
      hard: DTS with one expert.
      noise: DTS draws noise in training.
      balance: weight of the balance loss.
    """

    end: int
    budget: int = 1
    threshold: float = 0.0
    hard: bool = False
    noise: bool = True
    balance: float = 0.0


def segments(config: Config, method: str) -> list[Segment]:
    """A method's, clipped to the run's length; those of `dts` without the steps of the shared expert."""
    steps, experts = config.train.steps, config.model.experts
    weight = config.train.balance_weight
    if method == "dts":
        d, out = config.dts, []
        for end, budget in _ends(d.budgets, steps - d.shared_steps):
            # Shares above 1 / (k + 1) are k at most, so that nothing overflows.
            floor = 0.0 if budget == experts else 1.0 / (budget + 1)
            hard = budget == 1
            # Straight top-1 at the end: noise there would send tokens elsewhere than in evaluation.
            out.append(Segment(end, budget, max(d.threshold, floor), hard, not hard, weight))
        return out
    if method == "dts_reference":
        r, c = config.reference, config.dts.threshold
        soft = [
            Segment(end, budget, c, balance=r.balance_weight)
            for end, budget in _ends(r.caps, min(r.hard_at, steps))
        ]
        phases = [(r.noise_until or steps, True), (steps, False)]
        out, at = soft, soft[-1].end
        for end, noise in phases:
            if at < min(end, steps):
                at = min(end, steps)
                out.append(Segment(at, 1, c, True, noise, weight))
        return out
    if method == "relu":
        return [Segment(end, budget) for end, budget in _ends(config.relu.caps, steps)]
    return [Segment(steps, balance=0.0 if method == "loss_free" else weight)]


def _ends(budgets: Any, steps: int) -> list[tuple[int, int]]:
    """(first step, experts) pairs as (end, experts)."""
    ends = [*(start for start, _ in budgets[1:]), steps]
    pairs = zip(budgets, ends, strict=True)
    return [(min(end, steps), size) for (start, size), end in pairs if start < steps]


def make_context(
    config: Config,
    method: str,
    segment: Segment,
    tokens: Array,
    at: Array | int,
    extra: Any,
    *,
    training: bool = False,
    mesh: Any = None,
) -> MoEContext:
    """How a method routes at a step.

    Args:
      tokens: [B, T] that the model reads, for `hash`.
      extra: state of the training loss, with `bias` for `loss_free`.
      training: buffers are those of training, of a method that has some.
      mesh: spreads experts over its axis `expert`.
    """
    factor = None
    if method == "switch_capacity":
        factor = config.capacity.train if training else config.capacity.evaluation
    return MoEContext(
        _gate(config, method, segment, tokens, at),
        router_bias=extra["bias"] if method == "loss_free" else None,
        capacity_factor=factor,
        mesh=mesh,
        receive_capacity_factor=config.model.receive_capacity_factor,
    )


def _gate(config: Config, method: str, segment: Segment, tokens: Array, at: Array | int) -> Any:
    if method == "gshard":
        return gates.gshard
    if method == "hash":
        ids = tokens.reshape(-1)
        return lambda logits, key: gates.hash_gate(ids, config.model.experts)
    if method == "loss_free":
        return functools.partial(loss_free, score=config.loss_free.score)
    if method == "relu":
        return functools.partial(relu, target=config.relu.target, budget=segment.budget)
    if method not in SOFT:
        return lambda logits, key: gates.switch(logits)
    d, faithful = config.dts, method == "dts_reference"
    decay_steps = config.reference.decay_steps if faithful else d.decay_steps
    plain = config.reference.noise_free_weights if faithful else d.noise_free_weights or None
    gate = functools.partial(
        gates.dts,
        temperature=gates.temperature_at(
            at, start=d.start, end=d.end, decay_steps=decay_steps, kind=d.decay
        ),
        threshold=segment.threshold,
        budget=segment.budget,
        hard=segment.hard,
        noise_free_weights=plain,
        renormalise=faithful,
    )
    return lambda logits, key: gate(logits, key if segment.noise else None)
