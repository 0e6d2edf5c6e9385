"""The parts of transformers that are no attention: norms, linear layers, feed-forward, dropout.

Source of RMSNorm: Zhang and Sennrich (2019); of small weights before the residual stream: Radford et
al. (2019); of gated feed-forward layers: Shazeer (2020).
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from jaxgen.nn.rows import on_one_axis
from jaxgen.nn.transformer_config import ACTIVATIONS, TransformerConfig
from jaxgen.numerics import Number, is_zero


def dropout(x: Float[Array, "..."], rate: Number, key: Key[Array, ""] | None) -> Array:
    """Zeroes a share `rate` of x and scales the rest up; the identity without a key."""
    if key is None or is_zero(rate):
        return x
    keep = jax.random.bernoulli(key, jnp.asarray(1.0 - rate, jnp.float32), x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)


def split_key(key: Key[Array, ""] | None, n: int) -> list[Key[Array, ""] | None]:
    """n keys, or n times None."""
    return [None] * n if key is None else list(jax.random.split(key, n))


def make_norm(config: TransformerConfig, rngs: nnx.Rngs) -> nnx.LayerNorm | nnx.RMSNorm:
    """The norm that a config names. RMSNorm has a scale only."""
    dtype = jnp.dtype(config.dtype)
    if config.norm == "rms":
        return nnx.RMSNorm(config.width, epsilon=config.norm_eps, dtype=dtype, rngs=rngs)
    return nnx.LayerNorm(
        config.width, epsilon=config.norm_eps, use_fast_variance=False, dtype=dtype, rngs=rngs
    )


def make_linear(
    config: TransformerConfig,
    n_in: int,
    n_out: int,
    bias: bool,
    rngs: nnx.Rngs,
    *,
    std: float | None = None,
) -> nnx.Linear:
    """Normal initialisation with the config's (or the given) standard deviation."""
    init = nnx.initializers.normal(config.init_std if std is None else std)
    return nnx.Linear(
        n_in, n_out, use_bias=bias, kernel_init=init, dtype=jnp.dtype(config.dtype), rngs=rngs
    )


def linear(
    layer: nnx.Module, x: Float[Array, "... I"], key: Key[Array, ""] | None = None
) -> Float[Array, "... O"]:
    """layer(x) of one axis of rows (`jaxgen.nn.rows`), or layer(x, key) of a layer that says `takes_key`:
    `jaxgen.peft.lora.LoRALinear`, for its dropout."""
    if getattr(layer, "takes_key", False):
        return on_one_axis(lambda rows: layer(rows, key), x)
    return on_one_axis(layer, x)


def residual_std(config: TransformerConfig) -> float:
    """Of layers that add to the residual stream, whose variance then does not grow with depth."""
    return config.init_std / math.sqrt(2 * config.depth)


class FeedForward(nnx.Module):
    """down(act(up(x))), or down(act(gate(x)) * up(x))."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        make = functools.partial(
            make_linear, config, config.width, config.mlp_width, config.mlp_bias, rngs
        )
        self.up = make()
        self.gate = make() if config.gated else None
        self.down = make_linear(
            config, config.mlp_width, config.width, config.mlp_bias, rngs, std=residual_std(config)
        )

    def __call__(
        self, x: Float[Array, "B T D"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "B T D"]:
        act = ACTIVATIONS[self.config.activation]
        keys = split_key(key, 4)
        h = linear(self.up, x, keys[1])
        h = act(h) if self.gate is None else act(linear(self.gate, x, keys[2])) * h
        if self.config.norm == "rms":  # T5 also drops inside
            h = dropout(h, self.config.dropout, keys[0])
        return linear(self.down, h, keys[3])
