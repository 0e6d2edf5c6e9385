"""A mixture of feed-forward experts as a layer: router, gate, dispatch, experts.

The gate is any function logits -> `Routing` of `jaxgen.moe.gates`, handed to the call, since DTS's
temperature and noise change from step to step.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxgen.moe import dispatch
from jaxgen.moe.gates import Routing

Gate = Callable[[Float[Array, "N E"]], Routing]


class Experts(nnx.Module):
    """E feed-forward networks down(gelu(up(x))), their weights side by side."""

    def __init__(self, experts: int, width: int, hidden: int, *, rngs: nnx.Rngs):
        init = jax.nn.initializers.lecun_normal(batch_axis=0)
        self.up = nnx.Param(init(rngs.params(), (experts, width, hidden)))
        self.down = nnx.Param(init(rngs.params(), (experts, hidden, width)))

    def on_buffers(self, x: Float[Array, "E C D"]) -> Float[Array, "E C D"]:
        """Each expert on its buffer."""
        h = jax.nn.gelu(jnp.einsum("ecd,edf->ecf", x, self.up[...]))
        return jnp.einsum("ecf,efd->ecd", h, self.down[...])

    def on_groups(self, x: Float[Array, "M D"], sizes: Int[Array, " E"]) -> Float[Array, "M D"]:
        """The first sizes[0] rows by expert 0, the next sizes[1] by expert 1, and so on."""
        h = jax.nn.gelu(jax.lax.ragged_dot(x, self.up[...], sizes))
        return jax.lax.ragged_dot(h, self.down[...], sizes)


class MoE(nnx.Module):
    """y_n = sum_k w_nk f_k(x_n) over the experts that a gate chooses."""

    def __init__(
        self,
        experts: int,
        width: int,
        hidden: int,
        *,
        capacity_factor: float = 0.0,
        rngs: nnx.Rngs,
    ):
        """Args:
        experts: E.
        width: D, of tokens.
        hidden: of each expert.
        capacity_factor: of the buffers (`dispatch.capacity_of`); 0 for dropless.
        """
        self.num_experts, self.capacity_factor = experts, capacity_factor
        self.router = nnx.Linear(width, experts, use_bias=False, rngs=rngs)
        self.experts = Experts(experts, width, hidden, rngs=rngs)

    def __call__(
        self, x: Float[Array, "N D"], gate: Gate
    ) -> tuple[Float[Array, "N D"], Routing, Int[Array, ""]]:
        """y, the routing (with its auxiliary losses), and the number of dropped pairs.

        Router logits are float32 whatever the dtype of x.
        """
        routing = gate(self.router(x.astype(jnp.float32)))
        if not self.capacity_factor:
            y = dispatch.dropless(x, routing, self.experts.on_groups, num_experts=self.num_experts)
            return y, routing, jnp.zeros((), jnp.int32)
        tokens, k = routing.expert_ids.shape
        slots = dispatch.capacity_of(tokens, self.num_experts, k, self.capacity_factor)
        y, dropped = dispatch.capacity(
            x, routing, self.experts.on_buffers, num_experts=self.num_experts, slots=slots
        )
        return y, routing, dropped
