"""LAER's planner: how many replicas each expert gets, and where they lie (2026, arXiv 2602.11686).

Experts' weights are cut over all devices and dealt out anew for each layer (FSEP), so that a placement costs
nothing and is made from nothing, for the last counts:

    replicas   from one a node, where the slots suffice, else one: always the expert with most tokens a replica gets the
               next, one a node at a time once every node has one (a heap); or as many for each expert
    places     replicas by their tokens, the heaviest first, each to the nodes with fewest of its expert, there to
               the device with least load that has room
    choice     of the two, the one with the smaller 4 sum_i comm_i + max_i comp_i (forward and backward): tokens go to
               replicas of their own node, evenly, or where it has none to all, evenly

Counts are of all devices together, and each is taken to send as many to an expert as any other.
"""

import heapq

import numpy as np
from jaxtyping import Float, Int, Num

from jaxgen.errors import require
from jaxgen.moe.placement import cost
from jaxgen.moe.placement.cost import Costs, Slots


def place(
    tokens: Num[np.ndarray, " E"],
    devices: int,
    slots: int,
    costs: Costs,
    *,
    as_published: bool = True,
) -> Slots:
    """The cheaper of placements with replicas by load and with equally many.

    Args:
      tokens: of each expert, of steps that are over.
      slots: of a device.
      costs: with its nodes and two bandwidths, or flat.
      as_published: or else, where slots suffice for a replica of each expert in each node, replicas by load alone
        are a third choice, and communication counts once, as devices send at the same time. As published, where that takes
        all slots, all experts have equally many replicas however uneven their loads are.

    Raises:
      ValueError: fewer slots than experts, or nodes that do not divide the devices.
    """
    node, total = costs.node or devices, devices * slots
    require("experts", len(tokens) <= total, len(tokens), f"at most {total}, the slots")
    require("node", devices % node == 0, node, f"a divisor of {devices}, the devices")
    nodes = devices // node
    choices = [replicas(tokens, total, nodes)]
    if total % len(tokens) == 0:
        choices.append(np.full(len(tokens), total // len(tokens)))
    more = not as_published and len(tokens) * nodes <= total
    if more:
        choices.append(replicas(tokens, total, 1))
    placed = [spread(many, tokens, devices, slots, node) for many in choices]
    return min(placed, key=lambda p: score(p, tokens, costs, at_once=more))


def replicas(tokens: Num[np.ndarray, " E"], total: int, nodes: int) -> Int[np.ndarray, " E"]:
    """How many of `total` slots each expert gets, by a heap on tokens a replica."""
    experts = len(tokens)
    first = nodes if nodes * experts <= total else 1
    out = np.full(experts, first)
    left = total - first * experts
    heap = [(-float(n) / first, e) for e, n in enumerate(tokens)]
    heapq.heapify(heap)
    while left and heap:
        _, e = heapq.heappop(heap)
        more = nodes if out[e] >= nodes else 1
        if more > left:  # stays as it is; others may still take one
            continue
        out[e] += more
        left -= more
        heapq.heappush(heap, (-float(tokens[e]) / out[e], e))
    # Fewer are left than nodes, and every expert is in all of them.
    for _ in range(left):
        out[(tokens / out).argmax()] += 1
    return out


def spread(
    many: Int[np.ndarray, " E"],
    tokens: Num[np.ndarray, " E"],
    devices: int,
    slots: int,
    node: int,
) -> Slots:
    """Where so many replicas of each expert lie: over nodes first, then where the load is least."""
    each = np.repeat(np.arange(len(tokens)), many)
    weight = (tokens / many)[each]
    out = np.zeros((devices, slots), int)
    loads, used = np.zeros(devices), np.zeros(devices, int)
    held = np.zeros((len(tokens), devices // node), int)
    for i in np.argsort(-weight, kind="stable"):
        e = each[i]
        room = np.where(used < slots, loads, np.inf).reshape(-1, node)
        fewest = held[e] == held[e].min()
        rows = np.flatnonzero(fewest)
        best = room[rows].argmin()
        g = int(rows[best // node] * node + best % node)
        if used[g] == slots:  # no room in those
            g = int(room.argmin())
        out[g, used[g]] = e
        loads[g] += weight[i]
        used[g] += 1
        held[e, g // node] += 1
    return out


def node_first(slots: Slots, tokens: Num[np.ndarray, " E"], node: int) -> Float[np.ndarray, "G E"]:
    """Rows of each expert at each device, if tokens stay in their node where it has their expert.

    Evenly over replicas there; those of other nodes evenly over all replicas.
    """
    count = cost.replicas(slots, len(tokens)).astype(float)
    inside = count.reshape(-1, node, len(tokens)).sum(1)
    own = 1.0 / np.maximum(inside, 1).repeat(node, 0)
    rest = (inside == 0).sum(0) / np.maximum(count.sum(0), 1)
    return count * (own + rest) * tokens / len(inside)


def score(
    slots: Slots,
    tokens: Num[np.ndarray, " E"],
    costs: Costs,
    *,
    recompute: bool = False,
    at_once: bool = False,
) -> float:
    """LAER's measure of a placement: 4 sum_i comm_i + 3 max_i comp_i, in seconds (sums over devices, as published).

    A device of a node with the expert sends (n - 1) / n of its tokens within its node of n, on average; one
    of a node without sends all to others.

    Args:
      recompute: the forward pass is done again in the backward pass: 4 max_i comp_i.
      at_once: the mean of comm_i in place of their sum.
    """
    devices, node = len(slots), costs.node or len(slots)
    there = cost.holds(slots, len(tokens)).reshape(-1, node, len(tokens)).any(1).sum(0)
    each = tokens / devices
    near = float((each * (node - 1) * there).sum())
    far = float((each * node * (devices // node - there)).sum())
    comm = costs.token_bytes * (near / (costs.near or costs.bandwidth) + far / costs.bandwidth)
    comm /= devices if at_once else 1
    comp = node_first(slots, tokens, node).sum(1).max() * costs.seconds_per_token
    return float(4.0 * comm + (4.0 / 3.0 if recompute else 1.0) * comp)
