"""Digits under a pose by a diffusion: the last two steps of its DDIM sampler are the implicit model.

    python -m experiments.constraints --config=configs/constraints/diffusion.py --workdir=runs/constraints_diffusion

Constraint, steps and judges are those of the generator (`digits.py`); the model's own loss is DDPM's.
"""

from configs.constraints import digits
from jaxgen.config import Config


def get_config() -> Config:
    config = digits.get_config()
    config.systems = ("base", "best_of_k", "fixed", "learned")
    config.model.update(kind="diffusion", decode_steps=8, gradient_steps=2)
    config.start.update(steps=2000, learning_rate=2e-3)
    config.train.update(steps=200, batch_size=4, learning_rate=5e-4)
    return config
