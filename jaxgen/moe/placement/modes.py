"""Which is cheaper: copies of experts that move between slots, or masters cut over all devices that fill them?

Seconds of a device's links in a layer and step, N devices in nodes of n, S slots, W bytes of an expert's weights and as many
of its gradient, O of its weights and optimiser state, q slots of a device that change in a step:

    moving     max_g sync_g + q O                       over the links between nodes (inside: sync alone)
    sharded    (1 + passes) S W (N - n) / N             over the links between nodes
               (1 + passes) S W (n - 1) / N             inside

where sync_g is what a device sends to sum the gradients of its replicas (`jaxgen.moe.placement.work`), and `passes`
is 1 (Symi) or 2 (LAER: restored again for the backward pass). Links between and inside nodes work at the same time:
the slower decides. Weights come while devices compute: so many seconds of each step are hidden.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxgen.errors import require
from jaxgen.moe.placement.cost import Slots
from jaxgen.moe.placement.work import Device, Shape, of_placement, of_sharded


def link_seconds(
    slots: Slots,
    experts: int,
    shape: Shape,
    device: Device,
    *,
    changed: float,
    hidden: float = 0.0,
    passes: int = 1,
) -> dict[str, float]:
    """Of `moving` and `sharded`, seconds a layer and step that do not pass under computation.

    Args:
      slots: a placement of the kind that is to be had.
      changed: slots of a device that change in a step, on average: q above.
      hidden: seconds of computation before experts need their weights.
      passes: that weights are dealt out for.

    Raises:
      ValueError: changed or hidden below 0, passes other than 1 and 2, nodes that do not divide the devices.
    """
    require("changed", changed >= 0, changed, "0 or more")
    require("hidden", hidden >= 0, hidden, "0 or more")
    sums, move, given = _parts(slots, experts, shape, device, passes)
    before = max(changed * move - hidden, 0.0)
    deal = max(given - hidden, 0.0)
    return {"moving": sums + before, "sharded": given + passes * deal}


def cheaper(
    slots: Slots,
    experts: int,
    shape: Shape,
    device: Device,
    *,
    changed: float,
    hidden: float = 0.0,
    passes: int = 1,
) -> str:
    """`moving` or `sharded`; see `link_seconds`."""
    found = link_seconds(
        slots, experts, shape, device, changed=changed, hidden=hidden, passes=passes
    )
    return min(found, key=lambda mode: found[mode])


def break_even(
    slots: Slots, experts: int, shape: Shape, device: Device, *, passes: int = 1
) -> float:
    """Slots of a device that change in a step from which sharded masters are cheaper, if nothing is hidden.

    0 or less: they are cheaper whatever moves, since replicas' sums alone take longer.
    """
    sums, move, given = _parts(slots, experts, shape, device, passes)
    return ((1 + passes) * given - sums) / move if move else math.inf


def changes(placements: Sequence[Slots]) -> float:
    """Slots of the device with most of them that hold another expert than the step before, on average."""
    pairs = itertools.pairwise(placements)
    return float(np.mean([(old != new).sum(1).max() for old, new in pairs]))


def _parts(
    slots: Slots, experts: int, shape: Shape, device: Device, passes: int
) -> tuple[float, float, float]:
    """Seconds to sum replicas' gradients, to move one slot, and to deal out all weights once."""
    require("passes", passes in (1, 2), passes, "1 or 2")
    counts = np.zeros(experts, int)
    kept = of_placement(slots, counts, shape, "even", device.node)
    cut = of_sharded(slots, counts, shape, "even", device.node)
    sums = _slower(kept.sync, kept.near.sync if kept.near else None, device)
    given = _slower(cut.fetched, cut.near.fetched if cut.near else None, device)
    # Over the slower links where there are some: who held the expert before is not known.
    move = shape.weights * 4 * shape.state / device.bandwidth if len(slots) > 1 else 0.0
    return sums, move, given


def _slower(
    far: Float[np.ndarray, " G"], near: Float[np.ndarray, " G"] | None, device: Device
) -> float:
    seconds = far / device.bandwidth
    if near is not None:
        seconds = np.maximum(seconds, near / device.near)
    return float(seconds.max())
