"""The authors' protocol on the invented language: noisy starts, weights chosen on clean valid, all noises.

    python -m experiments.eisl --config=configs/eisl/invented_protocol.py --workdir=runs/eisl_invented_protocol

A few minutes a cell and seed on a CPU core. Expected BLEU, three seeds, of cross-entropy, best of four and
EISL {1, 2}: shuffle 0.5 28.7, 7.9, 39.7; repetition 0.5 47.2, 40.0, 56.9; blank 0.5 0.5, 10.3, 21.4; combined
0.2 15.7, 7.2, 19.6.
"""

from configs.eisl import invented
from jaxgen.config import Config


def get_config() -> Config:
    config = invented.get_config()
    config.losses = ("ce", "best_of", "eisl12", "eisl", "pg")
    config.noise.update(
        kinds=("shuffle", "repetition", "blank", "combined"),
        levels=(0.1, 0.2, 0.3, 0.5),
        start="noisy",
    )
    config.data.update(limit=2500, vocab_size=400)
    config.model.update(width=64, depth=1, heads=2)
    config.train.update(steps=300, batch_size=32)
    config.finetune.update(steps=160, learning_rate=1e-2)
    config.selection.update(start_every=50, every=40)
    return config
