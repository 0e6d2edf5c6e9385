"""Sentiment of Yelp sentences: EISL or cross-entropy as what keeps the content, without a way back.

    python -m experiments.lm_discriminator --config=configs/lm_discriminator/yelp_content.py --workdir=runs/yelp_content

A classifier steers. Cross-entropy against the source punishes each word that changes at its place, EISL only n-grams that
occur nowhere. `--config.transfer.content_weight=0.3` moves along the trade-off.
"""

from configs.lm_discriminator import yelp
from jaxgen.config import Config


def get_config() -> Config:
    config = yelp.get_config()
    config.systems = ("classifier_ce", "classifier_eisl", "parallel_ce", "parallel_eisl")
    return config
