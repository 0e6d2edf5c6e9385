"""One transformer core: GPT-2, Llama, BERT and T5 are settings of it.

A `TransformerConfig` says which norm, positions, biases and activation; `Transformer` is the stack of blocks
that all models of `jaxgen.models` share. Decoding keeps keys and values in a `Cache`, a pytree.
Source: Vaswani et al. (2017); pre-norm: Radford et al. (2019).
"""

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from jaxgen import fsdp
from jaxgen.moe.layer import MoE, MoEContext, RouterStats
from jaxgen.nn.attention import (
    KV,
    Attention,
    Cache,
    Scope,
    append,
    heads_first,
    key_slots,
    relative_bias,
    visible,
)
from jaxgen.nn.layers import FeedForward, dropout, make_norm, residual_std, split_key
from jaxgen.nn.rotary import rotate
from jaxgen.nn.stacked import Stacked
from jaxgen.nn.transformer_config import ACTIVATIONS, TransformerConfig
from jaxgen.numerics import finite_padding

# A block's output [B, T, D], its keys and values, and what its experts' routing came to.
BlockOutput: TypeAlias = tuple[Array, KV, RouterStats | None]


class Block(nnx.Module):
    """Self-attention, optional cross attention, feed-forward, each with norm and residual."""

    def __init__(self, config: TransformerConfig, *, mixture: bool = False, rngs: nnx.Rngs):
        self.config = config
        self.norm1 = make_norm(config, rngs)
        self.attention = Attention(config, rngs=rngs)
        self.norm_cross = make_norm(config, rngs) if config.cross else None
        self.cross = Attention(config, cross=True, rngs=rngs) if config.cross else None
        self.norm2 = None if config.parallel else make_norm(config, rngs)
        self.mlp = None if mixture else FeedForward(config, rngs=rngs)
        self.moe = make_moe(config, rngs) if mixture else None

    def __call__(
        self,
        h: Float[Array, "B T D"],
        scope: Scope,
        *,
        route: MoEContext | None = None,
        placement: Int[Array, " slots"] | None = None,
        router_bias: Float[Array, " E"] | None = None,
        window: int | Array = 0,
        query_scale: float | Array = 1.0,
        prefix: Float[Array, "B P W"] | None = None,
        cached: KV | None = None,
        cross_kv: KV | None = None,
        key: Key[Array, ""] | None = None,
    ) -> BlockOutput:
        """The block's output, the keys and values that a cache keeps, and the load of its experts."""
        config = self.config
        keys = split_key(key, 11)  # from 6 on those of layers with updates (`layers.linear`)
        x = self.norm1(h) if config.pre_norm else h
        q, k, v = self.attention.project(x, keys[6])
        if config.rotary is not None:
            q = rotate(q, scope.positions, config.rotary)
            k = rotate(k, scope.positions, config.rotary)
        if config.scale_by_layer:
            q = (q * query_scale).astype(q.dtype)
        if prefix is not None:  # one vector serves as key and value (Li et al., 2020, Optimus)
            slot = prefix.reshape(*prefix.shape[:2], config.kv_heads, config.head_dim).astype(
                k.dtype
            )
            k, v = jnp.concatenate([slot, k], 1), jnp.concatenate([slot, v], 1)
        if cached is not None:
            if scope.offset is None:
                raise ValueError("scope.offset is None, allowed with `cached`: a slot's number")
            k, v = append(cached, k, v, scope.offset)
        mask = visible(scope, window)
        plain = {"cached": cached is not None, "causal": scope.causal and mask is scope.mask}
        out = self.attention.mix(q, k, v, mask, scope.bias, (keys[0], keys[9]), **plain)
        h = h + dropout(out, config.dropout, keys[1])
        if not config.pre_norm:
            h = self.norm1(h)
        if self.cross is not None:
            x = self.norm_cross(h) if config.pre_norm else h
            stored = cross_kv is not None
            if cross_kv is None:
                if scope.memory is None:
                    raise ValueError("memory is None, allowed: the encoder's output [B, M, D]")
                cross_kv = self.cross.memory(scope.memory, keys[7])
            q = self.cross.queries(x, keys[8])
            apart = keys[2], keys[10]
            out = self.cross.mix(q, *cross_kv, scope.memory_mask, None, apart, cached=stored)
            h = h + dropout(out, config.dropout, keys[3])
            if not config.pre_norm:
                h = self.norm_cross(h)
        load = None
        if self.norm2 is not None:  # a parallel block goes on with what attention read
            x = self.norm2(h) if config.pre_norm else h
        if self.moe is None:
            out = self.mlp(x, keys[4])
        else:
            rows = x.reshape(-1, x.shape[-1])
            real = None if scope.real is None else scope.real.reshape(-1)
            out, load = self.moe(
                rows,
                route or MoEContext(),
                placement=placement,
                router_bias=router_bias,
                real=real,
                key=keys[4],
            )
            out = out.reshape(x.shape)
        h = h + dropout(out, config.dropout, keys[5])
        return (h if config.pre_norm else self.norm2(h)), (k, v), load


class Transformer(nnx.Module):
    """Blocks, T5's position bias where the config has one, and the final norm of pre-norm stacks."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        last = config.period - 1
        blocks = [
            Block(config, mixture=bool(config.experts) and i % config.period == last, rngs=rngs)
            for i in range(config.depth)
        ]
        self.blocks = Stacked(blocks, config.period) if config.scan else nnx.List(blocks)
        self.norm = make_norm(config, rngs) if config.pre_norm else None
        self.relative = (
            nnx.Embed(config.relative_buckets, config.heads, rngs=rngs)
            if config.relative_buckets
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
        prefix: Float[Array, "B L P W"] | None = None,
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
          prefix: P extra slots of each of L layers, seen by every position, with no query. W is `kv_width`;
            where keys turn by their positions, slots stand at position 0.
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
        config, (batch, length, _) = self.config, h.shape
        h = finite_padding(h.astype(config.dtype), mask)
        slots = 0 if prefix is None else prefix.shape[2]
        past = jnp.zeros((), jnp.int32) if cache is None else cache.length
        real = jnp.ones((batch, length), bool) if mask is None else mask
        valid, always, room = key_slots(real, slots, cache)
        age = (past + slots + jnp.arange(length))[:, None] - jnp.arange(valid.shape[1])
        seen = None
        if config.causal:
            seen = (age >= 0)[None, None] & valid[:, None, None, :]
        elif mask is not None or cache is not None:
            seen = valid[:, None, None, :]
        bias = None
        if self.relative is not None:
            bias = relative_bias(self.relative.embedding[...], age, config)
        cross = None if cache is None else cache.cross
        if memory is not None:
            memory = finite_padding(memory.astype(config.dtype), memory_mask)
            if cache is not None:
                stored = [b.cross.memory(memory) for b in self.blocks if b.cross is not None]
                cross = [(heads_first(k), heads_first(v)) for k, v in stored]
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
            causal=config.causal and mask is None and cache is None and not slots,
        )
        if isinstance(self.blocks, Stacked) and cache is None:
            h, loads = self._scan(self.blocks, h, scope, prefix, route, key)
        else:
            h, kept, loads = self._loop(h, scope, prefix, cache, cross, route, key)
        if self.norm is not None:
            h = self.norm(h)
        if cache is None:
            return h, None, loads
        cache = Cache(
            keys=[k for k, _ in kept],
            values=[v for _, v in kept],
            mask=valid,
            length=past + slots + length,
            read=cache.read + real.sum(-1, dtype=jnp.int32),
            prefix=valid & False if always is None else always,
            cross=cross,
        )
        return jnp.where(room, h, jnp.nan), cache, loads

    def _loop(
        self,
        h: Float[Array, "B T D"],
        scope: Scope,
        prefix: Float[Array, "B L P W"] | None,
        cache: Cache | None,
        cross: list[KV] | None,
        route: MoEContext | None,
        key: Key[Array, ""] | None,
    ) -> tuple[Float[Array, "B T D"], list[KV], RouterStats | None]:
        """Block after block, with each one's part of the cache."""
        config = self.config
        keys, scales = split_key(key, config.depth), query_scales(config)
        windows, (placements, biases) = (
            config.windows or (0,) * config.depth,
            layer_rows(route, config),
        )
        kept, loads = [], []
        for i, block in enumerate(self.blocks):
            call: Callable[..., BlockOutput] = functools.partial(
                _gathered, window=windows[i], query_scale=scales[i], route=route
            )
            if cache is None:
                call = fsdp.rematerialise(call, config.remat)
            h, kv, load = call(
                block,
                h,
                scope,
                placement=None if placements is None else placements[i // config.expert_every],
                router_bias=None if biases is None else biases[i // config.expert_every],
                prefix=None if prefix is None else prefix[:, i],
                cached=None if cache is None else (cache.keys[i], cache.values[i]),
                cross_kv=None if cross is None else cross[i],
                key=keys[i],
            )
            kept.append(kv)
            if load is not None:
                loads.append(load)
        return h, kept, jax.tree.map(lambda *a: jnp.stack(a), *loads) if loads else None

    def _scan(
        self,
        blocks: Stacked,
        h: Float[Array, "B T D"],
        scope: Scope,
        prefix: Float[Array, "B L P W"] | None,
        route: MoEContext | None,
        key: Key[Array, ""] | None,
    ) -> tuple[Float[Array, "B T D"], RouterStats | None]:
        """All blocks by one traced body, over their stacked parameters."""
        config = self.config

        def by_turn(a: Array) -> Array:
            return a.reshape(blocks.turns, config.period, *a.shape[1:])

        windows = by_turn(jnp.asarray(config.windows)) if config.windows else None
        scales = by_turn(jnp.asarray(query_scales(config))) if config.scale_by_layer else None
        by_layer = None if prefix is None else by_turn(jnp.moveaxis(prefix, 1, 0))
        keys = None if key is None else by_turn(jax.random.split(key, config.depth))

        def body(h: Array, turn: tuple[PyTree, ...]) -> tuple[Array, RouterStats | None]:
            layers, window, scale, slots, k, placement, router_bias = turn
            load = None
            for i, block in enumerate(layers):
                h, _, load = _gathered(
                    block,
                    h,
                    scope,
                    route=route,
                    placement=placement,
                    router_bias=router_bias,
                    window=0 if window is None else window[i],
                    query_scale=1.0 if scale is None else scale[i],
                    prefix=None if slots is None else slots[i],
                    key=None if k is None else k[i],
                )
            return h, load

        body = fsdp.rematerialise(body, config.remat, prevent_cse=False)
        each = (blocks.turn, windows, scales, by_layer, keys, *layer_rows(route, config))
        return jax.lax.scan(body, h, each)


def _gathered(block: Block, *args: PyTree, **options: PyTree) -> BlockOutput:
    """A block's output; its parameters come together here, so that a remat lets them go again."""
    return fsdp.gather(block)(*args, **options)


def query_scales(config: TransformerConfig) -> tuple[float, ...]:
    """Of each layer, what its queries are multiplied by."""
    return tuple(1.0 / (i + 1) if config.scale_by_layer else 1.0 for i in range(config.depth))


def make_moe(config: TransformerConfig, rngs: nnx.Rngs) -> MoE:
    """The mixture of experts of a config's blocks."""
    return MoE(
        config.experts,
        config.width,
        config.mlp_width,
        slots=config.expert_slots,
        sharded=config.expert_sharded,
        capacity_factor=config.capacity_factor,
        activation=ACTIVATIONS[config.activation],
        std=(config.init_std, residual_std(config)),
        gated=config.gated,
        dtype=jnp.dtype(config.dtype),
        rngs=rngs,
    )


def layer_rows(
    route: MoEContext | None, config: TransformerConfig
) -> tuple[Int[Array, "L slots"] | None, Float[Array, "L E"] | None]:
    """A route's placement and router bias, checked against the config."""
    slots = config.expert_slots or config.experts
    return (None, None) if route is None else route.rows(config.moe_layers, slots, config.experts)
