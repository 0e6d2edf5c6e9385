"""LatentOps on Yelp sentences of up to nine words: sentiment from the files, tense by rules.

Short sentences, because a VAE that two cores train in minutes keeps their content and not that of
long ones.
"""

from configs.eddpm import yelp
from configs.latentops import grammar
from jaxgen.config import Config


def get_config() -> Config:
    config = grammar.get_config()
    base = yelp.get_config()
    config.data, config.model, config.eddpm, config.judge = (
        base.data,
        base.model,
        base.eddpm,
        base.judge,
    )
    config.spaces = ("vae",)
    config.data.max_words = 9
    config.data.max_tokens = 14
    # Leaves fewer gaps between sentences, at the price of some reconstruction.
    config.vae.token_deletion_rate = 0.2
    config.train.steps = 10_000
    config.train.save_every = 2500
    config.operators.attributes = ("sentiment", "tense")
    config.operators.keywords = 40
    config.evaluate.combinations = (("sentiment",), ("sentiment", "tense"))
    return config
