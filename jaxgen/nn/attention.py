"""Multi-head attention, what it may see, and the keys and values that decoding keeps.

Source: Vaswani et al. (2017); local attention: Black et al. (2021, GPT-Neo); relative position buckets:
Raffel et al. (2020, T5); rotary: Su et al. (2021).
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
from jaxgen.nn.layers import dropout, make_linear, residual_std
from jaxgen.nn.transformer_config import TransformerConfig
from jaxgen.numerics import wide

# (keys, values): of a layer's cache, or of its encoder memory.
KV: TypeAlias = tuple[Array, Array]


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
    cross: list[KV] | None = None


def make_cache(config: TransformerConfig, batch: int, size: int) -> Cache:
    """An empty cache of `size` slots."""
    shape = (batch, config.heads, size, config.head_dim)
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
    filled = jnp.arange(cache.mask.shape[1]) < length
    return dataclasses.replace(
        cache, mask=cache.mask & filled, length=length, read=cache.read - steps
    )


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


def heads_first(x: Float[Array, "B S H K"]) -> Float[Array, "B H S K"]:
    """The layout of a cache."""
    return x.swapaxes(1, 2)


def append(
    cached: KV, k: Float[Array, "B T H K"], v: Float[Array, "B T H K"], at: Int[Array, ""]
) -> KV:
    """A layer's cache with new keys and values from slot `at` on."""
    put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=at, axis=2)
    k, v = heads_first(k).astype(cached[0].dtype), heads_first(v).astype(cached[1].dtype)
    return put(cached[0], k), put(cached[1], v)


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
        inner = config.heads * config.head_dim
        make = functools.partial(make_linear, config, config.width, rngs=rngs)
        if self.fused:
            self.qkv = make(3 * inner, config.qkv_bias)
        else:
            self.query = make(inner, config.qkv_bias)
            self.key = make(inner, config.qkv_bias)
            self.value = make(inner, config.qkv_bias)
        self.out = make_linear(
            config, inner, config.width, config.out_bias, rngs, std=residual_std(config)
        )

    def _heads(self, x: Float[Array, "B T I"]) -> Float[Array, "B T H K"]:
        return x.reshape(*x.shape[:2], self.config.heads, self.config.head_dim)

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
        config = self.config
        scale = config.head_dim**-0.5 if config.scale is None else config.scale
        if cached:
            out = attend_cached(q, k, v, mask, bias, scale=scale)
        else:
            out = attend(q, k, v, mask, bias, scale=scale, rate=config.dropout, key=key)
        return self.out(out.reshape(*out.shape[:2], config.heads * config.head_dim))
