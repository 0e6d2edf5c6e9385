"""Non-autoregressive Multi30k: cross-entropy and EISL for a decoder that writes all tokens at once.

    python -m experiments.eisl --config=configs/eisl/multi30k_non_autoregressive.py --workdir=runs/nat_multi30k --config.train.steps=2000

Expected BLEU of that command, one seed: 20.1 at the start, then 19.7 under cross-entropy and 22.0 under
EISL. This was measured before a run's key came from its name and seed, and before tokenizers were trained
deterministically: the same command draws other numbers now.
"""

from configs import base
from configs.eisl import invented
from jaxgen.config import Config


def get_config() -> Config:
    config = invented.get_config()
    config.losses = ("ce", "eisl")
    config.data.update(base.multi30k())
    config.model.update(width=192, non_autoregressive=True)
    config.noise.update(levels=(0.0,), start="clean")
    config.finetune.steps = 200
    config.train.steps = 6000
    return config
