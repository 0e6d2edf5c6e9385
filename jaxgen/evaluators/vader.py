"""VADER as a judge of sentiment: a lexicon with rules, which no data of ours has trained.

Source: Hutto & Gilbert (2014), PyPI's `vaderSentiment`. It reads the sum of its words' scores, so it has an
opinion on about three of four review sentences; on the others it says 0.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from jaxgen.errors import ConfigError


def compound(texts: Sequence[str]) -> Float[np.ndarray, " N"]:
    """The score of each text, from -1 (negative) to 1; 0 where no word of it has one.

    Raises:
      ConfigError: the package is not installed.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as e:
        want = "False, or the package installed: pip install 'jaxgen[judges]'"
        raise ConfigError("judge.vader", True, want) from e
    score = SentimentIntensityAnalyzer().polarity_scores
    return np.array([score(t)["compound"] for t in texts], np.float64)


def accuracy(texts: Sequence[str], sentiment: Int[np.ndarray, " N"]) -> float:
    """Share of texts with the sign that they should have; a score of 0 is half right.

    Args:
      sentiment: 0 negative, 1 positive.
    """
    if not len(texts):
        return float("nan")
    right = np.sign(compound(texts)) * (2 * np.asarray(sentiment) - 1)
    return float(((right + 1) / 2).mean())
