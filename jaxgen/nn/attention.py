"""Multi-head attention, what it may see, and the keys and values that decoding keeps.

Source: Vaswani et al. (2017); local attention: Black et al. (2021, GPT-Neo); relative position buckets:
Raffel et al. (2020, T5); grouped queries: Ainslie et al. (2023).
"""

import dataclasses
import functools
import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.errors import require
from jaxgen.nn import kernels
from jaxgen.nn.layers import dropout, linear, make_linear, residual_std, split_key
from jaxgen.nn.transformer_config import TransformerConfig
from jaxgen.numerics import wide

# (keys, values): of a layer's cache, or of its encoder memory.
KV: TypeAlias = tuple[Array, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values of what was read so far; fixed size, so one compilation serves all steps.

    Attributes:
      keys: one [B, G, S, K] a layer, of G key-value heads: heads come before slots, so that each head's
        keys lie together and a step reads them without a transposed copy of the whole cache.
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
    cross: list[KV] | None = None


def make_cache(config: TransformerConfig, batch: int, size: int) -> Cache:
    """An empty cache of `size` slots."""
    shape = (batch, config.kv_heads, size, config.head_dim)
    dtype = jnp.dtype(config.dtype)
    return Cache(
        [jnp.zeros(shape, dtype) for _ in range(config.depth)],
        [jnp.zeros(shape, dtype) for _ in range(config.depth)],
        jnp.zeros((batch, size), bool),
        jnp.zeros((), jnp.int32),
        jnp.zeros(batch, jnp.int32),
        jnp.zeros((batch, size), bool),
    )


def rewind(cache: Cache, steps: Int[Array, ""]) -> Cache:
    """The cache as it was so many steps, of one real token each, ago.

    Later keys and values stay in their slots, where no query sees them.
    """
    length = cache.length - steps
    mask = cache.mask & (jnp.arange(cache.mask.shape[1]) < length)
    return dataclasses.replace(cache, mask=mask, length=length, read=cache.read - steps)


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
      causal: the mask is the causal one and nothing more, known before tracing.
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
    causal: bool = dataclasses.field(default=False, metadata={"static": True})


def key_slots(
    real: Bool[Array, "B T"], prefix: int, cache: Cache | None
) -> tuple[Bool[Array, "B S"], Bool[Array, "B S"] | None, Bool[Array, ""]]:
    """Of the slots that queries look at: which hold something, which are prefix slots, is there room.

    Args:
      real: which of the new tokens are real.
      prefix: number of new prefix slots, before the tokens.
      cache: what was read before; without one, S is prefix + T, with one its size.

    Raises:
      ValueError: more slots than the cache has room for, where its length is known.
    """
    batch, length = real.shape
    new = jnp.concatenate([jnp.ones((batch, prefix), bool), real], 1) if prefix else real
    always = jnp.broadcast_to(jnp.arange(prefix + length) < prefix, new.shape) if prefix else None
    if cache is None:
        return new, always, jnp.ones((), bool)
    size, count = cache.mask.shape[1], prefix + length
    room = cache.length + count <= size
    require("cache size", count <= size, size, f"at least {count} slots")
    require("cache size", room, size, f"room for {count} more slots")
    put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=cache.length, axis=1)
    always = put(cache.prefix, jnp.zeros_like(new) if always is None else always)
    return put(cache.mask, new), always, room


def visible(scope: Scope, window: int | Int[Array, ""]) -> Bool[Array, "..."] | None:
    """The keys that each query of a layer sees, None for all: prefix slots, and others up to a window."""
    if isinstance(window, int) and window == 0:
        return scope.mask
    near = ((scope.age < window) | (jnp.asarray(window) == 0))[None, None]
    if scope.prefix is not None:
        near = near | scope.prefix
    return near if scope.mask is None else scope.mask & near


def heads_first(x: Float[Array, "B S G K"]) -> Float[Array, "B G S K"]:
    """The layout of a cache."""
    return x.swapaxes(1, 2)


def append(
    cached: KV, k: Float[Array, "B T G K"], v: Float[Array, "B T G K"], at: Int[Array, ""]
) -> KV:
    """A layer's cache with new keys and values from slot `at` on."""
    put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=at, axis=2)
    k, v = heads_first(k).astype(cached[0].dtype), heads_first(v).astype(cached[1].dtype)
    return put(cached[0], k), put(cached[1], v)


def attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G K"],
    mask: Bool[Array, "#B #H #T S"] | None,
    bias: Float[Array, "#B H T S"] | None,
    *,
    scale: float,
    rate: float = 0.0,
    key: Key[Array, ""] | None = None,
    implementation: str | None = None,
    causal: bool = False,
) -> Float[Array, "B T H K"]:
    """softmax(scale q k^T + bias) v, with dropout on the weights where a key is given.

    H is a multiple of G: H / G neighbouring query heads read one key-value head. Logits are float32 or
    wider up to the softmax. Without keys to see, the result is 0.

    Args:
      implementation: "xla" or None for XLA's operations; "cudnn" for cuDNN's kernel, in half precision on
        NVIDIA GPUs; "splash" on TPUs, with what `kernels.splash` allows. Where weights are dropped, XLA's
        operations do it in any case.
      causal: the mask is that of T = S positions which see themselves and earlier ones, so that a kernel need
        not read it.

    Raises:
      ValueError: an implementation that is not known, or not there for this platform or dtype.
    """
    kernels.check_kernel(implementation, q.dtype)
    if not k.shape[1]:
        return jnp.zeros_like(q)
    if key is None or rate == 0.0:
        bias = None if bias is None else bias.astype(q.dtype)
        if implementation == "cudnn":
            return kernels.cudnn(q, k, v, mask, bias, scale=scale, causal=causal)
        if implementation == "splash":
            return kernels.splash(q, k, v, mask, bias, scale=scale, causal=causal)
        return jax.nn.dot_product_attention(q, k, v, bias, mask, scale=scale)
    return _attend(q, heads_first(k), heads_first(v), mask, bias, scale=scale, rate=rate, key=key)


def attend_cached(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B G S K"],
    v: Float[Array, "B G S K"],
    mask: Bool[Array, "#B #H #T S"] | None,
    bias: Float[Array, "#B H T S"] | None,
    *,
    scale: float,
) -> Float[Array, "B T H K"]:
    """`attend` over keys and values as a cache holds them, without dropout."""
    if not k.shape[2]:
        return jnp.zeros_like(q)
    return _attend(q, k, v, mask, bias, scale=scale)


def _attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B G S K"],
    v: Float[Array, "B G S K"],
    mask: Bool[Array, "#B #H #T S"] | None,
    bias: Float[Array, "#B H T S"] | None,
    *,
    scale: float,
    rate: float = 0.0,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "B T H K"]:
    batch, length, heads, _ = q.shape
    groups, size = k.shape[1:3]
    q = q.reshape(batch, length, groups, heads // groups, -1)
    grouped = jnp.einsum("BTGRK,BGSK->BGRTS", q, k, preferred_element_type=wide(q))
    logits = grouped.reshape(batch, heads, length, size) * scale
    if bias is not None:
        logits += bias
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    weights = dropout(jax.nn.softmax(logits, -1).astype(v.dtype), rate, key)
    # The time axis moves afterwards: as the product's own second axis it costs XLA's CPU ten times as much.
    out = jnp.einsum("BGRTS,BGSK->BGRTK", weights.reshape(grouped.shape), v)
    return jnp.moveaxis(out, 3, 1).reshape(batch, length, heads, -1)


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


def relative_bias(
    table: Float[Array, "R H"], age: Int[Array, "T S"], config: TransformerConfig
) -> Float[Array, "1 H T S"]:
    """T5's addition to the logits, from query slot minus key slot."""
    bucket = relative_bucket(
        -age,
        buckets=config.relative_buckets,
        reach=config.relative_distance,
        causal=config.causal,
    )
    return table[bucket].transpose(2, 0, 1)[None]


class Attention(nnx.Module):
    """Multi-head attention; with `cross`, keys and values come from an encoder."""

    def __init__(self, config: TransformerConfig, *, cross: bool = False, rngs: nnx.Rngs):
        self.config, self.fused = config, config.fused_qkv and not cross
        self.kv_heads = config.heads if cross else config.kv_heads
        inner, kv_inner = config.heads * config.head_dim, self.kv_heads * config.head_dim
        make = functools.partial(make_linear, config, config.width, rngs=rngs)
        if self.fused:
            self.qkv = make(inner + 2 * kv_inner, config.qkv_bias)
        else:
            self.query = make(inner, config.qkv_bias)
            self.key = make(kv_inner, config.qkv_bias)
            self.value = make(kv_inner, config.qkv_bias)
        self.out = make_linear(
            config, inner, config.width, config.out_bias, rngs, std=residual_std(config)
        )
        norm = functools.partial(
            nnx.RMSNorm, config.head_dim, epsilon=config.norm_eps, dtype=jnp.dtype(config.dtype)
        )
        self.query_norm = norm(rngs=rngs) if config.qk_norm else None
        self.key_norm = norm(rngs=rngs) if config.qk_norm else None

    def _heads(
        self, x: Float[Array, "B T I"], norm: nnx.RMSNorm | None = None
    ) -> Float[Array, "B T _ K"]:
        size = self.config.head_dim
        x = x.reshape(*x.shape[:2], x.shape[2] // size, size)
        return x if norm is None else norm(x)

    def project(
        self, h: Float[Array, "B T D"], key: Key[Array, ""] | None = None
    ) -> tuple[Array, Array, Array]:
        """Queries [B, T, H, K], and keys and values [B, T, G, K], of the same input."""
        if self.fused:
            inner, kv_inner = (n * self.config.head_dim for n in (self.config.heads, self.kv_heads))
            q, k, v = jnp.split(linear(self.qkv, h, key), (inner, inner + kv_inner), -1)
            return self._heads(q, self.query_norm), self._heads(k, self.key_norm), self._heads(v)
        keys = split_key(key, 2)
        return self.queries(h, keys[0]), *self.memory(h, keys[1])

    def memory(
        self, memory: Float[Array, "B M D"], key: Key[Array, ""] | None = None
    ) -> tuple[Array, Array]:
        """Keys and values of an encoder's output, for cross attention, or of the same input."""
        keys = split_key(key, 2)
        k, v = linear(self.key, memory, keys[0]), linear(self.value, memory, keys[1])
        return self._heads(k, self.key_norm), self._heads(v)

    def queries(
        self, h: Float[Array, "B T D"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "B T H K"]:
        return self._heads(linear(self.query, h, key), self.query_norm)

    def mix(
        self,
        q: Float[Array, "B T H K"],
        k: Float[Array, "B _ _ K"],
        v: Float[Array, "B _ _ K"],
        mask: Array | None,
        bias: Array | None,
        keys: tuple[Key[Array, ""] | None, Key[Array, ""] | None],
        *,
        cached: bool = False,
        causal: bool = False,
    ) -> Float[Array, "B T D"]:
        """`keys`: of the weights' dropout, of the output layer. `cached`: k, v as a cache has them. `causal`: see `attend`."""
        config = self.config
        scale = config.head_dim**-0.5 if config.scale is None else config.scale
        if cached:
            out = attend_cached(q, k, v, mask, bias, scale=scale)
        else:
            out = attend(
                *(q, k, v, mask, bias),
                scale=scale,
                rate=config.dropout,
                key=keys[0],
                implementation=config.attention,
                causal=causal,
            )
        out = out.reshape(*out.shape[:2], config.heads * config.head_dim)
        return linear(self.out, out, keys[1])
