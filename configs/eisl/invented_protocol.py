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
    config.data.update(limit=2500, vocab_size=400)
    config.model.update(width=64, depth=1, heads=2)
    config.train.update(steps=300, batch_size=32)
    config.finetune.update(steps=160, learning_rate=1e-2)
    config.selection.update(start_every=50, every=40)
    return config
