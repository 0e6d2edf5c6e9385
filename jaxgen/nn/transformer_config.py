"""The shape of a stack of transformer blocks: GPT-2, Llama, BERT and T5 are settings of it."""

import dataclasses
import functools
from collections.abc import Callable

import jax
from jaxtyping import Array

from jaxgen.errors import require
from jaxgen.nn.kernels import IMPLEMENTATIONS
from jaxgen.nn.rotary import Rotary

NORMS = ("layer", "rms")
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The shape of a stack of blocks. Defaults are GPT-2's.

    Attributes:
      width: of the residual stream.
      head_dim: of one head; 0 is width / heads. heads * head_dim need not be `width` (T5).
      mlp_width: hidden size of the feed-forward layer; 0 is 4 * width.
      kv_heads: of self-attention's keys and values, each read by heads / kv_heads neighbouring query heads
        (grouped queries, Ainslie et al., 2023); 0 for one a query head.
      causal: a position sees itself and earlier ones only.
      cross: each block also attends to an encoder's output.
      pre_norm: norms before the sublayers and one at the end (GPT, T5), or after each sum (BERT).
      parallel: one norm, whose output both attention and feed-forward layer read (GPT-J).
      norm: "layer" or "rms".
      activation: "gelu_tanh", "gelu", "relu" or "silu".
      gated: the feed-forward layer is down(act(gate(x)) * up(x)).
      fused_qkv: one matrix for queries, keys and values of self-attention.
      qk_norm: an RMSNorm on each head's queries and keys, before they turn (Qwen3).
      scale: of the attention logits; None is head_dim ** -0.5.
      scale_by_layer: layer i's logits of self-attention are divided by i, counted from 1 (GPT-2's
        scale_attn_by_inverse_layer_idx).
      rotary: how queries and keys turn by their positions; None for not at all. Prefix slots do not turn.
      relative_buckets: of T5's position bias, 0 for none; `relative_distance` is its reach.
      windows: of each layer, how many positions back (itself included) it sees; 0 for all. Prefix slots
        are seen from everywhere.
      attention: what computes it where no cache is read, "xla", "cudnn" or "splash" (see
        `jaxgen.nn.attention.attend`); None for XLA's operations.
      dropout: rate, of embeddings, attention weights and sublayer outputs.
      remat: recompute blocks in the backward pass (gradient checkpointing).
      scan: keep the blocks' parameters stacked, and trace one block for all layers: compile time no longer
        grows with depth. See `jaxgen.nn.stacked`.
      experts: of the mixture that takes the feed-forward layer's place; 0 for none.
      expert_every: each so-many-th block has a mixture, the last of them included.
      expert_slots: places for experts' weights, for replicas; 0 for one an expert.
      expert_sharded: weights of all experts are cut over the devices instead, and slots are filled in each call; see
        `jaxgen.moe.layer.MoE`.
      capacity_factor: of the experts' buffers, 0 for dropless; see `jaxgen.moe.dispatch`.
      dtype: of the computation; parameters stay float32. A name, such as "bfloat16".

    `dataclasses.replace` keeps the sizes that 0 stood for: say them again where width or heads change.

    Raises:
      ValueError: names the field that cannot be so.
    """

    width: int
    depth: int
    heads: int
    head_dim: int = 0
    mlp_width: int = 0
    kv_heads: int = 0
    causal: bool = True
    cross: bool = False
    pre_norm: bool = True
    parallel: bool = False
    norm: str = "layer"
    norm_eps: float = 1e-5
    activation: str = "gelu_tanh"
    gated: bool = False
    qkv_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    fused_qkv: bool = False
    qk_norm: bool = False
    scale: float | None = None
    scale_by_layer: bool = False
    rotary: Rotary | None = None
    relative_buckets: int = 0
    relative_distance: int = 128
    windows: tuple[int, ...] = ()
    attention: str | None = None
    dropout: float = 0.0
    init_std: float = 0.02
    remat: bool = False
    scan: bool = False
    experts: int = 0
    expert_every: int = 2
    expert_slots: int = 0
    expert_sharded: bool = False
    capacity_factor: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for field in ("width", "depth", "heads"):
            require(field, getattr(self, field) >= 1, getattr(self, field), "at least 1")
        if not self.head_dim:
            divides = self.width % self.heads == 0
            require("heads", divides, self.heads, f"a divisor of the width {self.width}")
            object.__setattr__(self, "head_dim", self.width // self.heads)
        if not self.mlp_width:
            object.__setattr__(self, "mlp_width", 4 * self.width)
        for field in ("head_dim", "mlp_width"):
            require(field, getattr(self, field) >= 1, getattr(self, field), "at least 1")
        if not self.kv_heads:
            object.__setattr__(self, "kv_heads", self.heads)
        groups = self.kv_heads >= 1 and self.heads % self.kv_heads == 0
        require("kv_heads", groups, self.kv_heads, f"a divisor of heads, {self.heads}")
        if self.parallel and (self.cross or not self.pre_norm):
            raise ValueError("parallel is True, allowed with cross or without pre_norm: False")
        if self.rotary is not None:
            dim = self.rotary.dim or self.head_dim
            fits = dim <= self.head_dim and dim % 2 == 0
            require("rotary.dim", fits, dim, f"even, at most head_dim, {self.head_dim}")
        if self.norm not in NORMS:
            raise ValueError(f"norm is {self.norm!r}, allowed: {', '.join(NORMS)}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation is {self.activation!r}, allowed: {', '.join(ACTIVATIONS)}"
            )
        if self.attention not in (None, *IMPLEMENTATIONS):
            allowed = f"None, {', '.join(IMPLEMENTATIONS)}"
            raise ValueError(f"attention is {self.attention!r}, allowed: {allowed}")
        if self.windows and len(self.windows) != self.depth:
            raise ValueError(f"windows has {len(self.windows)} entries, allowed: {self.depth}")
        if self.experts < 0 or self.expert_every < 1 or self.capacity_factor < 0:
            raise ValueError(
                f"experts, expert_every, capacity_factor are {self.experts}, {self.expert_every}, "
                f"{self.capacity_factor}, allowed: 0 or more, at least 1, 0 or more"
            )
        if self.experts:
            whole = self.depth % self.expert_every == 0
            want = f"a multiple of expert_every, {self.expert_every}, with experts"
            require("depth", whole, self.depth, want)

    @property
    def kv_width(self) -> int:
        """Of a position's keys, all heads of it; and of a prefix slot."""
        return self.kv_heads * self.head_dim

    @property
    def period(self) -> int:
        """After how many blocks their forms come again: one, or from mixture to mixture."""
        return self.expert_every if self.experts else 1

    @property
    def moe_layers(self) -> int:
        """The number of blocks with a mixture of experts."""
        return self.depth // self.expert_every if self.experts else 0
