"""DTS-Gate on Shakespeare's plays."""

from configs.moe import dts
from jaxgen.config import Config
from jaxgen.data import text


def get_config() -> Config:
    config = dts.get_config()
    config.data.source = "files"
    config.data.path = str(text.data_root() / "shakespeare")
    config.data.files = ("input.txt",)
    config.data.vocab_size = 1000
    config.dts.decay_steps = 1000
    config.dts.budgets = ((0, 8), (300, 4), (600, 2), (1000, 1))
    config.dts.shared_steps = 200
    config.train.steps = 2000
    config.train.save_every = 1000
    return config
