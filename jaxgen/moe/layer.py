"""A mixture of feed-forward experts as a layer: router, gate, dispatch, experts.

How a call routes (the gate, whose temperature and noise change from step to step; the mesh and the
placement of experts on it) is a `MoEContext`, an argument; the layer holds weights alone.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.moe import dispatch, expert_parallel, gates
from jaxgen.moe.gates import Routing
from jaxgen.moe.grouped import grouped_matmul
from jaxgen.moe.placement.planner import check_slots
from jaxgen.numerics import finite_padding, wide

# (router logits [N, E], key or None) -> Routing
Gate = Callable[[Float[Array, "N E"], Key[Array, ""] | None], Routing]


@dataclasses.dataclass(frozen=True)
class MoEContext:
    """How the MoE layers of one call work.

    Attributes:
      gate: by default Switch's.
      mesh: experts are spread over its axis `expert`; None for all on one device.
      placement: [L, slots], which expert each slot of each MoE layer holds; needs a mesh. By default
        expert i is in slot i.
      receive_capacity_factor: see `expert_parallel.expert_parallel`, as split. Whether weights lie in slots or are
        cut over the devices is the layer's, `MoE(sharded=)`.
      grouped: how rows of several experts are multiplied where nothing is dropped, one of
        `grouped.IMPLEMENTATIONS`; None for the platform's default.
      router_bias: [L, E], of a gate that chooses by its own bias (`loss_free`): each layer's row is handed to the
        gate as `bias`.
      capacity_factor: of the experts' buffers in this call, where it is not the layer's own; 0 for dropless.
    """

    gate: Gate = lambda logits, key: gates.switch(logits)
    mesh: Mesh | None = None
    placement: Int[Array, "L slots"] | None = None
    receive_capacity_factor: float = 0.0
    split: str = "even"
    grouped: str | None = None
    router_bias: Float[Array, "L E"] | None = None
    capacity_factor: float | None = None

    def rows(
        self, layers: int, slots: int, experts: int
    ) -> tuple[Int[Array, "L slots"] | None, Float[Array, "L E"] | None]:
        """`placement` and `router_bias`, which must have a row for each of so many layers.

        Raises:
          ValueError: another number of rows, of slots or of experts.
        """
        for name, size in (("placement", slots), ("router_bias", experts)):
            value, want = getattr(self, name), (layers, size)
            if value is not None and value.shape != want:
                raise ValueError(f"{name} has shape {value.shape}, allowed: {want}")
        return self.placement, self.router_bias


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RouterStats:
    """What a layer's routing came to; with a leading axis for several layers.

    Attributes:
      counts: tokens that each expert was asked to take.
      balance: auxiliary loss, as z.
      z: auxiliary loss on the size of the logits.
      overflow: choices that a gate's budget did not allow.
      dropped: choices that found no room, in buffers or on a device.
      weight_sum: of a token's kept experts, its mean over tokens.
    """

    counts: Int[Array, "*L E"]
    balance: Float[Array, "*L"]
    z: Float[Array, "*L"]
    overflow: Int[Array, "*L"]
    dropped: Int[Array, "*L"]
    weight_sum: Float[Array, "*L"]


class Experts(nnx.Module):
    """E feed-forward networks, their weights side by side, one in each slot.

    Each is down(act(up(x))), or down(act(gate(x)) * up(x)) (Shazeer, 2020).
    """

    def __init__(
        self,
        experts: int,
        width: int,
        hidden: int,
        *,
        slots: int = 0,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        std: tuple[float, float] | None = None,
        gated: bool = False,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Args:
        slots: slot s begins with expert s modulo E in it; E by default.
        std: of the fresh weights of up and down; by default 1 / sqrt(their input size).
        dtype: of the computation; by default that of the input.
        """
        self.activation, self.dtype = activation, dtype
        place = np.arange(slots or experts) % experts
        up, down = std or (width**-0.5, hidden**-0.5)
        draw = jax.random.normal
        f32 = jnp.float32
        self.up = nnx.Param(up * draw(rngs.params(), (experts, width, hidden), f32)[place])
        self.down = nnx.Param(down * draw(rngs.params(), (experts, hidden, width), f32)[place])
        gate_shape = (experts, width, hidden)
        self.gate = nnx.Param(up * draw(rngs.params(), gate_shape, f32)[place]) if gated else None

    def specs(self, *, sharded: bool = False) -> tuple[P, ...]:
        """How each of `weights` is split: hidden units over `model`; over `expert` slots, or where sharded D."""
        axis = expert_parallel.AXIS
        into, out = P(axis, None, "model"), P(axis, "model", None)
        if sharded:
            into, out = P(None, axis, "model"), P(None, "model", axis)
        return (into, out) if self.gate is None else (into, out, into)

    def weights(self, x: Array) -> tuple[Float[Array, "slots _ _"], ...]:
        """(up [slots, D, H], down [slots, H, D]), and a gate like up, in the dtype of the computation on x."""
        dtype = x.dtype if self.dtype is None else self.dtype
        params = (self.up, self.down) if self.gate is None else (self.up, self.down, self.gate)
        return tuple(p[...].astype(dtype) for p in params)

    def _apply(
        self,
        weights: tuple[Array, ...],
        x: Float[Array, "*rows D"],
        matmul: Callable[[Array, Array], Array],
    ) -> Float[Array, "*rows D"]:
        up, down, *gate = weights
        h = matmul(x, up)
        h = self.activation(matmul(x, gate[0])) * h if gate else self.activation(h)
        return matmul(h, down)

    def on_buffers(self, x: Float[Array, "E C D"]) -> Float[Array, "E C D"]:
        """Each expert on its buffer."""
        return self._apply(self.weights(x), x, lambda a, w: jnp.einsum("ecd,edf->ecf", a, w))

    def on_groups(
        self,
        weights: tuple[Array, ...],
        x: Float[Array, "M D"],
        sizes: Int[Array, " E"],
        *,
        implementation: str | None = None,
    ) -> Float[Array, "M D"]:
        """The first sizes[0] rows by expert 0, the next sizes[1] by expert 1, and so on."""
        product = functools.partial(grouped_matmul, implementation=implementation)
        return self._apply(weights, x, lambda a, w: product(a, w, sizes))


class MoE(nnx.Module):
    """y_n = sum_k w_nk f_k(x_n) over the experts that a gate chooses."""

    def __init__(
        self,
        experts: int,
        width: int,
        hidden: int,
        *,
        slots: int = 0,
        sharded: bool = False,
        capacity_factor: float = 0.0,
        activation: Callable[[Array], Array] = jax.nn.gelu,
        std: tuple[float, float] | None = None,
        gated: bool = False,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Args:
        experts: E.
        width: D, of tokens.
        hidden: of each expert.
        slots: places for experts' weights, for replicas; E by default.
        sharded: every expert's weights are cut over the mesh axis `expert`, and each call fills the slots of its
          placement (as many as it says) with what it needs; `slots` says nothing then. See
          `expert_parallel.expert_parallel`.
        capacity_factor: of the buffers (`dispatch.capacity_of`); 0 for dropless.
        activation: as std, gated and dtype, of `Experts`.

        Raises:
          ValueError: fewer slots than experts.
        """
        check_slots(slots or experts, experts, 1)
        self.num_experts, self.capacity_factor = experts, capacity_factor
        self.router = nnx.Linear(width, experts, use_bias=False, rngs=rngs)
        self.sharded = sharded
        bank = Experts(
            experts,
            width,
            hidden,
            slots=0 if sharded else slots,
            activation=activation,
            std=std,
            gated=gated,
            dtype=dtype,
            rngs=rngs,
        )
        # By the name, a mesh knows how to split them.
        if sharded:
            self.masters = bank
        else:
            self.experts = bank

    def __call__(
        self,
        x: Float[Array, "N D"],
        route: MoEContext,
        *,
        placement: Int[Array, " slots"] | None = None,
        router_bias: Float[Array, " E"] | None = None,
        real: Bool[Array, " N"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "N D"], RouterStats]:
        """y, and what the routing came to.

        y has the dtype of x; router logits are float32 or wider. Padding may hold anything: what is not
        finite there is taken for 0.

        Args:
          placement: this layer's row of `route.placement`.
          router_bias: this layer's row of `route.router_bias`.
          real: tokens that take part; the others (padding) give 0. The auxiliary losses see all.
          key: of the gate's noise.
        """
        x = finite_padding(x, real)
        gate: Callable[..., Routing] = route.gate
        if router_bias is not None:
            gate = functools.partial(gate, bias=router_bias)
        routing = gate(self.router(x.astype(wide(x))), key)
        if real is not None:
            kept = routing.kept & real[:, None]
            weights = jnp.where(kept, routing.weights, 0.0)
            routing = dataclasses.replace(routing, kept=kept, weights=weights)
        y, dropped = self.dispatch(x, routing, route, placement)
        counts = routing.counts(self.num_experts)
        tokens = len(x) if real is None else real.sum()
        weight_sum = routing.weights.astype(routing.balance.dtype).sum() / jnp.maximum(tokens, 1)
        return y.astype(x.dtype), RouterStats(
            counts, routing.balance, routing.z, routing.overflow, dropped, weight_sum
        )

    def dispatch(
        self,
        x: Float[Array, "N D"],
        routing: Routing,
        route: MoEContext,
        placement: Int[Array, " slots"] | None = None,
    ) -> tuple[Float[Array, "N D"], Int[Array, ""]]:
        """The weighted sum of a routing, and the number of dropped pairs of token and expert."""
        experts = self.masters if self.sharded else self.experts
        weights = experts.weights(x)
        x = x.astype(weights[0].dtype)
        factor = self.capacity_factor if route.capacity_factor is None else route.capacity_factor
        if route.mesh is not None and not factor:
            mesh, slots = route.mesh, len(weights[0])
            if placement is None:
                placement = jnp.arange(slots) % self.num_experts
            if not self.sharded:
                weights = tuple(
                    expert_parallel.tie(w, placement, self.num_experts) for w in weights
                )

            def on_device(weights: tuple[Array, ...], rows: Array, sizes: Array) -> Array:
                y = experts.on_groups(weights, rows, sizes, implementation=route.grouped)
                return jax.lax.psum(y, "model")

            return expert_parallel.expert_parallel(
                x,
                routing,
                weights,
                on_device,
                placement,
                mesh=mesh,
                num_experts=self.num_experts,
                specs=experts.specs(sharded=self.sharded),
                sharded=self.sharded,
                receive_capacity_factor=route.receive_capacity_factor,
                split=route.split,
            )
        if not factor:
            on_groups = functools.partial(experts.on_groups, weights, implementation=route.grouped)
            y = dispatch.dropless(x, routing, on_groups, num_experts=self.num_experts)
            return y, jnp.zeros((), jnp.int32)
        tokens, k = routing.expert_ids.shape
        slots = dispatch.capacity_of(tokens, self.num_experts, k, factor)
        return dispatch.capacity(
            x, routing, experts.on_buffers, num_experts=self.num_experts, slots=slots
        )
