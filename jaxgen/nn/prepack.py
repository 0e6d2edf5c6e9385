"""Linear layers as CPUs want them for a few rows: kernels kept as [out, in].

Before XLA's CPU multiplies [rows, in] by a kernel [in, out], it copies the kernel into tiles. For many rows that is
nothing; for the few of a step of decoding it takes longer than the product. With [out, in] as the left factor nothing
is copied: two to three times as fast for 2 to 16 rows (`docs/benchmarks.md`). Other platforms multiply as before.
"""

import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxgen.nn.rows import on_one_axis

M = TypeVar("M")

_FEW = 64  # rows; with more, turning the result around costs what was gained


def thin_matmul(
    x: Float[Array, "*rows D"], w: Float[Array, "F D"], dtype: DTypeLike | None = None
) -> Float[Array, "*rows F"]:
    """x w^T; fast on CPUs for few rows.

    Args:
      dtype: of the result; by default that of the factors.
    """

    def plain(x: Array, w: Array) -> Array:
        return jnp.einsum("...d,fd->...f", x, w, preferred_element_type=dtype)

    def left(x: Array, w: Array) -> Array:
        out = jnp.einsum("fd,nd->fn", w, x.reshape(-1, x.shape[-1]), preferred_element_type=dtype)
        # Without the barrier XLA writes the product as x w^T again.
        return jax.lax.optimization_barrier(out).T.reshape(*x.shape[:-1], -1)

    if not 1 <= math.prod(x.shape[:-1]) <= _FEW:
        return on_one_axis(lambda rows: plain(rows, w), x)
    return jax.lax.platform_dependent(x, w, cpu=left, default=plain)


class PrepackedLinear(nnx.Module):
    """A linear layer with its kernel as [out, in]; see the module's docstring."""

    def __init__(self, layer: nnx.Linear):
        kernel = jnp.swapaxes(layer.kernel[...], -1, -2)  # of stacked blocks, each one's
        self.packed = nnx.Param(kernel)
        self.bias = layer.bias
        self.dtype = layer.dtype

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows F"]:
        kernel = self.packed[...]
        dtype = self.dtype or jnp.promote_types(x.dtype, kernel.dtype)
        y = thin_matmul(x.astype(dtype), kernel.astype(dtype))
        return y if self.bias is None else y + self.bias[...].astype(dtype)


def prepack(model: M) -> M:
    """A copy for decoding on a CPU: every `nnx.Linear` whose kernel lies there is a `PrepackedLinear`.

    It computes the same up to rounding, holds the weights once more, and cannot be merged, saved or trained on as the
    model can. To be called once, before the jitted function that decodes.

    Raises:
      ValueError: inside jit.
    """
    copy: Any = nnx.clone(model)
    for _, module in list(nnx.iter_modules(copy)):
        for name, child in list(vars(module).items()):
            if type(child) is nnx.Linear and _on_cpu(child.kernel[...]):
                setattr(module, name, PrepackedLinear(child))
    return copy


def _on_cpu(x: Array) -> bool:
    if isinstance(x, jax.core.Tracer):
        raise ValueError("model is traced, allowed: one outside jit, whose weights are somewhere")
    return all(device.platform == "cpu" for device in x.devices())
