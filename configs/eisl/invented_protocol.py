"""The authors' protocol on the invented language: noisy starts, weights chosen on clean valid, all noises.

python -m experiments.eisl --config=configs/eisl/invented_protocol.py --workdir=runs/eisl_invented_protocol
"""

from configs.eisl import invented
from jaxgen.config import Config


def protocol(config: Config) -> Config:
    """What is the authors' in a config, whatever its data: start, choice, losses, kinds and levels of noise."""
    config.losses = ("ce", "best_of", "eisl12", "eisl", "pg")
    config.noise.update(
        kinds=("shuffle", "repetition", "blank", "combined"),
        levels=(0.1, 0.2, 0.3, 0.5),
        start="noisy",
    )
    return config


def get_config() -> Config:
    config = protocol(invented.get_config())
    config.train.steps = 600
    config.finetune.update(steps=200, learning_rate=1e-2)
    config.selection.update(start_every=100, every=40, rows=200)
    return config
