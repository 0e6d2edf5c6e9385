"""FlexMoE's placement of experts on devices and how it follows the load (Nie et al., SIGMOD 2023).

Each of G devices has S slots; slots[g, s] is the expert whose replica lies there, and every expert has at
least one. An expert's tokens are split evenly over its replicas. A placement changes by three primitives:

    expand(e, slot)     the slot becomes a replica of e, in place of what was there
    shrink(slot, e)     its reverse: the slot goes back to e
    migrate(a, b)       two slots change places

`plan` is the policy maker: it gives slots of experts with little load to those with the most, then moves
replicas between devices, first to level the load, then to bring replicas of one expert together, which
saves gradient synchronisation. It works on the host, on counts; see `jaxgen.moe.placement.cost` for the step's time.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int, Num

from jaxgen.moe.placement import cost as cost_lib
from jaxgen.moe.placement.cost import Costs, Slots

Slot = tuple[int, int]

# What `plan` does where replicas as light as can be do not make devices even: at most so many rounds, until
# the balance ratio is so low.
_ROUNDS, _EVEN = 8, 1.01


def initial(experts: int, devices: int, slots: int) -> Slots:
    """Expert i of E in slots i, i + E, ... in the order of the devices.

    Raises:
      ValueError: fewer slots than experts.
    """
    check_slots(devices * slots, experts, devices)
    return (np.arange(devices * slots) % experts).reshape(devices, slots)


def check_slots(slots: int, experts: int, devices: int) -> None:
    """Raises ValueError for fewer slots than experts, or slots that do not divide over devices."""
    if slots < experts:
        raise ValueError(f"experts is {experts}, allowed: at most {slots}, the slots")
    if slots % devices:
        raise ValueError(f"slots is {slots}, allowed: a multiple of {devices}, the devices")


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
      horizon: steps over which the time of a re-placement must pay off: about as long as the load that
        it is made for lasts. A long one moves experts after every fluctuation.
      slack: by how much bringing replicas together may raise the largest load, as a share of it.
    """

    threshold: float = 1.05
    horizon: int = 3
    slack: float = 0.005

    def __post_init__(self) -> None:
        if self.threshold < 1 or self.horizon < 1 or self.slack < 0:
            raise ValueError(
                f"threshold, horizon, slack are {self.threshold}, {self.horizon}, {self.slack}, "
                "allowed: at least 1, at least 1, 0 or more"
            )


def next_placement(
    slots: Slots, tokens: Int[np.ndarray, " E"], costs: Costs, policy: Policy | None = None
) -> Slots:
    """The placement for the next steps: of the placements on the way to `plan`'s, and the one there is, the
    one with the least time of `horizon` steps and of the change.

    The first primitives relieve the most loaded experts, so a few of them are often worth more than all.
    """
    policy = Policy() if policy is None else policy
    if cost_lib.balance_ratio(slots, tokens) <= policy.threshold:
        return slots
    way = path(slots, tokens, slack=policy.slack)
    # So many primitives: 1, 2, 4, ... and all.
    some = [way[2**i - 1] for i in range(len(way).bit_length()) if 2**i <= len(way)]

    def seconds(new: Slots) -> float:
        return policy.horizon * costs.step(new, tokens) + costs.moving(slots, new)

    return min([slots, *some, *way[-1:]], key=seconds)


def plan(slots: Slots, tokens: Int[np.ndarray, " E"], *, slack: float = 0.005) -> Slots:
    """A placement with more even load, reached from `slots` by the three primitives.

    Args:
      tokens: counts of each expert in the last step or steps.
      slack: see `Policy`.

    Raises:
      ValueError: as `check`.
    """
    return [slots, *path(slots, tokens, slack=slack)][-1].copy()


def path(slots: Slots, tokens: Int[np.ndarray, " E"], *, slack: float = 0.005) -> list[Slots]:
    """The placements after each primitive on the way to `plan`'s, that one last; empty if none helps."""
    check(slots, len(tokens))
    new = slots.copy()
    way: list[Slots] = []

    def follow(changes: Iterator[None]) -> None:
        way.extend(new.copy() for _ in changes)

    follow(_resize(new, tokens))
    follow(_level(new, tokens))
    for _ in range(_ROUNDS):
        ratio = cost_lib.balance_ratio(new, tokens)
        if ratio <= _EVEN:
            break
        kept, length = new.copy(), len(way)
        follow(_even_out(new, tokens))
        follow(_level(new, tokens))
        if cost_lib.balance_ratio(new, tokens) >= ratio:
            new[:] = kept
            del way[length:]
            break
    if cost_lib.balance_ratio(new, tokens) > cost_lib.balance_ratio(slots, tokens):
        new[:] = slots
        way.clear()
    follow(_gather(new, tokens, slack))
    return way


def eplb(tokens: Int[np.ndarray, " E"], devices: int, slots: int) -> Slots:
    """A placement from nothing, as DeepSeek's EPLB makes it: the baseline that moves everything.

    One replica more for the expert with most tokens a replica until all slots are used; then replicas,
    the heaviest first, each go to the least loaded device that has room.

    Raises:
      ValueError: fewer slots than experts.
    """
    replicas = _replicas(tokens, devices, slots)
    each = np.repeat(np.arange(len(tokens)), replicas)
    return each[packed((tokens / replicas)[each], devices)]


def packed(weights: Float[np.ndarray, " n"], packs: int) -> Int[np.ndarray, "packs _"]:
    """The items of each pack, equally many: the heaviest first, each to the lightest pack with room."""
    size = len(weights) // packs
    out = np.zeros((packs, size), int)
    load, used = np.zeros(packs), np.zeros(packs, int)
    for i in np.argsort(-weights, kind="stable"):
        p = int(np.where(used < size, load, np.inf).argmin())
        out[p, used[p]] = i
        load[p] += weights[i]
        used[p] += 1
    return out


def replicated(tokens: Num[np.ndarray, " E"], total: int) -> Int[np.ndarray, " total"]:
    """The expert of each replica: one of each, then always the one with most tokens a replica."""
    count, each = np.ones(len(tokens), int), list(range(len(tokens)))
    while len(each) < total:
        e = int((tokens / count).argmax())
        count[e] += 1
        each.append(e)
    return np.array(each)


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
    return np.bincount(replicated(tokens, devices * slots))


def _resize(slots: Slots, tokens: Int[np.ndarray, " E"]) -> Iterator[None]:
    """Expand and Shrink, in place, one at a time: from the least to the most loaded slot, while it falls."""
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
        yield


def _level(slots: Slots, tokens: Int[np.ndarray, " E"]) -> Iterator[None]:
    """Migrate, in place, one at a time: swaps of the most loaded device with any other while its load falls."""
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
        yield


def _even_out(slots: Slots, tokens: Int[np.ndarray, " E"]) -> Iterator[None]:
    """Expand and Shrink, in place, one at a time: whatever most lowers the sum of squared loads.

    Devices with slots of unpopular experts need heavier replicas in the others than devices without. An
    expert of the most loaded device gets a replica in place of any other expert's, whose others get heavier.
    """
    experts, per_device = len(tokens), slots.shape[1]
    load = tokens.astype(float)
    count = cost_lib.replicas(slots, experts).astype(float)
    device = np.repeat(np.arange(len(slots)), per_device)
    for _ in range(slots.size):
        replicas = count.sum(0)
        weight = load / replicas
        loads = count @ weight
        x = slots.ravel()
        y = np.unique(slots[loads.argmax()])[:, None]
        more = (load / np.maximum(replicas - 1, 1) - weight)[x]
        less = (weight - load / (replicas + 1))[y]
        inner, squares = count.T @ loads, count.T @ count
        change = 2 * (more * inner[x] - less * inner[y])
        change += (
            more**2 * squares[x, x] + less**2 * squares[y, y] - 2 * more * less * squares[x, y]
        )
        here = weight[y] - less - weight[x] - more  # what the slot itself gains
        at = loads[device] + more * count[device, x] - less * count[device, y]
        change += here * (2 * at + here)
        change = np.where((x == y) | (replicas[x] == 1), np.inf, change)
        i, s = np.unravel_index(int(change.argmin()), change.shape)
        if not change[i, s] < -1e-9 * (loads @ loads):
            return
        g, old, new = device[s], x[s], y[i, 0]
        count[g, old] -= 1
        count[g, new] += 1
        slots[g, s % per_device] = new
        yield


def _gather(slots: Slots, tokens: Int[np.ndarray, " E"], slack: float) -> Iterator[None]:
    """Migrate, in place, one at a time: swaps that leave an expert on fewer devices, within the slack of load."""
    sizes = cost_lib.slot_loads(slots, tokens)
    limit = sizes.sum(1).max() * (1 + slack)
    counts = cost_lib.replicas(slots, len(tokens))
    lonely = np.argwhere(_alone(slots, counts)).tolist()
    # Lists: what follows looks at a few numbers at a time, where numpy's calls take longest.
    grid, weight, count = slots.tolist(), sizes.tolist(), counts.tolist()
    loads = sizes.sum(1).tolist()
    for g, s in lonely:
        e = grid[g][s]
        if count[g][e] != 1:
            continue
        # Give e to a device h that has it; g gets the slot of h after which fewest devices hold either.
        best, where = 0, None
        for h, row in enumerate(count):
            if h == g or not row[e]:
                continue
            for b, x in enumerate(grid[h]):
                gain = weight[g][s] - weight[h][b]
                if x == e or loads[g] - gain > limit or loads[h] + gain > limit:
                    continue
                change = (count[g][x] == 0) - (row[x] == 1) - 1
                if change < best:
                    best, where = change, (h, b, x, gain)
            if where is not None:
                break
        if where is None:
            continue
        h, b, x, gain = where
        count[g][e] -= 1
        count[h][e] += 1
        count[h][x] -= 1
        count[g][x] += 1
        loads[g], loads[h] = loads[g] - gain, loads[h] + gain
        for table in (grid, weight):
            table[g][s], table[h][b] = table[h][b], table[g][s]
        slots[g, s], slots[h, b] = x, e
        yield


def _alone(slots: Slots, count: np.ndarray) -> np.ndarray:
    """Slots whose expert has replicas, but no second one on the same device."""
    devices = np.arange(len(slots))[:, None]
    spread = (count > 0).sum(0)
    return (count[devices, slots] == 1) & (spread[slots] > 1)
