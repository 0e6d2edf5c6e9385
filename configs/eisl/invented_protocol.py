"""The authors' protocol on the invented language: noisy starts, weights chosen on clean valid, all noises.

    python -m experiments.eisl --config=configs/eisl/invented_protocol.py --workdir=runs/eisl_invented_protocol

A few minutes a cell on a CPU core. Expected BLEU, one seed, of cross-entropy, best of four and EISL
{1, 2}: shuffle 0.5 30.0, 9.6, 43.6; repetition 0.5 48.4, 43.2, 55.8; blank 0.5 0.4, 20.9, 29.4; combined 0.2
15.4, 9.1, 20.8.
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
