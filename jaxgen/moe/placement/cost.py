"""What a step of expert-parallel training takes, for planning and simulation (Nie et al., 2023, section 3.3).

    compute   max_g tokens_g * seconds_per_token
    exchange  4 (G - 1) / G * max_g tokens_g * token_bytes / bandwidth + 4 latency
              (tokens come from all devices alike; to the experts and back, forward and backward)
    sync      max_g of the experts on g that lie on r > 1 devices: 2 (r - 1) / r * expert_bytes / bandwidth
    moving    slots of a device that change * (weights and optimiser state) / bandwidth, once

All in seconds; G devices, each with its own full-duplex link.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Num

from jaxgen.moe.placement.split import scheduled

Slots = Int[np.ndarray, "G S"]


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of one device and its link.

    Attributes:
      seconds_per_token: of an expert's forward and backward pass.
      token_bytes: of one token's activations.
      expert_bytes: of one expert's gradients.
      state_bytes: of one expert's weights and optimiser state, what a re-placement moves.
      bandwidth: bytes a second, in each direction.
      latency: seconds, of one collective.
      node: devices of a node; 0 where all links are alike.
      near: bytes a second between devices of a node; 0 without nodes.

    Of the last two, the times below know nothing: FlexMoE's planner takes all links for the slower ones.
    """

    seconds_per_token: float
    token_bytes: float
    expert_bytes: float
    state_bytes: float
    bandwidth: float
    latency: float = 0.0
    node: int = 0
    near: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, may_be_0 = getattr(self, field.name), field.name in ("latency", "node", "near")
            if value < 0 or (value == 0 and not may_be_0):
                least = "0 or more" if may_be_0 else "above 0"
                raise ValueError(f"{field.name} is {value}, allowed: {least}")

    def step(self, slots: Slots, tokens: Int[np.ndarray, " E"]) -> float:
        """Seconds of one step under a placement."""
        return sum(self.parts(slots, tokens).values())

    def parts(self, slots: Slots, tokens: Int[np.ndarray, " E"]) -> dict[str, float]:
        """Seconds of compute, exchange and sync."""
        devices = len(slots)
        most = float(device_loads(slots, tokens).max())
        exchange = 0.0
        if devices > 1:
            moved = (devices - 1) / devices * most * self.token_bytes
            exchange = 4.0 * (moved / self.bandwidth + self.latency)
        return {
            "compute": most * self.seconds_per_token,
            "exchange": exchange,
            "sync": self._sync(slots, len(tokens)),
        }

    def moving(self, old: Slots, new: Slots) -> float:
        """Seconds of a re-placement."""
        changed = int((old != new).sum(1).max())
        return changed * self.state_bytes / self.bandwidth + (self.latency if changed else 0.0)

    def _sync(self, slots: Slots, experts: int) -> float:
        most = float(synced(holds(slots, experts)).max())
        return most * self.expert_bytes / self.bandwidth + (self.latency if most else 0.0)


def replicas(slots: Slots, experts: int) -> Int[np.ndarray, "G E"]:
    """How many replicas of each expert a device has."""
    out = np.zeros((len(slots), experts), int)
    np.add.at(out, (np.arange(len(slots))[:, None], slots), 1)
    return out


def holds(slots: Slots, experts: int) -> Bool[np.ndarray, "G E"]:
    """Whether a device has a replica of an expert."""
    return replicas(slots, experts) > 0


def synced(there: Bool[np.ndarray, "G E"]) -> Float[np.ndarray, " G"]:
    """Experts' gradients that each device sends to sum them over replicas, by a ring.

    Args:
      there: see `holds`.
    """
    spread = there.sum(0)  # devices of each expert
    share = np.where(spread > 1, 2.0 * (spread - 1) / np.maximum(spread, 1), 0.0)
    return (there * share).sum(1)


def slot_loads(
    slots: Slots, tokens: Num[np.ndarray, " E"], split: str = "even"
) -> Float[np.ndarray, "G S"]:
    """Tokens of each slot, by a split of an expert's over its replicas (`jaxgen.moe.placement.split`)."""
    if split == "even":
        replicas = np.bincount(slots.ravel(), minlength=len(tokens))
        return (tokens / np.maximum(replicas, 1))[slots]
    shares = _scheduled(jnp.asarray(slots).ravel(), jnp.asarray(tokens), devices=len(slots))
    return np.asarray(shares, np.float64).reshape(slots.shape) * tokens[slots]


_scheduled = jax.jit(scheduled, static_argnames="devices")


def device_loads(
    slots: Slots, tokens: Num[np.ndarray, " E"], split: str = "even"
) -> Float[np.ndarray, " G"]:
    """Tokens of each device."""
    return slot_loads(slots, tokens, split).sum(1)


def balance_ratio(slots: Slots, tokens: Num[np.ndarray, " E"], split: str = "even") -> float:
    """max_g load_g / mean_g load_g; 1 is perfect."""
    loads = device_loads(slots, tokens, split)
    return float(loads.max() / max(loads.mean(), 1e-30))
