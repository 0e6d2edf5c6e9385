"""MNIST under a pose that is asked for, by its own files, 500 pairs to train on.

    python -m experiments.constraints --config=configs/constraints/mnist.py --workdir=runs/constraints_mnist

Data: the four files of MNIST in $JAXGEN_DATA/mnist, or --config.data.path=DIR. `--config.data.pairs=2000` takes more pairs.
"""

from configs import base
from configs.constraints import digits
from jaxgen.config import Config
from jaxgen.data import text


def get_config() -> Config:
    config = digits.get_config()
    config.data.update(
        source="idx",
        path=str(text.data_root() / "mnist"),
        size=0,
        pairs=500,
        knowledge=1000,
        judges=2000,
        test=500,
        poses=4,
    )
    config.train = base.train(
        **{**config.train.to_dict(), "steps": 600, "save_every": 300},
    )
    config.judge.steps = 1000
    return config
