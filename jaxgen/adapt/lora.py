"""LoRA: low-rank updates of linear layers of any nnx module (Hu et al., 2022, eq. 3).

    h = W x + s B A x,   s = alpha / rank,   A [rank, in] normal,  B [out, rank] zero at the start.

nnx stores a kernel as [in, out], so here `a` is [in, rank] and `b` is [rank, out], and the update of a
kernel is s a b. `wrap` replaces layers by name pattern; `merge` adds the updates into the kernels,
`unmerge` takes them out again; `save_peft` and `load_peft` use the file format of the peft library.
"""

import functools
import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.errors import ConfigError
from jaxgen.nn import transformer
from jaxgen.numerics import wide

M = TypeVar("M")


class LoRALinear(nnx.Module):
    """A linear layer and its low-rank update; at the start exactly the layer alone."""

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
        n_in, n_out = base.kernel.shape
        self.base, self.rank, self.alpha, self.dropout = base, rank, alpha, dropout
        self.merged = False
        dtype = wide(base.kernel[...])
        self.a = nnx.LoRAParam(jax.random.normal(key, (n_in, rank), dtype) / n_in**0.5)
        self.b = nnx.LoRAParam(jnp.zeros((rank, n_out), dtype))

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

    def delta(self) -> Float[Array, "I O"]:
        """The update of the kernel: scale a b."""
        return self.scale * (self.a[...] @ self.b[...])

    def __call__(self, x: Float[Array, "... I"], key: Key[Array, ""] | None = None) -> Array:
        y = self.base(x)
        if self.merged:
            return y
        x = transformer.dropout(x, self.dropout, key)
        a, b = self.a[...].astype(y.dtype), self.b[...].astype(y.dtype)
        return y + (self.scale * ((x.astype(y.dtype) @ a) @ b))


def layers(
    module: Any, kind: type[M] | tuple[type[M], ...], path: str = ""
) -> Iterator[tuple[str, Any, Any, M]]:
    """Every outermost layer of a class inside a module: (path, parent, attribute or index, layer)."""
    children: list[tuple[Any, Any]]
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
        match of one of them is wrapped.

    Raises:
      ValueError: a rank below 1, or targets that match no linear layer (the message lists some).
    """
    if rank < 1:
        raise ValueError(f"rank is {rank}, allowed: at least 1")
    patterns = [re.compile(t) for t in ((targets,) if isinstance(targets, str) else targets)]
    model = nnx.clone(model)
    kinds: Any = (nnx.Linear, LoRALinear)
    found = list(layers(model, kinds))
    chosen = [row for row in found if any(p.search(row[0]) for p in patterns)]
    if not chosen:
        some = ", ".join(path for path, *_ in found[:6])
        raise ValueError(f"targets {targets!r} match no linear layer, allowed: parts of {some}, ..")
    for i, (_, parent, name, layer) in enumerate(chosen):
        new = LoRALinear(layer, rank, alpha, jax.random.fold_in(key, i), dropout=dropout)
        _put(parent, name, new)
    return model


def _put(parent: Any, name: Any, child: Any) -> None:
    if isinstance(name, int):
        parent[name] = child
    else:
        setattr(parent, name, child)


def delta(model: Any) -> dict[str, Float[Array, "I O"]]:
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
    """A copy with plain linear layers in place of merged ones, as `jaxgen.nn.hf.save` needs it.

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
        _put(parent, name, base)
    return model


# Names of kernels in peft's files: the base model's tensor name without `.weight`.
_PREFIX = "base_model.model."


def save_peft(model: Any, folder: str | pathlib.Path) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`, as peft loads them.

    The model is one that `jaxgen.nn.hf` can name (GPT-2, GPT-Neo, BERT, T5), with wrapped layers.

    Raises:
      ValueError: no wrapped layer, or several ranks.
    """
    from safetensors.numpy import save_file

    wrapped = list(layers(model, LoRALinear))
    for path, _, _, layer in wrapped:
        if len(list(layer.updates())) > 1:
            raise ValueError(f"layer {path} has several updates, allowed: one, or merge the first")
    settings = {(layer.rank, layer.alpha, layer.dropout) for *_, layer in wrapped}
    if len(settings) != 1:
        raise ValueError(f"(rank, alpha, dropout) are {sorted(settings)}, allowed: one setting")
    rank, alpha, rate = settings.pop()
    tensors, modules = {}, set()
    for path, _, _, layer in wrapped:
        name, transposed = _file_name(model, path)
        modules.add(name.rsplit(".", 1)[-1])
        a, b = np.asarray(layer.a[...]), np.asarray(layer.b[...])
        # peft's A and B are Linear weights, [out, in], whichever way the base stores its matrix.
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = np.ascontiguousarray(a.T)
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = np.ascontiguousarray(b.T)
        fan_in_fan_out = not transposed
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": rate,
        "target_modules": sorted(modules),
        "fan_in_fan_out": fan_in_fan_out,
        "bias": "none",
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_peft(model: M, folder: str | pathlib.Path) -> M:
    """A copy of a plain model with the adapters of a peft folder, wrapped and not merged.

    Raises:
      ConfigError: no such folder, another kind of adapter, or tensors that do not fit the model.
    """
    from safetensors.numpy import load_file

    folder = pathlib.Path(folder)
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise ConfigError("folder", str(folder), "a folder with adapter_config.json")
    config = json.loads(path.read_text())
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("use_rslora"):
        raise ConfigError("peft_type", config.get("peft_type"), "LORA, plain")
    tensors = load_file(folder / "adapter_model.safetensors")
    names = {p: _file_name(model, p)[0] for p, *_ in layers(model, nnx.Linear) if _named(model, p)}
    chosen = {p: n for p, n in names.items() if f"{_PREFIX}{n}.lora_A.weight" in tensors}
    if 2 * len(chosen) != len(tensors):
        known = {f"{_PREFIX}{n}.lora_{x}.weight" for n in chosen.values() for x in "AB"}
        raise ConfigError("adapter", sorted(set(tensors) - known)[:4], "layers of this model")
    exact = tuple(f"^{re.escape(p)}$" for p in chosen)
    model = wrap(
        model,
        config["r"],
        config["lora_alpha"],
        exact,
        jax.random.key(0),
        dropout=config.get("lora_dropout", 0.0),
    )
    for p, _, _, layer in layers(model, LoRALinear):
        for mine, theirs in ((layer.a, "A"), (layer.b, "B")):
            value = tensors[f"{_PREFIX}{chosen[p]}.lora_{theirs}.weight"].T
            if value.shape != mine.shape:
                raise ConfigError(f"adapter of {p}", list(value.shape), f"{list(mine.shape)}")
            mine[...] = jnp.asarray(value)
    return model


def _file_name(model: Any, path: str) -> tuple[str, bool]:
    from jaxgen.nn import hf

    name, transposed = hf.file_name(f"{path}/kernel", hf.rules(model))
    return name.removesuffix(".weight"), transposed


def _named(model: Any, path: str) -> bool:
    try:
        _file_name(model, path)
    except KeyError:
        return False
    return True
