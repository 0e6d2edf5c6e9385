"""Backbones as flax.nnx modules. Modules are pytrees: pass them to jit, grad and vmap directly."""

from typing import TYPE_CHECKING

from jaxgen import _lazy

if TYPE_CHECKING:
    from jaxgen.nn import (
        batch_renorm,
        conv,
        copy_attention,
        mlp,
        prepack,
        stacked,
        textcnn,
        transformer,
        unet,
    )
    from jaxgen.nn.transformer_config import TransformerConfig

__getattr__, __dir__, __all__ = _lazy.attach(__name__)
