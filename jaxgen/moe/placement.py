"""FlexMoE's placement of experts on devices and how it follows the load (Nie et al., SIGMOD 2023).

Each of G devices has S slots; slots[g, s] is the expert whose replica lies there, and every expert has at
least one. An expert's tokens are split evenly over its replicas. A placement changes by three primitives:

    expand(e, slot)     the slot becomes a replica of e, in place of what was there
    shrink(slot, e)     its reverse: the slot goes back to e
    migrate(a, b)       two slots change places

`plan` is the policy maker: it gives slots of experts with little load to those with the most, then moves
replicas between devices, first to level the load, then to bring replicas of one expert together, which
saves gradient synchronisation. It works on the host, on counts; see `jaxgen.moe.cost` for the step's time.
"""

import dataclasses

import numpy as np
from jaxtyping import Int

from jaxgen.moe import cost as cost_lib
from jaxgen.moe.cost import Costs, Slots

Slot = tuple[int, int]


def initial(experts: int, devices: int, slots: int) -> Slots:
    """Expert i of E in slots i, i + E, ... in the order of the devices.

    Raises:
      ValueError: fewer slots than experts.
    """
    if experts > devices * slots:
        raise ValueError(f"experts is {experts}, allowed: at most {devices * slots}, the slots")
    return (np.arange(devices * slots) % experts).reshape(devices, slots)


def check(slots: Slots, experts: int) -> None:
    """Raises ValueError for a placement with an unknown expert, or without one of them."""
    if slots.min() < 0 or slots.max() >= experts:
        raise ValueError(f"slots hold {slots.min()} to {slots.max()}, allowed: 0 to {experts - 1}")
    lost = np.flatnonzero(np.bincount(slots.ravel(), minlength=experts) == 0)
    if len(lost):
        raise ValueError(f"placement has no replica of expert {lost[0]}, allowed: at least one")


def expand(slots: Slots, expert: int, slot: Slot) -> Slots:
    """One replica more of `expert`, in `slot`.

    Raises:
      ValueError: the slot holds the last replica of another expert.
    """
    old = int(slots[slot])
    if old != expert and int((slots == old).sum()) == 1:
        raise ValueError(
            f"slot {slot} holds the last replica of expert {old}, allowed: another slot"
        )
    new = slots.copy()
    new[slot] = expert
    return new


def shrink(slots: Slots, slot: Slot, expert: int) -> Slots:
    """One replica less of what is in `slot`, which goes to `expert`; reverses `expand`."""
    return expand(slots, expert, slot)


def migrate(slots: Slots, a: Slot, b: Slot) -> Slots:
    """The replicas in two slots change places."""
    new = slots.copy()
    new[a], new[b] = slots[b], slots[a]
    return new


@dataclasses.dataclass(frozen=True)
class Policy:
    """When and how far to re-place.

    Attributes:
      threshold: plan once the balance ratio is above it; at least 1.
      horizon: steps over which the time of a re-placement must pay off.
      slack: by how much bringing replicas together may raise the largest load, as a share of it.
    """

    threshold: float = 1.05
    horizon: int = 100
    slack: float = 0.005

    def __post_init__(self) -> None:
        if self.threshold < 1 or self.horizon < 1 or self.slack < 0:
            raise ValueError(
                f"threshold, horizon, slack are {self.threshold}, {self.horizon}, {self.slack}, "
                "allowed: at least 1, at least 1, 0 or more"
            )


def schedule(
    slots: Slots, tokens: Int[np.ndarray, " E"], costs: Costs, policy: Policy | None = None
) -> Slots:
    """The placement for the next steps: a new one if it pays off, else the one there is."""
    policy = Policy() if policy is None else policy
    if cost_lib.balance_ratio(slots, tokens) <= policy.threshold:
        return slots
    new = plan(slots, tokens, slack=policy.slack)
    saved = costs.step(slots, tokens) - costs.step(new, tokens)
    return new if saved * policy.horizon > costs.moving(slots, new) else slots


def plan(slots: Slots, tokens: Int[np.ndarray, " E"], *, slack: float = 0.005) -> Slots:
    """A placement with more even load, reached from `slots` by the three primitives.

    Args:
      tokens: counts of each expert in the last step or steps.
      slack: see `Policy`.

    Raises:
      ValueError: as `check`.
    """
    check(slots, len(tokens))
    new = slots.copy()
    _resize(new, tokens)
    _level(new, tokens)
    _gather(new, tokens, slack)
    return new


def packed(tokens: Int[np.ndarray, " E"], devices: int, slots: int) -> Slots:
    """A placement from nothing, as DeepSeek's EPLB makes it: the baseline that moves everything.

    One replica more for the expert with most tokens a replica until all slots are used; then replicas,
    the heaviest first, each go to the least loaded device that has room.

    Raises:
      ValueError: fewer slots than experts.
    """
    replicas = _replicas(tokens, devices, slots)
    each = np.repeat(np.arange(len(tokens)), replicas)
    weight = (tokens / replicas)[each]
    out = np.zeros((devices, slots), int)
    loads, used = np.zeros(devices), np.zeros(devices, int)
    for i in np.argsort(-weight, kind="stable"):
        g = int(np.where(used < slots, loads, np.inf).argmin())
        out[g, used[g]] = each[i]
        loads[g] += weight[i]
        used[g] += 1
    return out


def bound(tokens: Int[np.ndarray, " E"], devices: int, slots: int) -> float:
    """No placement with evenly split experts has a lower balance ratio.

    The most loaded device has at least the mean, and at least one replica of the expert whose replicas are
    the heaviest; giving the next slot to that expert makes those as light as they can be.
    """
    heaviest = (tokens / _replicas(tokens, devices, slots)).max()
    return float(max(1.0, heaviest / (tokens.sum() / devices)))


def _replicas(tokens: Int[np.ndarray, " E"], devices: int, slots: int) -> Int[np.ndarray, " E"]:
    """How many slots each expert gets so that the heaviest replica is as light as can be."""
    check(initial(len(tokens), devices, slots), len(tokens))
    replicas = np.ones(len(tokens), int)
    for _ in range(devices * slots - len(tokens)):
        replicas[(tokens / replicas).argmax()] += 1
    return replicas


def _resize(slots: Slots, tokens: Int[np.ndarray, " E"]) -> None:
    """Expand and Shrink, in place: from the least to the most loaded slot while that lowers the latter."""
    replicas = np.bincount(slots.ravel(), minlength=len(tokens)).astype(float)
    load = tokens.astype(float)
    while True:
        each = load / replicas
        to = int(each.argmax())
        # What every replica of an expert would hold after it has lost one; its last one stays.
        left = np.where(replicas > 1, load / np.maximum(replicas - 1, 1), np.inf)
        source = int(left.argmin())
        if source == to or left[source] >= each[to]:
            return
        replicas[source] -= 1
        replicas[to] += 1
        # Of the slots that could be given up, one on the device with the least load.
        devices, places = np.nonzero(slots == source)
        free = int((load / replicas)[slots].sum(1)[devices].argmin())
        slots[devices[free], places[free]] = to


def _level(slots: Slots, tokens: Int[np.ndarray, " E"]) -> None:
    """Migrate, in place: swaps of the most loaded device with any other while its load falls."""
    weight = cost_lib.slot_loads(slots, tokens)
    loads = weight.sum(1)
    while True:
        g = int(loads.argmax())
        gain = weight[g][:, None, None] - weight[None]  # what leaves g, for each pair of slots
        worse = np.maximum(loads[g] - gain, loads[None, :, None] + gain)
        worse[:, g] = np.inf
        a, h, b = (int(i) for i in np.unravel_index(worse.argmin(), worse.shape))
        if worse[a, h, b] >= loads[g] * (1 - 1e-9):
            return
        loads[g], loads[h] = loads[g] - gain[a, h, b], loads[h] + gain[a, h, b]
        for grid in (slots, weight):
            grid[g, a], grid[h, b] = grid[h, b], grid[g, a]


def _gather(slots: Slots, tokens: Int[np.ndarray, " E"], slack: float) -> None:
    """Migrate, in place: swaps that leave an expert on fewer devices, within the slack of load."""
    weight = cost_lib.slot_loads(slots, tokens)
    loads = weight.sum(1)
    limit = loads.max() * (1 + slack)
    count = np.zeros((len(slots), len(tokens)), int)  # replicas of each expert on each device
    np.add.at(count, (np.arange(len(slots))[:, None], slots), 1)
    lonely = [(g, s) for g, s in zip(*np.nonzero(_alone(slots, count)), strict=True)]
    for g, s in lonely:
        e = slots[g, s]
        if count[g, e] != 1:
            continue
        others = np.flatnonzero(count[:, e])
        for h in others[others != g]:
            # Give e to h; g gets the slot of h whose expert has no second replica to part from.
            gain = weight[g, s] - weight[h]
            fits = (loads[g] - gain <= limit) & (loads[h] + gain <= limit) & (slots[h] != e)
            # How many more (fewer) device-expert pairs the swap leaves.
            x = slots[h]
            change = (count[g, x] == 0).astype(int) - (count[h, x] == 1) - 1
            change = np.where(fits, change, 1)
            b = int(change.argmin())
            if change[b] >= 0:
                continue
            y = x[b]
            count[g, e] -= 1
            count[h, e] += 1
            count[h, y] -= 1
            count[g, y] += 1
            loads[g], loads[h] = loads[g] - gain[b], loads[h] + gain[b]
            for grid in (slots, weight):
                grid[g, s], grid[h, b] = grid[h, b], grid[g, s]
            break


def _alone(slots: Slots, count: np.ndarray) -> np.ndarray:
    """Slots whose expert has replicas, but no second one on the same device."""
    devices = np.arange(len(slots))[:, None]
    spread = (count > 0).sum(0)
    return (count[devices, slots] == 1) & (spread[slots] > 1)
