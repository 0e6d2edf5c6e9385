"""Experts that follow the load while training goes on: FlexMoE, or any other policy, in any train loop.

    place = AdaptivePlacement("flexmoe", slots=4, costs=costs)
    extra = place.init_extra(experts, layers)               # goes into the train state
    ...
    state, metrics = train_step(state, batch)
    state = place(step, state)                              # after every step

The train state is a dataclass and pytree whose `extra` is a dict with two entries:

    placement   [L, devices * slots], which expert each slot of each MoE layer holds. The loss routes by it:
                `MoEContext(gate, mesh, extra["placement"])`.
    counts      [L, E], tokens that each expert was asked to take in the last step. The loss returns
                `AdaptivePlacement.with_counts(extra, stats)` as its new `extra`.

Everything in the state that has the name of an expert's weights (moments and moving averages too) moves
with them; see `jaxgen.moe.placement.migrate`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from jaxgen.errors import require
from jaxgen.moe.expert_parallel import AXIS
from jaxgen.moe.layer import RouterStats
from jaxgen.moe.placement import migrate, planner, policies, traffic
from jaxgen.moe.placement.cost import Costs
from jaxgen.moe.placement.planner import Policy
from jaxgen.moe.placement.policies import Placements, Rules


@runtime_checkable
class State(Protocol):
    """A train state, such as `jaxgen.train.state.TrainState`: a dataclass that is a pytree."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field]]

    @property
    def extra(self) -> Mapping[str, Array]:
        """With `placement` and `counts`."""
        ...


S = TypeVar("S", bound=State)

_WINDOW = 100  # steps that a moving average looks back, at most


class AdaptivePlacement:
    """Watches counts, places experts, moves weights; an `adapt` of `jaxgen.train.loop.fit`.

    It decides on the counts of the step before the last one dispatched, which are there already: the
    device is not waited for.
    """

    def __init__(
        self,
        name: str,
        *,
        slots: int,
        costs: Costs,
        devices: int | Mesh | None = None,
        policy: Policy | None = None,
        every: int = 10,
        tokens: int | None = None,
        average: float = 0.0,
    ):
        """Args:
        name: of a policy in `policies.POLICIES`.
        slots: places for experts on each device. Policies that keep one copy of each expert (those not in
          `policies.SPARE`) have as many as that takes, whatever is given.
        costs: what FlexMoE weighs a change by, and LAER a placement.
        devices: that experts are spread over, or a mesh with an axis `expert`; all of this program by
          default.
        policy: when FlexMoE changes; `Policy()` by default.
        every: steps from one placement of EPLB to the next.
        tokens: pairs of token and expert in a layer and step that costs are weighed for, where the
          training run stands for a larger one; by default as many as there are.
        average: see `jaxgen.moe.placement.policies.Rules`.

        Raises:
          ValueError: a policy that does not exist, numbers below 1, or nodes that do not divide the devices.
        """
        require("name", name in policies.POLICIES, name, ", ".join(policies.POLICIES))
        if devices is None:
            devices = jax.device_count()
        self.devices = devices.shape[AXIS] if isinstance(devices, Mesh) else devices
        for what, value in (("slots", slots), ("devices", self.devices), ("every", every)):
            require(what, value >= 1, value, "at least 1")
        nodes = not costs.node or self.devices % costs.node == 0
        require("costs.node", nodes, costs.node, f"0, or a divisor of {self.devices}, the devices")
        self.name, self.slots, self.tokens = name, slots, tokens
        policy = Policy() if policy is None else policy
        self.rules = Rules(costs, policy, every, average=average)
        self._counts: list[Int[np.ndarray, "L E"]] = []
        self._placements: list[Placements] = []
        self._now: Placements | None = None
        self._last: Array | None = None  # counts that are on their way to the host
        self._move: Callable[[PyTree, Array], PyTree] | None = None

    def slots_of(self, experts: int) -> int:
        """Slots on all devices together: `expert_slots` of the model."""
        return self._initial(experts).size

    def init_extra(self, experts: int, layers: int) -> dict[str, Int[Array, "..."]]:
        """`extra` of a fresh state.

        Args:
          experts: E, of each layer.
          layers: L, those with experts.

        Raises:
          ValueError: experts that the slots cannot hold.
        """
        begin = self._initial(experts).ravel()
        return {
            "placement": jnp.asarray(np.tile(begin, (layers, 1)), jnp.int32),
            "counts": jnp.zeros((layers, experts), jnp.int32),
        }

    @staticmethod
    def with_counts(extra: Mapping[str, Array], stats: RouterStats) -> dict[str, Array]:
        """`extra` after a step whose layers routed as `stats` [L] say; pure, for the loss."""
        return {**extra, "counts": stats.counts.astype(jnp.int32)}

    def __call__(self, step: int, state: S) -> S:
        """The state with experts where the policy wants them; what it was given is used up if they move.

        Args:
          step: how many updates were made.
        """
        now = self._placed(state) if self._now is None else self._now
        self._now = now
        # A copy, since the next step takes over the state's buffers.
        seen, self._last = self._last, jnp.copy(state.extra["counts"])
        if seen is None:
            return state
        self._counts.append(np.asarray(seen))
        self._placements.append(now)
        if self.name not in policies.SPARE:
            return state
        recent = np.stack(self._counts[-max(self.rules.every, _WINDOW) :])
        if self.tokens is not None:
            recent = traffic.scaled(recent, self.tokens)
        new = policies.following(self.name, step, now, list(recent), self.rules)
        return state if np.array_equal(new, now) else self._apply(state, now, new)

    def history(self) -> dict[str, np.ndarray]:
        """`counts` [steps - 1, L, E] and `placements` [steps - 1, L, G, S], for checkpoints and replay."""
        return {
            name: np.stack(rows) if rows else np.zeros((0,), np.int32)
            for name, rows in (("counts", self._counts), ("placements", self._placements))
        }

    def resume(self, state: State, history: Mapping[str, np.ndarray]) -> None:
        """Goes on from a checkpoint's state and the `history` of that time."""
        self._now = self._placed(state)
        self._last = jnp.copy(state.extra["counts"])
        self._counts, self._placements = list(history["counts"]), list(history["placements"])

    def _initial(self, experts: int) -> Int[np.ndarray, "G S"]:
        slots = self.slots if self.name in policies.SPARE else -(-experts // self.devices)
        return planner.initial(experts, self.devices, slots)

    def _placed(self, state: State) -> Placements:
        """The state's placement by device.

        Raises:
          ValueError: slots that do not divide over the devices.
        """
        placed = np.asarray(state.extra["placement"])
        total = placed.shape[1]
        require("slots", total % self.devices == 0, total, f"a multiple of {self.devices} devices")
        return placed.reshape(len(placed), self.devices, -1)

    def _apply(self, state: S, old: Placements, new: Placements) -> S:
        self._now = new
        if self.name not in policies.SHARDED:  # whose weights lie in no slots
            if self._move is None:
                self._move = migrate.make_move(jax.tree.map(lambda a: a.sharding, state))
            state = self._move(state, jnp.asarray(migrate.sources(old, new)))
        placed = jax.device_put(
            new.reshape(len(new), -1).astype(np.int32), state.extra["placement"].sharding
        )
        return dataclasses.replace(state, extra={**state.extra, "placement": placed})
