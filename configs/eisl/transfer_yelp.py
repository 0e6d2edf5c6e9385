"""Style transfer on Yelp sentences of up to nine words: sentiment from the files."""

from configs.eisl import transfer
from configs.latentops import yelp
from jaxgen.config import Config


def get_config() -> Config:
    config = transfer.get_config()
    base = yelp.get_config()
    config.data, config.judge = base.data, base.judge
    config.train.steps = 2500
    return config
