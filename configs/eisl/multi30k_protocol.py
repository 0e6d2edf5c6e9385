"""The authors' protocol on Multi30k: noisy starts, weights chosen on clean valid, all noises, three seeds.

python -m experiments.eisl --config=configs/eisl/multi30k_protocol.py --workdir=runs/eisl_protocol

Meant for a GPU; it was not run yet. One cell: --config.noise.kinds and --config.noise.levels, in a workdir of its own.
"""

from configs.eisl import invented_protocol, multi30k
from jaxgen.config import Config


def get_config() -> Config:
    config = invented_protocol.protocol(multi30k.get_config())
    config.seeds = 3
    config.data.train_tokens = 32  # repetition lengthens targets, which are cut there
    config.model.width = 256
    config.train.update(steps=3000, batch_size=128)
    config.finetune.update(steps=600, learning_rate=5e-3)
    config.selection.update(start_every=500, every=100, rows=500)
    return config
