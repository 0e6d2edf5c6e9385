"""Attention by cuDNN's kernel, which makes no array [T, S] of weights.

Source: Dao et al. (2022), FlashAttention; the kernel is cuDNN's, called by `jax.nn.dot_product_attention`.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxgen.errors import require

IMPLEMENTATIONS = ("xla", "cudnn")


def check_kernel(implementation: str | None, dtype: DTypeLike) -> None:
    """Raises ValueError for an implementation that is not known, or that this platform or dtype has not.

    Args:
      implementation: "cudnn" for half precision on NVIDIA GPUs; "xla" and None are allowed everywhere.
    """
    known = implementation is None or implementation in IMPLEMENTATIONS
    require("implementation", known, implementation, f"None, {', '.join(IMPLEMENTATIONS)}")
    if implementation == "cudnn":
        platform, half = jax.default_backend(), jnp.dtype(dtype).itemsize == 2
        require("implementation", platform == "gpu", "cudnn", f"None or xla, on {platform}")
        require("implementation", half, "cudnn", f"None or xla, in {jnp.dtype(dtype).name}")


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
