"""EISL on Multi30k, German to English: three kinds of noise at four levels."""

from configs.eisl import invented
from jaxgen.config import Config
from jaxgen.data import text


def get_config() -> Config:
    config = invented.get_config()
    config.data.source = "files"
    config.data.path = str(text.data_root() / "multi30k")
    config.data.train = ("train.de.gz", "train.en.gz")
    config.data.valid = ("val.de.gz", "val.en.gz")
    config.data.test = ("test_2016_flickr.de.gz", "test_2016_flickr.en.gz")
    config.data.limit = 0
    config.data.vocab_size = 4000
    config.data.max_tokens = 40
    config.data.train_tokens = 26
    config.model.width = 192
    config.model.depth = 2
    config.noise.levels = (0.0, 0.2, 0.4, 0.6)
    config.noise.kinds = ("shuffle", "repetition", "blank")
    config.noise.start = "clean"
    config.finetune.steps = 200
    config.train.steps = 6000
    config.train.save_every = 1000
    return config
