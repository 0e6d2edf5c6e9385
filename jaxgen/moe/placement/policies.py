"""Where experts lie as training goes on: FlexMoE and what it is compared with, one function each.

    capacity   one copy of each expert, buffers of fixed size, what does not fit is dropped (GShard)
    static     one copy of each expert, nothing is dropped
    shadowing  one copy, and the most popular experts on every device besides (He et al., 2022, FasterMoE)
    eplb       every so many steps a placement from nothing, for the load since the last one (DeepSeek)
    eplb_nodes the same, hierarchical: groups of experts in one node each (`jaxgen.moe.placement.hierarchical`)
    flexmoe    when the balance ratio is too high and a change pays off (Nie et al., 2023)
    symi       a placement from nothing every step, for the last counts: weights and optimiser state of all experts lie cut
               over all devices, and slots get fresh weights each step, whatever the placement (2025, arXiv 2504.19925)
    laer       the same layer by layer, forward and again backward, placed by `jaxgen.moe.placement.laer` (2026, arXiv
               2602.11686)
    sharded    dealt out once as symi does, weights are kept for the backward pass; placed as by laer, or without a
               replica in each node where slots are few and loads uneven (`as_published=False` there)

All decide on counts of steps that are over, or on a moving average of them. `replay` runs a policy over traffic, for the simulator.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from jaxgen.errors import require
from jaxgen.moe.placement import hierarchical, laer, planner
from jaxgen.moe.placement import traffic as traffic_lib
from jaxgen.moe.placement import work as work_lib
from jaxgen.moe.placement.cost import Costs, Slots
from jaxgen.moe.placement.planner import Policy
from jaxgen.moe.placement.traffic import Traffic
from jaxgen.moe.placement.work import Device, Shape, Work

POLICIES = (
    "capacity",
    "static",
    "shadowing",
    "eplb",
    "eplb_nodes",
    "flexmoe",
    "symi",
    "laer",
    "sharded",
)
SPARE = POLICIES[2:]  # use slots beyond one an expert
PERIODIC = ("eplb", "eplb_nodes")  # every so many steps
SHARDED = (
    "symi",
    "laer",
    "sharded",
)  # slots are filled anew in each step: see `jaxgen.moe.expert_parallel`

Placements = Int[np.ndarray, "L G S"]


@dataclasses.dataclass(frozen=True)
class Rules:
    """Settings of all policies.

    Attributes:
      costs: what FlexMoE weighs a change by, and LAER a placement; their nodes are EPLB's too.
      policy: when FlexMoE changes.
      every: steps from one placement of EPLB to the next.
      split: of an expert's tokens over its replicas, of policies that have some (`jaxgen.moe.placement.split`).
      average: what each step keeps of the moving average of counts before it, which all policies decide
        on; at 0 the last step's counts, of EPLB the sum since its last placement.
      groups: of experts that hierarchical EPLB keeps in one node each, as many as divide the experts; where
        nodes do not divide them it takes all devices for one node.

    Raises:
      ValueError: an average below 0, or of 1 and more.
    """

    costs: Costs
    policy: Policy = dataclasses.field(default_factory=Policy)
    every: int = 10
    split: str = "even"
    average: float = 0.0
    groups: int = 8

    def __post_init__(self) -> None:
        require("average", 0 <= self.average < 1, self.average, "0 or more, below 1")


def following(
    name: str,
    step: int,
    slots: Placements,
    history: Sequence[Int[np.ndarray, "L E"]],
    rules: Rules,
) -> Placements:
    """The placements after this step.

    Args:
      history: counts of the steps that are over, the newest last.
    """
    if name not in SPARE or (name in PERIODIC and step % rules.every):
        return slots
    devices, per_device = slots.shape[1:]
    if rules.average:
        recent = traffic_lib.moving_average(np.stack(history), rules.average)
    elif name in PERIODIC:
        recent = np.sum(np.stack(history[-rules.every :]), 0)
    else:
        recent = history[-1]
    rows = []
    for here, tokens in zip(slots, recent, strict=True):
        if name == "flexmoe":
            rows.append(planner.next_placement(here, tokens, rules.costs, rules.policy))
        elif name == "shadowing":
            rows.append(shadows(tokens, devices, per_device))
        elif name in ("laer", "sharded"):
            published = name == "laer"
            costs = rules.costs
            rows.append(laer.place(tokens + 1, devices, per_device, costs, as_published=published))
        elif name == "eplb_nodes":
            nodes = devices // (rules.costs.node or devices)
            groups = math.gcd(rules.groups, len(tokens))
            rows.append(
                hierarchical.place(tokens + 1, devices, per_device, groups=groups, nodes=nodes)
            )
        else:
            rows.append(planner.eplb(tokens + 1, devices, per_device))
    return np.stack(rows)


def shadows(tokens: Int[np.ndarray, " E"], devices: int, slots: int) -> Slots:
    """Every device keeps its own experts, and in its spare slots has the most popular ones of all.

    Raises:
      ValueError: experts that do not divide over the devices, or fill more than the slots.
    """
    experts = len(tokens)
    if experts % devices or experts > devices * slots:
        raise ValueError(
            f"experts is {experts}, allowed: a multiple of {devices}, at most {devices * slots}"
        )
    home = np.arange(experts).reshape(devices, -1)
    spare = slots - home.shape[1]
    popular = np.resize(np.argsort(-tokens, kind="stable")[:spare], spare)
    return np.concatenate([home, np.tile(popular, (devices, 1))], 1)


def work(
    name: str,
    slots: Slots,
    tokens: Int[np.ndarray, " E"],
    shape: Shape,
    device: Device,
    *,
    capacity_factor: float = 1.25,
    before: Slots | None = None,
    split: str = "even",
) -> Work:
    """What one layer of one step asks of the devices, under a policy's placement.

    Args:
      before: the placement of the step before; what differs has to be moved.
    """
    node = device.node
    if name == "capacity":
        return work_lib.of_capacity(slots, tokens, shape, capacity_factor, node)
    if name == "shadowing":
        return work_lib.of_shadows(slots, tokens, shape, device)
    if name in SHARDED:
        return work_lib.of_sharded(slots, tokens, shape, split, node, twice=name == "laer")
    found = work_lib.of_placement(slots, tokens, shape, split, node)
    return found if before is None else work_lib.with_moving(found, before, slots, shape, node)


def replay(
    name: str,
    traffic: Traffic,
    devices: int,
    slots: int,
    shape: Shape,
    device: Device,
    rules: Rules,
    *,
    capacity_factor: float = 1.25,
) -> tuple[list[list[Work]], list[Placements]]:
    """Each step's work and placements [L, G, S]; those of step t are decided on counts up to t - 2.

    Policies with one copy of each expert (shadowing too: FasterMoE needs no slots, it fetches) have no more
    slots than that takes.

    Raises:
      ValueError: a policy that does not exist.
    """
    if name not in POLICIES:
        raise ValueError(f"policy is {name!r}, allowed: {', '.join(POLICIES)}")
    experts = traffic.shape[2]
    if name not in SPARE or name == "shadowing":
        slots = -(-experts // devices)
    own = "static" if name == "shadowing" else name
    now = np.stack([planner.initial(experts, devices, slots)] * traffic.shape[1])
    steps, places, before = [], [], now
    for t, counts in enumerate(traffic):
        steps.append(
            [
                work(
                    name,
                    here,
                    row,
                    shape,
                    device,
                    capacity_factor=capacity_factor,
                    before=old,
                    split=rules.split,
                )
                for here, old, row in zip(now, before, counts, strict=True)
            ]
        )
        places.append(now)
        before = now
        if t:
            now = following(own, t + 1, now, list(traffic[:t]), rules)
    return steps, places
