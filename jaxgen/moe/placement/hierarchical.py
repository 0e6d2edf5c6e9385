"""EPLB as DeepSeek published it: groups of experts to nodes, replicas within nodes, replicas to devices.

    1  where nodes divide the groups: groups, the heaviest first, each to the least loaded node, equally many to each
    2  within each node: the next replica always to the expert with most tokens a replica
    3  within each node: replicas, the heaviest first, each to the least loaded device, equally many to each

Where nodes do not divide the groups, all devices are one node and all experts one group, as in
`jaxgen.moe.placement.planner.eplb`. Source: github.com/deepseek-ai/EPLB.
"""

import numpy as np
from jaxtyping import Float, Int, Num

from jaxgen.errors import require
from jaxgen.moe.placement import planner
from jaxgen.moe.placement.cost import Slots


def place(
    tokens: Num[np.ndarray, " E"], devices: int, slots: int, *, groups: int, nodes: int
) -> Slots:
    """The experts in each device's slots.

    Args:
      tokens: of each expert; a moving average, where it should be one, is taken before.
      slots: of a device.
      groups: of equally many experts, each kept in one node.
      nodes: of equally many devices.

    Raises:
      ValueError: fewer slots than experts, groups that do not divide the experts, or nodes the devices.
    """
    if nodes < 1 or groups % nodes:
        groups = nodes = 1
    experts, total = len(tokens), devices * slots
    require("experts", experts <= total, experts, f"at most {total}, the slots")
    require("groups", experts % groups == 0, groups, f"a divisor of {experts}, the experts")
    require("nodes", devices % nodes == 0, nodes, f"a divisor of {devices}, the devices")
    members = np.arange(experts).reshape(groups, -1)
    rows = []
    for own in _packed(tokens[members].sum(1).astype(float), nodes):
        here = members[own].ravel()
        load = tokens[here].astype(float)
        each = planner.replicated(load, total // nodes)
        rows.append(here[each[_packed((load / np.bincount(each))[each], devices // nodes)]])
    return np.concatenate(rows)


def _packed(weights: Float[np.ndarray, " n"], packs: int) -> Int[np.ndarray, "packs _"]:
    """`planner.packed`; one item a pack stays where it is, as published."""
    if len(weights) == packs:
        return np.arange(packs)[:, None]
    return planner.packed(weights, packs)
