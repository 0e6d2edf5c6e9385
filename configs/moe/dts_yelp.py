"""DTS-Gate on Yelp sentences."""

from configs.moe import dts_shakespeare
from jaxgen.config import Config
from jaxgen.data import text


def get_config() -> Config:
    config = dts_shakespeare.get_config()
    config.data.path = str(text.data_root() / "yelp")
    config.data.files = ("sentiment.test.0", "sentiment.test.1")
    config.data.vocab_size = 2000
    config.data.valid_fraction = 0.01
    config.data.test_fraction = 0.01
    return config
