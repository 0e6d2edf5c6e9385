"""Learnable knowledge constraints: posterior regularisation of any generative model."""

from typing import TYPE_CHECKING

from jaxgen import _lazy

if TYPE_CHECKING:
    from jaxgen.constraints import posterior, steps

__getattr__, __dir__, __all__ = _lazy.attach(__name__)
