"""Style transfer on Yelp sentences of up to nine words: sentiment from the files."""

from configs.eisl import transfer
from configs.latentops import yelp
from jaxgen.config import Config


def get_config() -> Config:
    config = transfer.get_config()
    base = yelp.get_config()
    config.data, config.judge = base.data, base.judge
    config.transfer.content_weights = (0.3, 1.0)
    config.train.steps = 1500
    return config
