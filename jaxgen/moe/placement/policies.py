"""Where experts lie as training goes on: FlexMoE and what it is compared with, one function each.

    capacity   one copy of each expert, buffers of fixed size, what does not fit is dropped (GShard)
    static     one copy of each expert, nothing is dropped
    shadowing  one copy, and the most popular experts on every device besides (He et al., 2022, FasterMoE)
    eplb       every so many steps a placement from nothing, for the load since the last one (DeepSeek)
    flexmoe    when the balance ratio is too high and a change pays off (Nie et al., 2023)
    symi       a placement from nothing every step, for the last counts: weights and optimiser state of all experts lie cut
               over all devices, and slots get fresh weights each step, whatever the placement (2025, arXiv 2504.19925)

All decide on counts of steps that are over. `replay` runs a policy over traffic, for the simulator.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from jaxgen.moe.placement import planner, simulator
from jaxgen.moe.placement.cost import Costs, Slots
from jaxgen.moe.placement.planner import Policy
from jaxgen.moe.placement.simulator import Device, Shape, Work
from jaxgen.moe.placement.traffic import Traffic

POLICIES = ("capacity", "static", "shadowing", "eplb", "flexmoe", "symi")
SPARE = ("shadowing", "eplb", "flexmoe", "symi")  # use slots beyond one an expert
SHARDED = ("symi",)  # slots are filled anew in each step: see `jaxgen.moe.expert_parallel`

Placements = Int[np.ndarray, "L G S"]


@dataclasses.dataclass(frozen=True)
class Rules:
    """Settings of all policies.

    Attributes:
      costs: what FlexMoE weighs a change by.
      policy: when FlexMoE changes.
      every: steps from one placement of EPLB to the next.
      split: of an expert's tokens over its replicas, of policies that have some (`jaxgen.moe.placement.split`).
    """

    costs: Costs
    policy: Policy = dataclasses.field(default_factory=Policy)
    every: int = 10
    split: str = "even"


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
    if name == "flexmoe":
        rows = [
            planner.next_placement(s, c, rules.costs, rules.policy)
            for s, c in zip(slots, history[-1], strict=True)
        ]
    elif name == "eplb" and step % rules.every == 0:
        recent = np.sum(np.stack(history[-rules.every :]), 0)
        rows = [planner.eplb(c + 1, *slots.shape[1:]) for c in recent]
    elif name == "symi":
        rows = [planner.eplb(c + 1, *slots.shape[1:]) for c in history[-1]]
    elif name == "shadowing":
        rows = [shadows(c, *slots.shape[1:]) for c in history[-1]]
    else:
        return slots
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
    if name == "capacity":
        return simulator.of_capacity(slots, tokens, shape, capacity_factor)
    if name == "shadowing":
        return simulator.of_shadows(slots, tokens, shape, device)
    if name in SHARDED:
        return simulator.of_sharded(slots, tokens, shape, split)
    found = simulator.of_placement(slots, tokens, shape, split)
    if before is None or np.array_equal(before, slots):
        return found
    return dataclasses.replace(found, moving=simulator.moving(before, slots, shape))


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
