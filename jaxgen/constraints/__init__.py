"""Learnable knowledge constraints: posterior regularisation of any generative model."""

from typing import TYPE_CHECKING

from jaxgen import _lazy

if TYPE_CHECKING:
    from jaxgen.constraints import infill, parts, posterior, steps
    from jaxgen.constraints.infill import PointerMatch
    from jaxgen.constraints.parts import PartAgreement

__getattr__, __dir__, __all__ = _lazy.attach(__name__)
