"""Data sources and input pipelines."""

from typing import TYPE_CHECKING

from jaxgen import _lazy

if TYPE_CHECKING:
    from jaxgen.data import (
        cipher,
        corpora,
        domains,
        idx,
        images,
        kept,
        labels,
        language_model,
        lines,
        pipeline,
        pixels,
        posed,
        proteins,
        record_arrays,
        record_grammar,
        records,
        splits,
        style_records,
        tables,
        text,
        tokens,
        translation,
    )

__getattr__, __dir__, __all__ = _lazy.attach(__name__)
