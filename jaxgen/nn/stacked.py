"""Blocks of one form kept as one module, each array with a leading axis: what a scan runs over.

Parameters are born, trained, split over a mesh and saved that way, so that no step has to put them together
first. Whatever looks at one block at a time (files, adapters, copying weights) takes `unstack`, and `stack`
puts the result back.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PyTree

from jaxgen.nn.transformer_config import TransformerConfig

M = TypeVar("M")


class Stacked(nnx.Module):
    """Layers 0, 1, 2, .. as `turn`, the modules of one turn of a scan; their arrays are [turns, ...].

    A turn is one layer, or as many as there are from one mixture of experts to the next. As a sequence it
    is that of the layers, each cut out.
    """

    def __init__(self, layers: Sequence[PyTree], period: int = 1):
        """Args:
        layers: modules; those that are `period` apart have the same form.
        period: the number of layers of a turn.

        Raises:
          ValueError: layers of different forms, or a number of them that `period` does not divide.
        """
        if not layers or len(layers) % period:
            raise ValueError(f"layers are {len(layers)}, allowed: a multiple of {period}")
        if not _alike(layers, period):
            raise ValueError(f"layers are of several forms, allowed: one, every {period} layers")
        self.turns = len(layers) // period
        self.turn = nnx.List(
            [jax.tree.map(lambda *a: jnp.stack(a), *layers[i::period]) for i in range(period)]
        )

    def __len__(self) -> int:
        return self.turns * len(self.turn)

    def __getitem__(self, i: int) -> PyTree:
        """Layer i; a copy, so that what is written to it changes nothing here."""
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        at, part = divmod(i % len(self), len(self.turn))
        return jax.tree.map(lambda a: a[at], self.turn[part])

    def __iter__(self) -> Iterator[PyTree]:
        return (self[i] for i in range(len(self)))


def unstack(model: M) -> M:
    """A copy whose transformers have a list of blocks, as with `scan` = False; it computes the same."""
    copy: Any = nnx.clone(model)
    for _, module in list(nnx.iter_modules(copy)):
        for name, child in list(vars(module).items()):
            if isinstance(child, Stacked):
                setattr(module, name, nnx.List(list(child)))
    return copy


def stack(model: M) -> M:
    """Undoes `unstack`: a copy whose transformers with `scan` have their blocks stacked.

    Blocks that differ in form, since some have adapters and others none, stay a list.
    """
    copy: Any = nnx.clone(model)
    for _, module in list(nnx.iter_modules(copy)):
        config, blocks = getattr(module, "config", None), getattr(module, "blocks", None)
        if not (isinstance(config, TransformerConfig) and isinstance(blocks, nnx.List)):
            continue
        if config.scan and _alike(blocks, config.period):
            module.blocks = Stacked(list(blocks), config.period)  # type: ignore[attr-defined]
    return copy


def _alike(layers: Sequence[PyTree], period: int) -> bool:
    """Whether layers that are `period` apart have the same structure and shapes."""
    forms = [(jax.tree.structure(m), [a.shape for a in jax.tree.leaves(m)]) for m in layers]
    return forms[period:] == forms[:-period]
