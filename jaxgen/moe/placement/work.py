"""What a step of expert-parallel training asks of each device and its links, under each kind of placement.

Devices may be flat, all links alike, or in nodes with a faster network inside (`Device.node`). In nodes, rows stay
on their device where it has their expert, else in their node where that has it, as far as its share of
the expert goes; only the rest passes between nodes. Sums over replicas are hierarchical: over the r devices of a node that
hold an expert, then over the m nodes of what each of them has summed, 2 (m - 1) / (m r) of an expert a device.

`jaxgen.moe.placement.simulator` makes seconds of it.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from jaxgen.errors import require
from jaxgen.moe.placement import cost, laer
from jaxgen.moe.placement.cost import Costs, Slots


@dataclasses.dataclass(frozen=True)
class Device:
    """An accelerator and its share of the network, from public data sheets.

    Attributes:
      flops: peak of dense bfloat16 matrix products, a second.
      bandwidth: bytes a second of its link, in each direction; with nodes, of its link to other nodes.
      latency: seconds of a collective.
      utilisation: share of the peak that matrix products reach; an assumption.
      node: devices of a node; 0 where all links are alike.
      near: bytes a second to devices of its node, in each direction; 0 without nodes.
    """

    flops: float
    bandwidth: float
    latency: float = 10e-6
    utilisation: float = 0.4
    node: int = 0
    near: float = 0.0

    def __post_init__(self) -> None:
        both = (self.node > 0) == (self.near > 0) and self.node >= 0 and self.near >= 0
        require("node, near", both, (self.node, self.near), "both 0, or both above 0")


# Links: TPUs' inter-chip interconnect, half of the two-way figure; GPUs' network card between nodes (200
# and 400 Gbit/s), which exchanges over more than one node wait for. With nodes of 8, NVLink inside, half of
# the two-way figure; `laer`: what LAER-MoE's authors measured on theirs.
DEVICES = {
    "v5e": Device(197e12, 100e9),
    "v5p": Device(459e12, 300e9),
    "a100": Device(312e12, 25e9),
    "h100": Device(989e12, 50e9),
    "a100_nodes": Device(312e12, 25e9, node=8, near=300e9),
    "h100_nodes": Device(989e12, 50e9, node=8, near=450e9),
    "laer": Device(312e12, 89e9, node=8, near=216e9),
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of the model, and of a device's batch.

    Attributes:
      width: D.
      hidden: of an expert.
      tokens: of one device's part of the batch.
      k: experts a token.
      dense: FLOPs a token of what lies between two mixtures, forward.
      bytes: of one number in activations, weights and gradients.
      state: numbers that the optimiser keeps for each weight (in float32), the weight included.
    """

    width: int
    hidden: int
    tokens: int
    k: int = 1
    dense: float = 0.0
    bytes: int = 2
    state: int = 3

    @property
    def weights(self) -> int:
        """Numbers in one expert."""
        return 2 * self.width * self.hidden

    def costs(self, device: Device) -> Costs:
        """For the policy maker."""
        return Costs(
            seconds_per_token=6 * self.weights / (device.flops * device.utilisation),
            token_bytes=float(self.width * self.bytes),
            expert_bytes=float(self.weights * self.bytes),
            state_bytes=float(self.weights * 4 * self.state),
            bandwidth=device.bandwidth,
            latency=device.latency,
            node=device.node,
            near=device.near,
        )


@dataclasses.dataclass(frozen=True)
class Near:
    """What passes inside of nodes, besides what `Work` says of the links between them; fields as there."""

    moved: Float[np.ndarray, " G"]
    sync: Float[np.ndarray, " G"]
    fetched: Float[np.ndarray, " G"]
    moving: Float[np.ndarray, " G"] | None = None


@dataclasses.dataclass(frozen=True)
class Work:
    """What one layer asks of each of G devices in one step.

    Attributes:
      tokens: rows that its experts compute (padding included).
      moved: rows that come in over its link, and go back.
      sync: bytes of gradients that it sums with others.
      fetched: bytes of weights that it must receive before its experts start, and whose gradients it
        sends back (shadows).
      lost: pairs of token and expert that nobody computes, of all devices together.
      moving: bytes of weights and optimiser state that it receives before the step, for a new placement.
      near: the same inside of nodes, where there are some.
      twice: what is fetched comes once more for the backward pass.
    """

    tokens: Float[np.ndarray, " G"]
    moved: Float[np.ndarray, " G"]
    sync: Float[np.ndarray, " G"]
    fetched: Float[np.ndarray, " G"]
    lost: float = 0.0
    moving: Float[np.ndarray, " G"] | None = None
    near: Near | None = None
    twice: bool = False


def of_placement(
    slots: Slots, counts: Num[np.ndarray, " E"], shape: Shape, split: str = "even", node: int = 0
) -> Work:
    """Dropless, an expert's tokens split over its replicas, those of a device to its own first.

    Args:
      split: see `jaxgen.moe.placement.split`; or `nodes`, LAER's (`jaxgen.moe.placement.laer.node_first`).
      node: devices of a node; 0 where there are none.

    Raises:
      ValueError: nodes that do not divide the devices.
    """
    devices, experts = len(slots), len(counts)
    held = cost.replicas(slots, experts)
    if split == "nodes":
        share = laer.node_first(slots, counts, node or devices)
    else:
        share = np.zeros(held.shape)  # rows at each device
        loads = cost.slot_loads(slots, counts, split)
        np.add.at(share, (np.arange(devices)[:, None], slots), loads)
    foreign = share - np.minimum(share, counts / devices)
    size = float(shape.weights * shape.bytes)
    none = np.zeros(devices)
    if not node:
        return Work(share.sum(1), foreign.sum(1), cost.synced(held > 0) * size, none)
    check_node(node, devices)
    wanted = foreign.reshape(-1, node, experts)
    # What devices of a node have left of their own tokens goes to those of it that hold the expert.
    left = (counts / devices - (share - foreign)).reshape(wanted.shape).sum(1, keepdims=True)
    part = np.minimum(left / np.maximum(wanted.sum(1, keepdims=True), 1e-30), 1.0)
    near = (wanted * part).sum(2).ravel()
    inside, between = _synced(held > 0, node)
    return Work(
        share.sum(1),
        np.maximum(foreign.sum(1) - near, 0.0),
        between * size,
        none,
        near=Near(near, inside * size, none),
    )


def of_sharded(
    slots: Slots,
    counts: Num[np.ndarray, " E"],
    shape: Shape,
    split: str = "even",
    node: int = 0,
    *,
    twice: bool = False,
) -> Work:
    """Every slot's weights come in from shards on all devices in each step, and its gradient goes back to them.

    S W (N - 1) / N bytes a device each way for S slots of W bytes on N devices, whatever the placement; nothing
    else is summed or moved. Of each slot, N - n parts of N lie in other nodes of n.

    Args:
      twice: once more for the backward pass (LAER, where weights of two layers at most are held).
    """
    devices, per_device = slots.shape
    each = per_device * shape.weights * shape.bytes / devices  # of one device's shards
    work = of_placement(slots, counts, shape, split, node)
    far, near = np.zeros(devices), work.near
    if near is not None:
        near = Near(near.moved, far, np.full(devices, each * (min(node, devices) - 1)))
    fetched = np.full(devices, each * (devices - max(min(node, devices), 1)))
    return dataclasses.replace(work, sync=far, fetched=fetched, near=near, twice=twice)


def of_capacity(
    slots: Slots, counts: Int[np.ndarray, " E"], shape: Shape, factor: float, node: int = 0
) -> Work:
    """Static buffers of `factor` times an even share: full ones drop, and all are computed and sent."""
    devices = len(slots)
    even = of_placement(
        slots, np.full(len(counts), counts.sum() / len(counts)), shape, "even", node
    )
    room = factor * counts.sum() / len(counts)
    rows, inside = even.tokens * factor / devices, max(min(node, devices), 1)  # rows: of one device
    near = even.near and dataclasses.replace(even.near, moved=rows * (inside - 1))
    return dataclasses.replace(
        even,
        tokens=even.tokens * factor,
        moved=rows * (devices - inside),
        lost=float(np.maximum(counts - room, 0).sum()),
        near=near,
    )


def of_shadows(slots: Slots, counts: Int[np.ndarray, " E"], shape: Shape, device: Device) -> Work:
    """FasterMoE (He et al., 2022): the most popular experts are fetched by all devices in every step.

    One more, as long as the step is modelled to become shorter; their tokens stay where they are. Each node
    fetches them once, in equal parts on its devices, which pass them on inside.
    """
    devices, costs, node = len(slots), shape.costs(device), device.node
    base = of_placement(slots, counts, shape, "even", node)
    best, shadows = _seconds(base, costs), base
    left = counts.astype(float)
    for n, e in enumerate(np.argsort(-counts), 1):
        left = left.copy()
        left[e] = 0
        rest = of_placement(slots, left, shape, "even", node)
        own = (counts.sum() - left.sum()) / devices
        part = np.full(devices, n * shape.weights * shape.bytes / max(node, 1))
        near = rest.near and dataclasses.replace(rest.near, fetched=part * (node - 1))
        if node >= devices:  # which lie in no other node
            part = np.zeros(devices)
        work = dataclasses.replace(rest, tokens=rest.tokens + own, fetched=part, near=near)
        if _seconds(work, costs) >= best:
            break
        best, shadows = _seconds(work, costs), work
    return shadows


def moving(old: Slots, new: Slots, shape: Shape) -> Float[np.ndarray, " G"]:
    """Bytes that each device receives for a new placement: experts it does not hold already."""
    experts = int(max(old.max(), new.max())) + 1
    fresh = cost.holds(new, experts) & ~cost.holds(old, experts)
    return fresh.sum(1) * float(shape.weights * 4 * shape.state)


def moved_near(old: Slots, new: Slots, shape: Shape, node: int) -> Float[np.ndarray, " G"]:
    """What of `moving` comes from devices of the same node, which held the expert before."""
    experts = int(max(old.max(), new.max())) + 1
    before = cost.holds(old, experts)
    there = before.reshape(-1, node, experts).any(1).repeat(node, 0)
    fresh = cost.holds(new, experts) & ~before & there
    return fresh.sum(1) * float(shape.weights * 4 * shape.state)


def with_moving(work: Work, old: Slots, new: Slots, shape: Shape, node: int = 0) -> Work:
    """The same after a re-placement."""
    if np.array_equal(old, new):
        return work
    size = moving(old, new, shape)
    if work.near is None:
        return dataclasses.replace(work, moving=size)
    inside = moved_near(old, new, shape, node)
    near = dataclasses.replace(work.near, moving=inside)
    return dataclasses.replace(work, moving=size - inside, near=near)


def check_node(node: int, devices: int) -> None:
    """Raises ConfigError for nodes that do not divide the devices."""
    require("node", node > 0 and devices % node == 0, node, f"a divisor of {devices}, the devices")


def _seconds(work: Work, costs: Costs) -> float:
    def link(w: Work | Near, bandwidth: float) -> float:
        rows = 4 * w.moved.max() * costs.token_bytes
        return float(rows + 2 * w.fetched.max() + w.sync.max()) / bandwidth

    seconds = link(work, costs.bandwidth)
    if work.near is not None:
        seconds = max(seconds, link(work.near, costs.near))
    return float(work.tokens.max() * costs.seconds_per_token + seconds)


def _synced(
    there: Bool[np.ndarray, "G E"], node: int
) -> tuple[Float[np.ndarray, " G"], Float[np.ndarray, " G"]]:
    """Experts' gradients that each device sends in a hierarchical sum, inside of its node and between nodes."""
    here = there.reshape(-1, node, there.shape[1]).sum(1)  # devices of each node
    r = np.maximum(here, 1)
    m = np.maximum((here > 0).sum(0), 1)
    inside, between = 2.0 * (r - 1) / r, 2.0 * (m - 1) / (m * r)
    return (there * inside.repeat(node, 0)).sum(1), (there * between.repeat(node, 0)).sum(1)
