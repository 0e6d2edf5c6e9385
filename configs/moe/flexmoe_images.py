"""FlexMoE with a vision transformer (V-MoE) on scikit-learn's digits, on 8 forced host devices.

    python -m experiments.flexmoe --config=configs/moe/flexmoe_images.py --workdir=runs/flexmoe_images

Expected modelled steps: 46.9 ms with FlexMoE, 51.9 with the EPLB-like policy, 55.1 with shadowing. This was
measured before a run's key came from its name and seed: the same command draws other numbers now.
"""

from configs.moe import flexmoe
from jaxgen.config import Config


def get_config() -> Config:
    config = flexmoe.get_config()
    config.task = "images"
    config.train.update(batch_size=64, learning_rate=3e-3)
    return config
