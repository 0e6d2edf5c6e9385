"""Text: tokenizers, decoding, noise, and draws of tokens that gradients pass."""

from typing import TYPE_CHECKING

from jaxgen import _lazy

if TYPE_CHECKING:
    from jaxgen.text import (
        blanks,
        copy_limits,
        decoding,
        gguf,
        gumbel_softmax,
        masking,
        merges,
        noise,
        rewind,
        templates,
        tense,
        tokenizers,
    )

__getattr__, __dir__, __all__ = _lazy.attach(__name__)
