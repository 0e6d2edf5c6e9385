"""LatentOps on Yelp: sentiment from the files, tense by rules."""

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
    config.train.steps = 4000
    config.train.save_every = 2000
    config.operators.attributes = ("sentiment", "tense")
    config.operators.keywords = 40
    config.evaluate.combinations = (("sentiment",), ("sentiment", "tense"))
    return config
