"""Judges of text that was moved to other attributes: accuracy, fluency, and what was kept."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxgen.data.tokens import TextSplit, TokenIds
from jaxgen.evaluators import vader
from jaxgen.evaluators.attributes import AttributeClassifier
from jaxgen.evaluators.common import geometric_mean
from jaxgen.evaluators.language_model import LanguageModel
from jaxgen.evaluators.pretrained_lm import PretrainedLM
from jaxgen.metrics import text as text_metrics


@dataclasses.dataclass(frozen=True)
class ControlledText:
    """The judge of attributes, that of fluency, and what they say of real test sentences."""

    attributes: AttributeClassifier
    language_model: LanguageModel
    encode: Callable[[Sequence[str]], Mapping[str, TokenIds]]
    real_ppl: float
    real_self_bleu: float
    pretrained_lm: PretrainedLM | None = None
    vader: bool = False

    @classmethod
    def of(
        cls,
        attributes: AttributeClassifier,
        language_model: LanguageModel,
        test: TextSplit,
        *,
        pretrained_lm: PretrainedLM | None = None,
        vader: bool = False,
    ) -> "ControlledText":
        """Args:
        test: real sentences.
        pretrained_lm: a further judge of fluency, see `further`.
        vader: VADER is a further judge of sentiment.
        """
        return cls(
            attributes,
            language_model,
            test.vocabulary.encode,
            language_model.perplexity(test.x["target"]),
            self_bleu(test.text),
            pretrained_lm,
            vader,
        )

    def accuracy(
        self, texts: Sequence[str], targets: Mapping[str, Int[np.ndarray, " N"]]
    ) -> Bool[np.ndarray, " N"]:
        """Whether each text has all the labels it should have."""
        found = self.attributes(texts)
        return np.all([found[name] == np.asarray(label) for name, label in targets.items()], 0)

    def perplexity(self, texts: Sequence[str]) -> float:
        """Of a token, under the language model of real sentences."""
        return self.language_model.perplexity(self.encode(texts)["target"])

    def features(self, texts: Sequence[str]) -> Float[np.ndarray, "N F"]:
        """For `metrics.mauve`: of the pretrained language model, or else of that of the train split."""
        if self.pretrained_lm is not None:
            return self.pretrained_lm.features(texts)
        return self.language_model.features(self.encode(texts)["target"])

    def further(
        self, texts: Sequence[str], targets: Mapping[str, Int[np.ndarray, " N"]]
    ) -> dict[str, float]:
        """What judges say that had no part in any choice: of fluency, and of sentiment where it is a target."""
        out = {}
        if self.pretrained_lm is not None:
            out["pretrained_ppl"] = self.pretrained_lm.perplexity(texts)
        if self.vader and "sentiment" in targets:
            out["vader_accuracy"] = vader.accuracy(texts, targets["sentiment"])
        return out

    def mean(self, accuracy: float, ppl: float, kept: float) -> float:
        """Geometric mean of accuracy, fluency min(1, PPL of real / PPL) and a share of what is kept."""
        return geometric_mean(accuracy, min(1.0, self.real_ppl / ppl), kept)


def self_bleu(texts: Sequence[str]) -> float:
    """Of 100 of the texts, against 200 others."""
    return text_metrics.self_bleu(texts, count=100, references=200)
