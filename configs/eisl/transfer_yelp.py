"""Style transfer on Yelp sentences of up to nine words: sentiment from the files."""

from configs.eddpm import yelp
from configs.eisl import transfer
from jaxgen.config import Config


def get_config() -> Config:
    config = transfer.get_config()
    base = yelp.get_config()
    config.data, config.judge = base.data, base.judge
    config.data.max_words = 9
    config.data.max_tokens = 14
    config.train.steps = 2500
    return config
