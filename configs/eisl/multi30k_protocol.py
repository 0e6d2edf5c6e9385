"""The authors' protocol on Multi30k: noisy starts, weights chosen on clean valid, all noises, three seeds.

    python -m experiments.eisl --config=configs/eisl/multi30k_protocol.py --workdir=runs/eisl_protocol

Meant for a GPU; it was not run yet. One cell: --config.noise.kinds and --config.noise.levels, in a workdir of its own.
"""

from configs import base
from configs.eisl import invented
from jaxgen.config import Config


def get_config() -> Config:
    config = invented.get_config()
    config.seeds = 3
    config.losses = ("ce", "best_of", "eisl12", "eisl", "pg")
    config.data.update(base.multi30k())
    config.data.train_tokens = 32  # repetition lengthens targets, which are cut there
    config.model.width = 256
    config.noise.update(  # as invented_protocol.py
        kinds=("shuffle", "repetition", "blank", "combined"),
        levels=(0.1, 0.2, 0.3, 0.5),
        start="noisy",
    )
    config.train.update(steps=3000, batch_size=128)
    config.finetune.update(steps=600, learning_rate=5e-3)
    config.selection.update(start_every=500, every=100, rows=500)
    return config
