"""FlexMoE with a vision transformer (V-MoE) on scikit-learn's digits, on 8 forced host devices."""

from configs.moe import flexmoe
from jaxgen.config import Config


def get_config() -> Config:
    config = flexmoe.get_config()
    config.task = "images"
    config.train.batch_size = 64
    config.train.learning_rate = 3e-3
    return config
