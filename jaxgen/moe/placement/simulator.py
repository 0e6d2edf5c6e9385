"""What expert-parallel training steps take on many devices, task by task.

Each device has two resources, its compute and its link, in nodes a third, its link inside of the node, and each
works on one task at a time, in the order in which a program issues them. A layer is, forward, attention and other
dense work, the exchange to experts, the experts, the exchange back; backward the same in reverse with twice the
compute. An exchange begins when all devices are ready and ends on each after its own bytes. Weights that come (for a new
placement, shadows, from sharded masters) come while the layer before has its experts compute. Gradients of replicas are summed on the links while the backward pass goes on; the step ends when all is done.

With `pieces` above 1, rows pass in so many parts, and experts compute one while the next is on the link; sums of
gradients then wait until a layer's exchanges are over, and pass under the dense work of the backward pass.

What a policy (`jaxgen.moe.placement.work`) makes of recorded or invented router traffic is all that differs
between policies. All devices' clocks are arrays; tests compare them to the same, one event at a time.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from jaxgen.errors import require
from jaxgen.moe.placement.work import (
    DEVICES,
    Device,
    Near,
    Shape,
    Work,
    check_node,
    moving,
    of_capacity,
    of_placement,
    of_shadows,
    of_sharded,
)

__all__ = [
    "DEVICES",
    "Clocks",
    "Device",
    "Near",
    "Shape",
    "Work",
    "ideal",
    "moving",
    "of_capacity",
    "of_placement",
    "of_shadows",
    "of_sharded",
    "step_seconds",
]

Times = Float[np.ndarray, " G"]


class Clocks:
    """When each device's resources are free again, in seconds."""

    def __init__(self, devices: int, device: Device):
        self.devices, self.device = devices, device
        self.free = {name: np.zeros(devices) for name in ("compute", "far", "near")}

    def serve(self, name: str, ready: Times, seconds: Times) -> Times:
        """When a task of each device ends, which begins when it is ready and the resource is free."""
        self.free[name] = np.maximum(self.free[name], ready) + seconds
        return self.free[name]

    def compute(self, ready: Times, flops: Times) -> Times:
        """When so many FLOPs of each device end."""
        return self.serve("compute", ready, flops / (self.device.flops * self.device.utilisation))

    def link(self, ready: Times, far: Times, near: Times | None) -> Times:
        """When bytes have come in from other nodes and, beside that, from devices of the own one."""
        d, ends = self.device, ready
        if self.devices == 1:
            return ready
        if near is None or far.any():
            ends = self.serve("far", ready, far / d.bandwidth + d.latency)
        if near is not None and near.any():
            ends = np.maximum(ends, self.serve("near", ready, near / d.near + d.latency))
        return ends

    def last(self) -> float:
        """When all is done."""
        return float(max(clock.max() for clock in self.free.values()))


def step_seconds(layers: Sequence[Work], shape: Shape, device: Device, *, pieces: int = 1) -> float:
    """Seconds of one training step: forward and backward through all layers, and gradient sums.

    Args:
      pieces: that an exchange is cut into, see above.

    Raises:
      ValueError: pieces below 1, or nodes that do not divide the devices.
    """
    require("pieces", pieces >= 1, pieces, "at least 1")
    devices = len(layers[0].tokens)
    if device.node:
        check_node(device.node, devices)
    clocks, row = Clocks(devices, device), shape.width * shape.bytes / pieces

    def exchange(ready: Times, work: Work) -> Times:
        together = np.full(devices, ready.max())
        near = None if work.near is None else work.near.moved * row
        return clocks.link(together if devices > 1 else ready, work.moved * row, near)

    def fetch(ready: Times, work: Work) -> Times:
        far, near = _sum(work.fetched, work.moving), None
        if work.near is not None:
            near = _sum(work.near.fetched, work.near.moving)
        some = far.any() or (near is not None and near.any())
        return clocks.link(ready, far, near) if some else ready

    def mixture(
        state: Times, work: Work, there: Times, flops: float, after: Work | None
    ) -> tuple[list[Times], Times | None]:
        """When each piece is computed, and when the weights of the layer `after` have come meanwhile."""
        arrived = [exchange(state, work) for _ in range(pieces)]
        fetched = None if after is None else fetch(arrived[-1], after)
        share = work.tokens * flops * shape.weights / pieces
        return [clocks.compute(np.maximum(at, there), share) for at in arrived], fetched

    dense, start = np.full(devices, shape.tokens * shape.dense), np.zeros(devices)
    state, weights = start, fetch(start, layers[0])
    for work, after in zip(layers, [*layers[1:], None], strict=True):
        state = clocks.compute(state, dense)
        # The last layer's weights come once more, for the backward pass, where others' do.
        then = work if after is None and work.twice else after
        done, got = mixture(state, work, weights, 2.0, then)
        weights = start if got is None else got
        for at in done:
            state = exchange(at, work)
    for work, before in zip(reversed(layers), [*reversed(layers[:-1]), None], strict=True):
        again = before if before is not None and before.twice else None
        done, got = mixture(state, work, weights, 4.0, again)
        weights = start if got is None else got
        if pieces == 1:
            _sums(clocks, done[-1], work)
        for at in done:
            state = exchange(at, work)
        if pieces > 1:
            _sums(clocks, done[-1], work)
        state = clocks.compute(state, 2 * dense)
    return clocks.last()


def _sums(clocks: Clocks, ready: Times, work: Work) -> None:
    """Gradients go to be summed with others'."""
    near = None if work.near is None else work.near.sync + work.near.fetched
    far = work.sync + work.fetched
    if far.any() or (near is not None and near.any()):
        clocks.link(ready, far, near)


def _sum(a: Times, b: Times | None) -> Times:
    return a if b is None else a + b


def ideal(counts: Int[np.ndarray, "L E"], devices: int, shape: Shape, device: Device) -> float:
    """A lower bound: every device has the mean load, and nothing is exchanged."""
    tokens = counts.sum() / devices
    flops = 3 * len(counts) * shape.tokens * shape.dense + 6 * tokens * shape.weights
    return float(flops / (device.flops * device.utilisation))
