"""Trained judges: of text, images and proteins. None of them steers or sees what it judges."""

from typing import TYPE_CHECKING

from jaxgen import _lazy

if TYPE_CHECKING:
    from jaxgen.evaluators import (
        attributes,
        common,
        controlled_text,
        image_classifier,
        language_model,
        pretrained_lm,
        protein_regressor,
        record_extractor,
        vader,
    )
    from jaxgen.evaluators.attributes import AttributeClassifier
    from jaxgen.evaluators.common import batched_apply, decode, encode
    from jaxgen.evaluators.controlled_text import ControlledText
    from jaxgen.evaluators.image_classifier import ImageClassifier
    from jaxgen.evaluators.language_model import LanguageModel
    from jaxgen.evaluators.pretrained_lm import PretrainedLM
    from jaxgen.evaluators.protein_regressor import ProteinRegressor
    from jaxgen.evaluators.record_extractor import RecordExtractor

__getattr__, __dir__, __all__ = _lazy.attach(__name__)
