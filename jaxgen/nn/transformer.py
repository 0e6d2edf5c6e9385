"""One transformer core: GPT-2, GPT-Neo, BERT and T5 are settings of it.

A `TransformerConfig` says which norm, positions, biases and activation; `Transformer` is the stack of blocks that
all language models of `jaxgen.nn` share. Decoding keeps keys and values in a `Cache`, a pytree.
Source: Vaswani et al. (2017); pre-norm: Radford et al. (2019); local attention: Black et al. (2021,
GPT-Neo); relative position buckets and RMSNorm: Raffel et al. (2020, T5); rotary: Su et al. (2021).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.errors import require
from jaxgen.moe.layer import MoE, MoEContext, RouterStats
from jaxgen.numerics import Number, finite_padding, is_zero, wide


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The shape of a stack of blocks. Defaults are GPT-2's.

    Attributes:
      width: of the residual stream.
      head_dim: of one head; heads * head_dim need not be `width` (T5).
      mlp_width: hidden size of the feed-forward layer.
      causal: a position sees itself and earlier ones only.
      cross: each block also attends to an encoder's output.
      pre_norm: norms before the sublayers and one at the end (GPT, T5), or after each sum (BERT).
      norm: "layer" or "rms".
      activation: "gelu_tanh", "gelu", "relu" or "silu".
      gated: the feed-forward layer is down(act(gate(x)) * up(x)).
      fused_qkv: one matrix for queries, keys and values of self-attention.
      scale: of the attention logits; None is head_dim ** -0.5.
      scale_by_layer: layer i's logits of self-attention are divided by i, counted from 1 (GPT-2's
        scale_attn_by_inverse_layer_idx).
      rotary: rotate queries and keys by their positions.
      relative_buckets: of T5's position bias, 0 for none; `relative_distance` is its reach.
      windows: of each layer, how many positions back (itself included) it sees; 0 for all. Prefix slots
        are seen from everywhere.
      dropout: rate, of embeddings, attention weights and sublayer outputs.
      remat: recompute blocks in the backward pass (gradient checkpointing).
      scan: trace one block for all layers; compile time no longer grows with depth.
      experts: of the mixture that takes the feed-forward layer's place; 0 for none.
      expert_every: each so-many-th block has a mixture, the last of them included.
      expert_slots: places for experts' weights, for replicas; 0 for one an expert.
      capacity_factor: of the experts' buffers, 0 for dropless; see `jaxgen.moe.dispatch`.
      dtype: of the computation; parameters stay float32. A name, such as "bfloat16".
    """

    width: int
    depth: int
    heads: int
    head_dim: int
    mlp_width: int
    causal: bool = True
    cross: bool = False
    pre_norm: bool = True
    norm: str = "layer"
    norm_eps: float = 1e-5
    activation: str = "gelu_tanh"
    gated: bool = False
    qkv_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    fused_qkv: bool = False
    scale: float | None = None
    scale_by_layer: bool = False
    rotary: bool = False
    relative_buckets: int = 0
    relative_distance: int = 128
    windows: tuple[int, ...] = ()
    dropout: float = 0.0
    init_std: float = 0.02
    remat: bool = False
    scan: bool = False
    experts: int = 0
    expert_every: int = 2
    expert_slots: int = 0
    capacity_factor: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for field in ("width", "depth", "heads", "head_dim", "mlp_width"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}, allowed: at least 1")
        if self.norm not in NORMS:
            raise ValueError(f"norm is {self.norm!r}, allowed: {', '.join(NORMS)}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation is {self.activation!r}, allowed: {', '.join(ACTIVATIONS)}"
            )
        if self.windows and len(self.windows) != self.depth:
            raise ValueError(f"windows has {len(self.windows)} entries, allowed: {self.depth}")
        if self.experts < 0 or self.expert_every < 1 or self.capacity_factor < 0:
            raise ValueError(
                f"experts, expert_every, capacity_factor are {self.experts}, {self.expert_every}, "
                f"{self.capacity_factor}, allowed: 0 or more, at least 1, 0 or more"
            )
        if self.experts and (self.gated or self.depth % self.expert_every):
            raise ValueError(
                f"gated, depth are {self.gated}, {self.depth}, allowed with experts: False, "
                f"a multiple of expert_every, {self.expert_every}"
            )

    @property
    def moe_layers(self) -> int:
        """The number of blocks with a mixture of experts."""
        return self.depth // self.expert_every if self.experts else 0


NORMS = ("layer", "rms")
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values of what was read so far; fixed size, so one compilation serves all steps.

    Attributes:
      keys: one [B, H, S, K] a layer: heads come before slots, so that each head's keys lie together
        and a step reads them without a transposed copy of the whole cache.
      values: like `keys`.
      mask: [B, S], which slots hold a real position.
      length: how many slots are filled, the same for all rows.
      read: [B], how many real tokens are in it; prefix slots and padding do not count.
      prefix: [B, S], which slots are prefix slots.
      cross: keys and values of the encoder's output, one pair [B, H, M, K] a layer, or None.
    """

    keys: list[Array]
    values: list[Array]
    mask: Bool[Array, "B S"]
    length: Int[Array, ""]
    read: Int[Array, " B"]
    prefix: Bool[Array, "B S"]
    cross: list[tuple[Array, Array]] | None = None


def make_cache(spec: TransformerConfig, batch: int, size: int) -> Cache:
    """An empty cache of `size` slots."""
    shape = (batch, spec.heads, size, spec.head_dim)
    dtype = jnp.dtype(spec.dtype)
    return Cache(
        [jnp.zeros(shape, dtype) for _ in range(spec.depth)],
        [jnp.zeros(shape, dtype) for _ in range(spec.depth)],
        jnp.zeros((batch, size), bool),
        jnp.zeros((), jnp.int32),
        jnp.zeros(batch, jnp.int32),
        jnp.zeros((batch, size), bool),
    )


def dropout(x: Float[Array, "..."], rate: Number, key: Key[Array, ""] | None) -> Array:
    """Zeroes a share `rate` of x and scales the rest up; the identity without a key."""
    if key is None or is_zero(rate):
        return x
    keep = jax.random.bernoulli(key, jnp.asarray(1.0 - rate, jnp.float32), x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)


def split_key(key: Key[Array, ""] | None, n: int) -> list[Key[Array, ""] | None]:
    """n keys, or n times None."""
    return [None] * n if key is None else list(jax.random.split(key, n))


def attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S H K"],
    v: Float[Array, "B S H K"],
    mask: Bool[Array, "#B #H #T S"] | None,
    bias: Float[Array, "#B H T S"] | None,
    *,
    scale: float,
    rate: float = 0.0,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "B T H K"]:
    """softmax(scale q k^T + bias) v, with dropout on the weights where a key is given.

    Logits are float32 or wider up to the softmax. Without keys to see, the result is 0.
    """
    if not k.shape[1]:
        return jnp.zeros_like(q)
    if key is None or rate == 0.0:
        bias = None if bias is None else bias.astype(q.dtype)
        return jax.nn.dot_product_attention(q, k, v, bias, mask, scale=scale)
    logits = scale * jnp.einsum("BTHK,BSHK->BHTS", q, k, preferred_element_type=wide(q))
    if bias is not None:
        logits += bias
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    weights = dropout(jax.nn.softmax(logits, -1).astype(v.dtype), rate, key)
    return jnp.einsum("BHTS,BSHK->BTHK", weights, v)


def attend_cached(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B H S K"],
    v: Float[Array, "B H S K"],
    mask: Bool[Array, "#B #H #T S"] | None,
    bias: Float[Array, "#B H T S"] | None,
    *,
    scale: float,
) -> Float[Array, "B T H K"]:
    """`attend` over keys and values as a cache holds them, without dropout."""
    if not k.shape[2]:
        return jnp.zeros_like(q)
    logits = jnp.einsum("BTHK,BHSK->BHTS", q, k, preferred_element_type=wide(q)) * scale
    if bias is not None:
        logits += bias
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    weights = jax.nn.softmax(logits, -1).astype(v.dtype)
    return jnp.einsum("BHTS,BHSK->BTHK", weights, v)


def heads_first(x: Float[Array, "B S H K"]) -> Float[Array, "B H S K"]:
    """The layout of a cache."""
    return x.swapaxes(1, 2)


def rotate(x: Float[Array, "B T H K"], positions: Int[Array, "#B T"]) -> Float[Array, "B T H K"]:
    """Rotary position embedding: pairs (i, i + K/2) turn by position * 10000 ** (-2 i / K)."""
    half = x.shape[-1] // 2
    freqs = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[..., None, None].astype(jnp.float32) * freqs
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def relative_bucket(
    distance: Int[Array, "..."], *, buckets: int, reach: int, causal: bool
) -> Int[Array, "..."]:
    """T5's bucket of (key position - query position): exact when near, logarithmic when far."""
    if causal:
        start, distance = jnp.zeros_like(distance), jnp.maximum(-distance, 0)
    else:
        buckets //= 2
        start, distance = buckets * (distance > 0), jnp.abs(distance)
    exact = buckets // 2
    near = jnp.maximum(distance, 1).astype(jnp.float32)
    ratio = jnp.log(near / exact) / math.log(reach / exact)
    far = exact + (ratio * (buckets - exact)).astype(jnp.int32)
    return start + jnp.where(distance < exact, distance, jnp.minimum(far, buckets - 1))


def make_norm(spec: TransformerConfig, rngs: nnx.Rngs) -> nnx.LayerNorm | nnx.RMSNorm:
    """The norm of a spec. RMSNorm has a scale only."""
    dtype = jnp.dtype(spec.dtype)
    if spec.norm == "rms":
        return nnx.RMSNorm(spec.width, epsilon=spec.norm_eps, dtype=dtype, rngs=rngs)
    return nnx.LayerNorm(
        spec.width, epsilon=spec.norm_eps, use_fast_variance=False, dtype=dtype, rngs=rngs
    )


def make_linear(
    spec: TransformerConfig,
    n_in: int,
    n_out: int,
    bias: bool,
    rngs: nnx.Rngs,
    *,
    std: float | None = None,
) -> nnx.Linear:
    """Normal initialisation with the spec's (or the given) standard deviation."""
    init = nnx.initializers.normal(spec.init_std if std is None else std)
    return nnx.Linear(
        n_in, n_out, use_bias=bias, kernel_init=init, dtype=jnp.dtype(spec.dtype), rngs=rngs
    )


def residual_std(spec: TransformerConfig) -> float:
    """Of layers that add to the residual stream, whose variance then does not grow with depth."""
    return spec.init_std / math.sqrt(2 * spec.depth)


class Attention(nnx.Module):
    """Multi-head attention; with `cross`, keys and values come from an encoder."""

    def __init__(self, spec: TransformerConfig, *, cross: bool = False, rngs: nnx.Rngs):
        self.spec, self.fused = spec, spec.fused_qkv and not cross
        inner = spec.heads * spec.head_dim
        make = functools.partial(make_linear, spec, spec.width, rngs=rngs)
        if self.fused:
            self.qkv = make(3 * inner, spec.qkv_bias)
        else:
            self.query = make(inner, spec.qkv_bias)
            self.key = make(inner, spec.qkv_bias)
            self.value = make(inner, spec.qkv_bias)
        self.out = make_linear(spec, inner, spec.width, spec.out_bias, rngs, std=residual_std(spec))

    def _heads(self, x: Float[Array, "B T I"]) -> Float[Array, "B T H K"]:
        return x.reshape(*x.shape[:2], self.spec.heads, self.spec.head_dim)

    def project(self, h: Float[Array, "B T D"]) -> tuple[Array, Array, Array]:
        """Queries, keys and values [B, T, H, K] of the same input."""
        if self.fused:
            q, k, v = jnp.split(self.qkv(h), 3, -1)
        else:
            q, k, v = self.query(h), self.key(h), self.value(h)
        return self._heads(q), self._heads(k), self._heads(v)

    def memory(self, memory: Float[Array, "B M D"]) -> tuple[Array, Array]:
        """Keys and values of an encoder's output, for cross attention."""
        return self._heads(self.key(memory)), self._heads(self.value(memory))

    def queries(self, h: Float[Array, "B T D"]) -> Float[Array, "B T H K"]:
        return self._heads(self.query(h))

    def mix(
        self,
        q: Float[Array, "B T H K"],
        k: Float[Array, "B _ _ K"],
        v: Float[Array, "B _ _ K"],
        mask: Array | None,
        bias: Array | None,
        key: Key[Array, ""] | None,
        *,
        cached: bool = False,
    ) -> Float[Array, "B T D"]:
        """`cached`: k and v are [B, H, S, K], as a cache has them."""
        spec = self.spec
        scale = spec.head_dim**-0.5 if spec.scale is None else spec.scale
        if cached:
            out = attend_cached(q, k, v, mask, bias, scale=scale)
        else:
            out = attend(q, k, v, mask, bias, scale=scale, rate=spec.dropout, key=key)
        return self.out(out.reshape(*out.shape[:2], spec.heads * spec.head_dim))


class FeedForward(nnx.Module):
    """down(act(up(x))), or down(act(gate(x)) * up(x))."""

    def __init__(self, spec: TransformerConfig, *, rngs: nnx.Rngs):
        self.spec = spec
        make = functools.partial(make_linear, spec, spec.width, spec.mlp_width, spec.mlp_bias, rngs)
        self.up = make()
        self.gate = make() if spec.gated else None
        self.down = make_linear(
            spec, spec.mlp_width, spec.width, spec.mlp_bias, rngs, std=residual_std(spec)
        )

    def __call__(self, x: Float[Array, "B T D"], key: Key[Array, ""] | None = None) -> Array:
        act = ACTIVATIONS[self.spec.activation]
        h = act(self.up(x)) if self.gate is None else act(self.gate(x)) * self.up(x)
        if self.spec.norm == "rms":  # T5 also drops inside
            h = dropout(h, self.spec.dropout, key)
        return self.down(h)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scope:
    """What every block of one call sees.

    Attributes:
      mask: [B, 1, T or 1, S], keys that each query may see, or None for all.
      age: [T, S] query slot minus key slot, for windows.
      bias: [1, H, T, S] relative position bias, or None.
      positions: [B, T], for rotary embeddings.
      memory: an encoder's output [B, M, D], or None.
      memory_mask: [B, 1, 1, M] or None.
      offset: the cache slot of the first token; None without a cache.
      prefix: [B, 1, 1, S], slots that windows do not hide, or None.
      real: [B, T], tokens that experts see, or None for all.
    """

    mask: Array | None
    age: Array
    bias: Array | None
    positions: Array
    memory: Array | None
    memory_mask: Array | None
    offset: Array | None
    real: Array | None = None
    prefix: Array | None = None


# (keys, values) of a layer's cache, and of its encoder memory.
KV = tuple[Array, Array]


class Block(nnx.Module):
    """Self-attention, optional cross attention, feed-forward, each with norm and residual."""

    def __init__(self, spec: TransformerConfig, *, mixture: bool = False, rngs: nnx.Rngs):
        self.spec = spec
        self.norm1 = make_norm(spec, rngs)
        self.attention = Attention(spec, rngs=rngs)
        self.norm_cross = make_norm(spec, rngs) if spec.cross else None
        self.cross = Attention(spec, cross=True, rngs=rngs) if spec.cross else None
        self.norm2 = make_norm(spec, rngs)
        self.mlp = None if mixture else FeedForward(spec, rngs=rngs)
        self.moe = make_moe(spec, rngs) if mixture else None

    def __call__(
        self,
        h: Float[Array, "B T D"],
        scope: Scope,
        *,
        route: MoEContext | None = None,
        placement: Int[Array, " slots"] | None = None,
        window: int | Array = 0,
        query_scale: float | Array = 1.0,
        prefix: Float[Array, "B P D"] | None = None,
        cached: KV | None = None,
        cross_kv: KV | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], KV, RouterStats | None]:
        """The block's output, the keys and values that a cache keeps, and the load of its experts."""
        spec = self.spec
        keys = split_key(key, 6)
        x = self.norm1(h) if spec.pre_norm else h
        q, k, v = self.attention.project(x)
        if spec.rotary:
            q, k = rotate(q, scope.positions), rotate(k, scope.positions)
        if spec.scale_by_layer:
            q = (q * query_scale).astype(q.dtype)
        if prefix is not None:  # one vector serves as key and value (Li et al., 2020, Optimus)
            slot = prefix.reshape(*prefix.shape[:2], spec.heads, spec.head_dim).astype(k.dtype)
            k, v = jnp.concatenate([slot, k], 1), jnp.concatenate([slot, v], 1)
        if cached is not None:
            put: Any = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=2)
            k = put(cached[0], heads_first(k).astype(cached[0].dtype), scope.offset)
            v = put(cached[1], heads_first(v).astype(cached[1].dtype), scope.offset)
        mask = scope.mask
        if not (isinstance(window, int) and window == 0):
            near = ((scope.age < window) | (jnp.asarray(window) == 0))[None, None]
            if scope.prefix is not None:
                near = near | scope.prefix
            mask = near if mask is None else mask & near
        out = self.attention.mix(q, k, v, mask, scope.bias, keys[0], cached=cached is not None)
        h = h + dropout(out, spec.dropout, keys[1])
        if not spec.pre_norm:
            h = self.norm1(h)
        if self.cross is not None:
            x = self.norm_cross(h) if spec.pre_norm else h
            stored = cross_kv is not None
            if cross_kv is None:
                if scope.memory is None:
                    raise ValueError("memory is None, allowed: the encoder's output [B, M, D]")
                cross_kv = self.cross.memory(scope.memory)
            q = self.cross.queries(x)
            out = self.cross.mix(q, *cross_kv, scope.memory_mask, None, keys[2], cached=stored)
            h = h + dropout(out, spec.dropout, keys[3])
            if not spec.pre_norm:
                h = self.norm_cross(h)
        x, load = self.norm2(h) if spec.pre_norm else h, None
        if self.moe is None:
            out = self.mlp(x, keys[4])
        else:
            rows = x.reshape(-1, x.shape[-1])
            real = None if scope.real is None else scope.real.reshape(-1)
            out, load = self.moe(
                rows, route or MoEContext(), placement=placement, real=real, key=keys[4]
            )
            out = out.reshape(x.shape)
        h = h + dropout(out, spec.dropout, keys[5])
        return (h if spec.pre_norm else self.norm2(h)), (k, v), load


class Transformer(nnx.Module):
    """Blocks, T5's position bias where the spec has one, and the final norm of pre-norm stacks."""

    def __init__(self, spec: TransformerConfig, *, rngs: nnx.Rngs):
        self.spec = spec
        every = spec.expert_every if spec.experts else 0
        self.blocks = nnx.List(
            [
                Block(spec, mixture=bool(every) and i % every == every - 1, rngs=rngs)
                for i in range(spec.depth)
            ]
        )
        self.norm = make_norm(spec, rngs) if spec.pre_norm else None
        self.relative = (
            nnx.Embed(spec.relative_buckets, spec.heads, rngs=rngs)
            if spec.relative_buckets
            else None
        )

    def __call__(
        self,
        h: Float[Array, "B T D"],
        *,
        mask: Bool[Array, "B T"] | None = None,
        positions: Int[Array, "#B T"] | None = None,
        memory: Float[Array, "B M D"] | None = None,
        memory_mask: Bool[Array, "B M"] | None = None,
        prefix: Float[Array, "B L P D"] | None = None,
        cache: Cache | None = None,
        route: MoEContext | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None, RouterStats | None]:
        """Args:
          h: embedded tokens.
          mask: which of them are real; None for all. Others may hold anything: what is not finite there,
            or in rows of `memory` that are not real, is taken for 0.
          positions: for rotary embeddings; by default 0..T-1 after what the cache holds.
          memory: an encoder's output, for cross attention; with a cache, needed once.
          memory_mask: which of its rows are real.
          prefix: P extra slots of each of L layers, seen by every position, with no query.
          cache: what was read before; the call appends to it. States are NaN where it has no room left,
            which only a traced length lets happen.
          route: how mixtures of experts work; by default Switch's gate on one device.
          key: switches dropout on, and the noise of gates.

        Returns:
          The last hidden states, the cache with these tokens in it (None without one), and the loads of
          the mixtures, one row a layer that has one (None without them).

        Raises:
          ValueError: more tokens than the cache has room for.
        """
        spec, (batch, length, _) = self.spec, h.shape
        h = finite_padding(h.astype(spec.dtype), mask)
        slots = 0 if prefix is None else prefix.shape[2]
        past = jnp.zeros((), jnp.int32) if cache is None else cache.length
        mask_in = jnp.ones((batch, length), bool) if mask is None else mask
        new = jnp.concatenate([jnp.ones((batch, slots), bool), mask_in], 1) if slots else mask_in
        always = jnp.broadcast_to(jnp.arange(slots + length) < slots, new.shape) if slots else None
        valid = new
        if cache is not None:
            put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=past, axis=1)
            size = cache.mask.shape[1]
            room = past + slots + length <= size
            require("cache size", slots + length <= size, size, f"at least {slots + length} slots")
            require("cache size", room, size, f"room for {slots + length} more slots")
            valid = put(cache.mask, new)
            always = put(cache.prefix, jnp.zeros_like(new) if always is None else always)
        place = past + slots + jnp.arange(length)
        age = place[:, None] - jnp.arange(valid.shape[1])
        seen = None
        if spec.causal:
            seen = (age >= 0)[None, None] & valid[:, None, None, :]
        elif mask is not None or cache is not None:
            seen = valid[:, None, None, :]
        bias = None
        if self.relative is not None:
            bucket = relative_bucket(
                -age,
                buckets=spec.relative_buckets,
                reach=spec.relative_distance,
                causal=spec.causal,
            )
            bias = self.relative.embedding[...][bucket].transpose(2, 0, 1)[None]
        cross = None if cache is None else cache.cross
        if memory is not None:
            memory = finite_padding(memory.astype(spec.dtype), memory_mask)
            if cache is not None:
                both = [block.cross.memory(memory) for block in self.blocks]  # type: ignore[union-attr]
                cross = [(heads_first(k), heads_first(v)) for k, v in both]
        scope = Scope(
            mask=seen,
            age=age,
            bias=bias,
            positions=past + jnp.arange(length)[None] if positions is None else positions,
            memory=memory,
            memory_mask=None if memory_mask is None else memory_mask[:, None, None, :],
            offset=None if cache is None else past,
            real=mask,
            prefix=None if always is None else always[:, None, None, :],
        )
        loads: RouterStats | None = None
        if spec.scan and cache is None:
            h, loads = self._scan(h, scope, prefix, route, key)
        else:
            keys = split_key(key, spec.depth)
            windows, scales = spec.windows or (0,) * spec.depth, query_scales(spec)
            placements = placements_of(spec, route)
            kept, seen_loads = [], []
            for i, block in enumerate(self.blocks):
                call: Any = functools.partial(
                    block_call, window=windows[i], query_scale=scales[i], route=route
                )
                if spec.remat and cache is None:
                    call = jax.checkpoint(call)
                h, kv, load = call(
                    block,
                    h,
                    scope,
                    placement=None if placements is None else placements[i // spec.expert_every],
                    prefix=None if prefix is None else prefix[:, i],
                    cached=None if cache is None else (cache.keys[i], cache.values[i]),
                    cross_kv=None if cross is None else cross[i],
                    key=keys[i],
                )
                kept.append(kv)
                if load is not None:
                    seen_loads.append(load)
            if seen_loads:
                loads = jax.tree.map(lambda *a: jnp.stack(a), *seen_loads)
            if cache is not None:
                cache = Cache(
                    keys=[k for k, _ in kept],
                    values=[v for _, v in kept],
                    mask=valid,
                    length=past + slots + length,
                    read=cache.read + mask_in.sum(-1, dtype=jnp.int32),
                    prefix=valid & False if always is None else always,
                    cross=cross,
                )
        if self.norm is not None:
            h = self.norm(h)
        if cache is not None:
            h = jnp.where(room, h, jnp.nan)
        return h, cache, loads

    def _scan(
        self,
        h: Array,
        scope: Scope,
        prefix: Array | None,
        route: MoEContext | None,
        key: Key[Array, ""] | None,
    ) -> tuple[Array, RouterStats | None]:
        """All blocks by one traced body, over their stacked parameters.

        A body is one block, or as many as there are from one mixture of experts to the next.
        """
        spec, period = self.spec, self.spec.expert_every if self.spec.experts else 1
        turns = spec.depth // period
        stacked = [
            jax.tree.map(lambda *a: jnp.stack(a), *self.blocks[i::period]) for i in range(period)
        ]

        def by_turn(a: Array) -> Array:
            return a.reshape(turns, period, *a.shape[1:])

        windows = by_turn(jnp.asarray(spec.windows)) if spec.windows else None
        scales = by_turn(jnp.asarray(query_scales(spec))) if spec.scale_by_layer else None
        by_layer = None if prefix is None else by_turn(jnp.moveaxis(prefix, 1, 0))
        keys = None if key is None else by_turn(jax.random.split(key, spec.depth))

        def body(h: Array, turn: tuple[Any, ...]) -> tuple[Array, RouterStats | None]:
            blocks, window, scale, slots, k, placement = turn
            load = None
            for i, block in enumerate(blocks):
                h, _, load = block(
                    h,
                    scope,
                    route=route,
                    placement=placement,
                    window=0 if window is None else window[i],
                    query_scale=1.0 if scale is None else scale[i],
                    prefix=None if slots is None else slots[i],
                    key=None if k is None else k[i],
                )
            return h, load

        if spec.remat:
            body = jax.checkpoint(body, prevent_cse=False)
        turns_of = (stacked, windows, scales, by_layer, keys, placements_of(spec, route))
        return jax.lax.scan(body, h, turns_of)


def query_scales(spec: TransformerConfig) -> tuple[float, ...]:
    """Of each layer, what its queries are multiplied by."""
    return tuple(1.0 / (i + 1) if spec.scale_by_layer else 1.0 for i in range(spec.depth))


def make_moe(spec: TransformerConfig, rngs: nnx.Rngs) -> MoE:
    """The mixture of experts of a spec's blocks."""
    return MoE(
        spec.experts,
        spec.width,
        spec.mlp_width,
        slots=spec.expert_slots,
        capacity_factor=spec.capacity_factor,
        activation=ACTIVATIONS[spec.activation],
        std=(spec.init_std, residual_std(spec)),
        dtype=jnp.dtype(spec.dtype),
        rngs=rngs,
    )


def placements_of(
    spec: TransformerConfig, route: MoEContext | None
) -> Int[Array, "L slots"] | None:
    """The rows of a route's placement, one a mixture.

    Raises:
      ValueError: another number of rows than mixtures, or of slots than the spec has.
    """
    placement = None if route is None else route.placement
    want = spec.moe_layers, spec.expert_slots or spec.experts
    if placement is not None and placement.shape != want:
        raise ValueError(f"placement has shape {placement.shape}, allowed: {want}")
    return placement


def block_call(
    block: Block, h: Array, scope: Scope, **kwargs: object
) -> tuple[Array, KV, RouterStats | None]:
    """A block as a function of its parameters, as `jax.checkpoint` needs it."""
    return block(h, scope, **kwargs)  # type: ignore[arg-type]
