"""Images of the paper's size, 256 x 256, under a pose, for a TPU slice.

    python -m experiments.constraints --config=configs/constraints/paper.py --mode=compile

It was never trained.
"""

from configs import base
from configs.constraints import digits
from jaxgen.config import Config


def get_config() -> Config:
    config = digits.get_config()
    config.systems = ("base", "fixed", "learned")
    config.data.update(source="folder", size=240, canvas=256, pairs=100_000, test=10_000)
    config.model.update(width=64, noise_dim=32)
    config.constraint.update(width=64, steps=20_000, samples=4)
    config.train.update(steps=50_000, batch_size=256, learning_rate=2e-4, save_every=2000)
    config.mesh = base.mesh(topology="v5p:4x4x4")
    return config
