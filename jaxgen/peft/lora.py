"""LoRA: low-rank updates of linear layers of any nnx module (Hu et al., 2022, eq. 3).

    h = W x + s B A x,   s = alpha / rank,   A [rank, in] normal,  B [out, rank] zero at the start.

nnx stores a kernel as [in, out], so here `a` is [in, rank] and `b` is [rank, out], and the update of a
kernel is s a b. `wrap` replaces layers by name pattern; `merge` adds the updates into the kernels,
`unmerge` takes them out again; `save_peft` and `load_peft` use the file format of the peft library
(`jaxgen.peft.files`).
"""

import functools
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.errors import require
from jaxgen.nn.layers import dropout as drop
from jaxgen.nn.layers import linear, split_key
from jaxgen.numerics import wide

M = TypeVar("M")


class LoRALinear(nnx.Module):
    """A linear layer and its low-rank update; at the start exactly the layer alone."""

    takes_key = True  # of a call: see `jaxgen.nn.layers.linear`

    def __init__(
        self,
        base: "nnx.Linear | LoRALinear",
        rank: int,
        alpha: float,
        key: Key[Array, ""],
        *,
        dropout: float = 0.0,
    ):
        """Args:
        base: the layer; kept as it is. One with an update of its own has two from now on.
        rank: of the update.
        alpha: the update is scaled by alpha / rank.
        dropout: rate on the update's input; active where a call has a key.
        """
        *layers, n_in, n_out = base.kernel.shape  # with an axis of layers, where blocks are stacked
        self.base, self.rank, self.alpha, self.dropout = base, rank, alpha, dropout
        self.merged = False
        dtype = wide(base.kernel[...])
        self.a = nnx.LoRAParam(jax.random.normal(key, (*layers, n_in, rank), dtype) / n_in**0.5)
        self.b = nnx.LoRAParam(jnp.zeros((*layers, rank, n_out), dtype))

    @property
    def kernel(self) -> Any:
        """Of the linear layer inside."""
        return self.base.kernel

    def updates(self) -> "Iterator[LoRALinear]":
        """This update, and those of the layers inside."""
        yield self
        if isinstance(self.base, LoRALinear):
            yield from self.base.updates()

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    def delta(self) -> Float[Array, "*L I O"]:
        """The update of the kernel: scale a b."""
        return self.scale * (self.a[...] @ self.b[...])

    def __call__(self, x: Float[Array, "... I"], key: Key[Array, ""] | None = None) -> Array:
        keys = split_key(key, 2)
        y = linear(self.base, x, keys[0])
        if self.merged:
            return y
        x = drop(x, self.dropout, keys[1])
        a, b = self.a[...].astype(y.dtype), self.b[...].astype(y.dtype)
        return y + (self.scale * ((x.astype(y.dtype) @ a) @ b))


def layers(
    module: PyTree, kind: type[M] | tuple[type[M], ...], path: str = ""
) -> Iterator[tuple[str, PyTree, str | int, M]]:
    """Every outermost layer of a class inside a module: (path, parent, attribute or index, layer)."""
    children: list[tuple[str | int, PyTree]]
    if isinstance(module, (list, tuple, nnx.List)):
        children = list(enumerate(module))
    elif isinstance(module, nnx.Module):
        children = [(k, v) for k, v in sorted(vars(module).items()) if not k.startswith("_")]
    else:
        return
    for name, child in children:
        where = f"{path}/{name}" if path else str(name)
        if isinstance(child, kind):
            yield where, module, name, child
        else:
            yield from layers(child, kind, where)


def wrap(
    model: M,
    rank: int,
    alpha: float,
    targets: str | tuple[str, ...],
    key: Key[Array, ""],
    *,
    dropout: float = 0.0,
) -> M:
    """A copy of the model whose matching linear layers are `LoRALinear`; wrapped ones get one more update.

    Args:
      targets: regular expressions; a layer whose path (`stack/blocks/0/attention/qkv`) contains a
        match of one of them is wrapped. Stacked blocks (`stack/blocks/turn/0/attention/qkv`) are wrapped
        together; `jaxgen.nn.stacked.unstack` the model first to choose among them.
      dropout: see `LoRALinear`. Blocks of `jaxgen.nn.transformer` hand their layers a key where the model's call has one,
        of which every layer of every block draws its own; layers elsewhere (heads, connectors) are called without one.

    Raises:
      ValueError: a rank below 1, an alpha or a rate that cannot be, a target that is no regular expression,
        or targets that match no linear layer (the message lists some).
    """
    if rank < 1:
        raise ValueError(f"rank is {rank}, allowed: at least 1")
    require("alpha", abs(alpha) < float("inf"), alpha, "finite")
    require("dropout", 0 <= dropout < 1, dropout, "at least 0, below 1")
    try:
        patterns = [re.compile(t) for t in ((targets,) if isinstance(targets, str) else targets)]
    except re.error as e:
        raise ValueError(f"targets are {targets!r}, allowed: regular expressions ({e})") from e
    model = nnx.clone(model)
    kinds: Any = (nnx.Linear, LoRALinear)
    found = list(layers(model, kinds))
    chosen = [row for row in found if any(p.search(row[0]) for p in patterns)]
    if not chosen:
        some = ", ".join(path for path, *_ in found[:6])
        raise ValueError(f"targets {targets!r} match no linear layer, allowed: parts of {some}, ..")
    for i, (_, parent, name, layer) in enumerate(chosen):
        new = LoRALinear(layer, rank, alpha, jax.random.fold_in(key, i), dropout=dropout)
        put(parent, name, new)
    return model


def put(parent: PyTree, name: str | int, child: nnx.Module) -> None:
    """Sets what `layers` has found: an attribute, or an item of a list."""
    if isinstance(name, int):
        parent[name] = child
    else:
        setattr(parent, name, child)


def delta(model: PyTree) -> dict[str, Float[Array, "*L I O"]]:
    """{path of a wrapped layer: the update s a b of its kernel}; differentiable in a and b.

    Of a layer that was wrapped more than once, the sum of its updates.
    """
    return {
        path: functools.reduce(jnp.add, [one.delta() for one in layer.updates()])
        for path, _, _, layer in layers(model, LoRALinear)
    }


def split(model: M) -> tuple[PyTree, Callable[[PyTree], M]]:
    """(the trainable a and b, a function that puts such into the model): for grad and optax.

    The base model is constant in that function, so neither gradient nor optimiser state is made for
    it.
    """
    graph, adapters, rest = nnx.split(model, nnx.LoRAParam, ...)
    return adapters, lambda a: nnx.merge(graph, a, rest)


def merge(model: M) -> M:
    """A copy whose kernels hold the updates; same outputs, at the base model's cost."""
    return _shift(model, to_merged=True)


def unmerge(model: M) -> M:
    """Undoes `merge`, up to rounding."""
    return _shift(model, to_merged=False)


def _shift(model: M, *, to_merged: bool) -> M:
    model = nnx.clone(model)
    for _, _, _, wrapped in layers(model, LoRALinear):
        for layer in wrapped.updates():
            if layer.merged != to_merged:
                change = layer.delta() if to_merged else -layer.delta()
                kernel = layer.kernel[...]
                layer.kernel[...] = (kernel + change).astype(kernel.dtype)
                layer.merged = to_merged
    return model


def unwrap(model: M) -> M:
    """A copy with plain linear layers in place of merged ones, as `jaxgen.models.hf.save` needs it.

    Raises:
      ValueError: a layer is not merged.
    """
    model = nnx.clone(model)
    for path, parent, name, layer in list(layers(model, LoRALinear)):
        base: Any = layer
        for update in layer.updates():
            if not update.merged:
                raise ValueError(f"layer {path} is not merged, allowed: the result of `merge`")
            base = update.base
        put(parent, name, base)
    return model


def save_peft(model: PyTree, folder: str | pathlib.Path) -> None:
    """Writes a model's adapters as peft reads them; see `jaxgen.peft.files.save`."""
    from jaxgen.peft import files as peft_files

    peft_files.save(model, folder)


def load_peft(model: M, folder: str | pathlib.Path) -> M:
    """A copy of a plain model with the adapters of a peft folder; see `jaxgen.peft.files.load`."""
    from jaxgen.peft import files as peft_files

    return peft_files.load(model, folder)
