"""Evaluation: pure functions on arrays, plus probes from scikit-learn."""

from typing import TYPE_CHECKING

from jaxgen import _lazy

if TYPE_CHECKING:
    from jaxgen.metrics import (
        box_score,
        choice,
        floors,
        frechet,
        images,
        mauve,
        probes,
        records,
        rouge,
        sentence_bleu,
        text,
    )

__getattr__, __dir__, __all__ = _lazy.attach(__name__)
