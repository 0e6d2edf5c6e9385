"""Adapting trained models: low-rank updates."""

from typing import TYPE_CHECKING

from jaxgen import _lazy

if TYPE_CHECKING:
    from jaxgen.peft import ewc, files, lora
    from jaxgen.peft.lora import LoRALinear

__getattr__, __dir__, __all__ = _lazy.attach(__name__)
