"""A discrete-event simulation of expert-parallel training steps on many devices.

Each device has two resources, its compute and its link, that work on one task at a time, in the order in
which tasks become ready. A layer is, forward, attention and other dense work, the exchange to experts, the
experts, the exchange back; backward the same in reverse with twice the compute. An exchange begins when
all devices are ready and ends on each after its own bytes. Gradients of replicas are summed on the links
while the backward pass goes on; the step ends when all is done.

What a policy (`Work`) makes of recorded or invented router traffic is all that differs between policies.
"""

import dataclasses
import heapq
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Num

from jaxgen.moe.placement import cost
from jaxgen.moe.placement.cost import Costs, Slots


@dataclasses.dataclass(frozen=True)
class Device:
    """An accelerator and its share of the network, from public data sheets.

    Attributes:
      flops: peak of dense bfloat16 matrix products, a second.
      bandwidth: bytes a second of its link, in each direction.
      latency: seconds of a collective.
      utilisation: share of the peak that matrix products reach; an assumption.
    """

    flops: float
    bandwidth: float
    latency: float = 10e-6
    utilisation: float = 0.4


# Links: TPUs' inter-chip interconnect, half of the two-way figure; GPUs' network card between nodes (200
# and 400 Gbit/s), which exchanges over more than one node wait for.
DEVICES = {
    "v5e": Device(197e12, 100e9),
    "v5p": Device(459e12, 300e9),
    "a100": Device(312e12, 25e9),
    "h100": Device(989e12, 50e9),
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
        )


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
    """

    tokens: Float[np.ndarray, " G"]
    moved: Float[np.ndarray, " G"]
    sync: Float[np.ndarray, " G"]
    fetched: Float[np.ndarray, " G"]
    lost: float = 0.0
    moving: Float[np.ndarray, " G"] | None = None


def of_placement(
    slots: Slots, counts: Num[np.ndarray, " E"], shape: Shape, split: str = "even"
) -> Work:
    """Dropless, an expert's tokens split over its replicas, those of a device to its own first.

    Args:
      split: see `jaxgen.moe.placement.split`.
    """
    devices = len(slots)
    held = cost.replicas(slots, len(counts))
    share = np.zeros(held.shape)  # rows at each device
    np.add.at(share, (np.arange(devices)[:, None], slots), cost.slot_loads(slots, counts, split))
    return Work(
        tokens=share.sum(1),
        moved=share.sum(1) - np.minimum(share, counts / devices).sum(1),
        sync=cost.synced(held > 0) * shape.weights * shape.bytes,
        fetched=np.zeros(devices),
    )


def of_sharded(
    slots: Slots, counts: Num[np.ndarray, " E"], shape: Shape, split: str = "even"
) -> Work:
    """Every slot's weights come in from shards on all devices in each step, and its gradient goes back to them.

    S W (N - 1) / N bytes a device each way for S slots of W bytes on N devices, whatever the placement; nothing
    else is summed or moved.
    """
    devices, per_device = slots.shape
    each = per_device * shape.weights * shape.bytes * (devices - 1) / devices
    work = of_placement(slots, counts, shape, split)
    return dataclasses.replace(work, sync=np.zeros(devices), fetched=np.full(devices, each))


def of_capacity(slots: Slots, counts: Int[np.ndarray, " E"], shape: Shape, factor: float) -> Work:
    """Static buffers of `factor` times an even share: full ones drop, and all are computed and sent."""
    devices = len(slots)
    work = of_placement(slots, np.full(len(counts), counts.sum() / len(counts)), shape)
    room = factor * counts.sum() / len(counts)
    return dataclasses.replace(
        work,
        tokens=work.tokens * factor,
        moved=work.tokens * factor * (devices - 1) / devices,
        lost=float(np.maximum(counts - room, 0).sum()),
    )


def of_shadows(slots: Slots, counts: Int[np.ndarray, " E"], shape: Shape, device: Device) -> Work:
    """FasterMoE (He et al., 2022): the most popular experts are fetched by all devices in every step.

    One more, as long as the step is modelled to become shorter; their tokens stay where they are.
    """
    devices, costs = len(slots), shape.costs(device)
    base = of_placement(slots, counts, shape)
    best, shadows = _seconds(base, costs), base
    left = counts.astype(float)
    for n, e in enumerate(np.argsort(-counts), 1):
        left = left.copy()
        left[e] = 0
        rest = of_placement(slots, left, shape)
        own = (counts.sum() - left.sum()) / devices
        fetched = np.full(devices, n * shape.weights * shape.bytes * 1.0)
        work = dataclasses.replace(rest, tokens=rest.tokens + own, fetched=fetched)
        if _seconds(work, costs) >= best:
            break
        best, shadows = _seconds(work, costs), work
    return shadows


def _seconds(work: Work, costs: Costs) -> float:
    link = 4 * work.moved.max() * costs.token_bytes + 2 * work.fetched.max() + work.sync.max()
    return float(work.tokens.max() * costs.seconds_per_token + link / costs.bandwidth)


@dataclasses.dataclass
class _Task:
    """One device's piece of work; `waits` counts what must end first."""

    resource: int
    seconds: float
    waits: int = 0
    then: list[int] = dataclasses.field(default_factory=list)


class Timeline:
    """Tasks, what each waits for, and the events that follow."""

    def __init__(self, resources: int):
        self._tasks: list[_Task] = []
        self._resources = resources

    def add(self, resource: int, seconds: float, after: Sequence[int] = ()) -> int:
        """A task; returns its number. Resource -1 is none: it ends when all it waits for has ended."""
        if resource >= self._resources or seconds < 0:
            raise ValueError(
                f"resource, seconds are {resource}, {seconds}, allowed: below {self._resources}, 0 or more"
            )
        number = len(self._tasks)
        self._tasks.append(_Task(resource, seconds, len(after)))
        for other in after:
            self._tasks[other].then.append(number)
        return number

    def run(self) -> float:
        """Seconds until the last task has ended; each resource serves in the order of readiness.

        Raises:
          ValueError: tasks that wait for each other.
        """
        free = [0.0] * self._resources
        events = [(0.0, n) for n, task in enumerate(self._tasks) if not task.waits]
        heapq.heapify(events)
        ready: dict[int, float] = {}
        waits, last, done = [t.waits for t in self._tasks], 0.0, 0
        running: set[int] = set()
        while events:
            now, n = heapq.heappop(events)
            task = self._tasks[n]
            if n not in running and task.resource >= 0:  # ready: queue behind what is there
                begin = max(now, free[task.resource])
                free[task.resource] = begin + task.seconds
                running.add(n)
                heapq.heappush(events, (begin + task.seconds, n))
                continue
            last, done = max(last, now), done + 1
            for other in task.then:
                ready[other] = max(ready.get(other, 0.0), now)
                waits[other] -= 1
                if not waits[other]:
                    heapq.heappush(events, (ready[other], other))
        if done < len(self._tasks):
            raise ValueError(f"{len(self._tasks) - done} tasks wait for each other, allowed: none")
        return last


def step_seconds(layers: Sequence[Work], shape: Shape, device: Device) -> float:
    """Seconds of one training step: forward and backward through all layers, and gradient sums."""
    devices = len(layers[0].tokens)
    line = Timeline(2 * devices)
    speed, per_token = device.flops * device.utilisation, shape.width * shape.bytes
    everyone = range(devices)

    def compute(after: Sequence[int], flops: Float[np.ndarray, " G"]) -> list[int]:
        return [line.add(g, float(flops[g]) / speed, [after[g]]) for g in everyone]

    def link(after: Sequence[int], size: Float[np.ndarray, " G"]) -> list[int]:
        if devices == 1:
            return list(after)
        wait = device.latency
        return [
            line.add(devices + g, float(size[g]) / device.bandwidth + wait, [after[g]])
            for g in everyone
        ]

    def exchange(after: Sequence[int], rows: Float[np.ndarray, " G"]) -> list[int]:
        if devices == 1:
            return list(after)
        together = line.add(-1, 0.0, after)
        return link([together] * devices, rows * per_token)

    def both(a: Sequence[int], b: Sequence[int]) -> list[int]:
        return [line.add(-1, 0.0, [x, y]) for x, y in zip(a, b, strict=True)]

    dense = np.full(devices, shape.tokens * shape.dense)
    start = line.add(-1, 0.0)
    state: list[int] = [start] * devices
    arrived = []
    for work in layers:
        gets = work.fetched + (0.0 if work.moving is None else work.moving)
        arrived.append(link([start] * devices, gets) if gets.any() else [start] * devices)
    for work, weights in zip(layers, arrived, strict=True):
        state = compute(state, dense)
        state = exchange(state, work.moved)
        state = compute(both(state, weights), work.tokens * 2 * shape.weights)
        state = exchange(state, work.moved)
    for work in reversed(layers):
        state = exchange(state, work.moved)
        state = compute(state, work.tokens * 4 * shape.weights)
        if (work.sync + work.fetched).any():
            link(state, work.sync + work.fetched)
        state = exchange(state, work.moved)
        state = compute(state, 2 * dense)
    return line.run()


def ideal(counts: Int[np.ndarray, "L E"], devices: int, shape: Shape, device: Device) -> float:
    """A lower bound: every device has the mean load, and nothing is exchanged."""
    tokens = counts.sum() / devices
    flops = 3 * len(counts) * shape.tokens * shape.dense + 6 * tokens * shape.weights
    return float(flops / (device.flops * device.utilisation))


def moving(old: Slots, new: Slots, shape: Shape) -> Float[np.ndarray, " G"]:
    """Bytes that each device receives for a new placement: experts it does not hold already."""
    experts = int(max(old.max(), new.max())) + 1
    fresh = cost.holds(new, experts) & ~cost.holds(old, experts)
    return fresh.sum(1) * float(shape.weights * 4 * shape.state)
