"""Attention by kernels that make no array [T, S] of weights: cuDNN's on NVIDIA GPUs, splash on TPUs.

Source: Dao et al. (2022), FlashAttention. cuDNN's kernel is called by `jax.nn.dot_product_attention`; splash is
the one of `jax.experimental.pallas` that skips blocks which the mask hides.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxgen.errors import require

IMPLEMENTATIONS = ("xla", "cudnn", "splash")
_PLATFORMS = {"cudnn": "gpu", "splash": "tpu"}
_BLOCKS = (512, 256, 128)  # positions that splash works off at once


def check_kernel(implementation: str | None, dtype: DTypeLike) -> None:
    """Raises ValueError for an implementation that is not known, or that this platform or dtype has not.

    Args:
      implementation: "cudnn" on NVIDIA GPUs, in half precision; "splash" on TPUs; "xla" and None anywhere.
    """
    known = implementation is None or implementation in IMPLEMENTATIONS
    require("implementation", known, implementation, f"None, {', '.join(IMPLEMENTATIONS)}")
    if implementation in _PLATFORMS:
        platform, half = jax.default_backend(), jnp.dtype(dtype).itemsize == 2
        there = platform == _PLATFORMS[implementation]
        require("implementation", there, implementation, f"None or xla, on {platform}")
        ok = half or implementation != "cudnn"
        require("implementation", ok, implementation, f"None or xla, in {jnp.dtype(dtype).name}")


def cudnn(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G K"],
    mask: Bool[Array, "#B #H #T S"] | None,
    bias: Float[Array, "#B H T S"] | None,
    *,
    scale: float,
    causal: bool = False,
) -> Float[Array, "B T H K"]:
    """softmax(scale q k^T + bias) v; see `jaxgen.nn.attention.attend`.

    Args:
      causal: the mask is the causal one and nothing more. The kernel then skips what it hides, and reads no
        mask; any other mask it adds as a bias [B, H, T, S].
    """
    seen = None if causal else mask
    return jax.nn.dot_product_attention(
        q, k, v, bias, seen, scale=scale, is_causal=causal, implementation="cudnn"
    )


def splash(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G K"],
    mask: Bool[Array, "#B #H #T S"] | None,
    bias: Float[Array, "#B H T S"] | None,
    *,
    scale: float,
    causal: bool = False,
    interpret: bool = False,
) -> Float[Array, "B T H K"]:
    """softmax(scale q k^T) v, causal or without a mask, for T and S that are multiples of 128.

    Args:
      causal: see `cudnn`.
      interpret: run the kernel's steps as ordinary operations, on any platform: slow, for tests.

    Raises:
      ValueError: another mask, a bias, or other lengths.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as lib

    length, size, heads = q.shape[1], k.shape[1], q.shape[2]
    if bias is not None or not (causal or mask is None):
        given = "a bias" if bias is not None else "a mask"
        raise ValueError(f"splash is given {given}, allowed: the causal mask alone, or none")
    block = next((b for b in _BLOCKS if length % b == 0 and size % b == 0), 0)
    require("splash's T, S", block > 0, (length, size), f"multiples of {_BLOCKS[-1]}")
    one = (lib.CausalMask if causal else lib.FullMask)((length, size))
    kernel = lib.make_splash_mha(
        mask=lib.MultiHeadMask([one] * heads),
        block_sizes=lib.BlockSizes(
            block_q=block,
            block_kv=block,
            block_kv_compute=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_kv_dkv_compute=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    rows = ((q * scale).astype(q.dtype), k, v)
    return jax.vmap(kernel)(*(a.swapaxes(1, 2) for a in rows)).swapaxes(1, 2)
