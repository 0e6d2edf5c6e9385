"""Decipherment of Yelp sentences of the 500 most frequent words, 40 % of them enciphered.

    python -m experiments.lm_discriminator --config=configs/lm_discriminator/decipher_yelp.py --workdir=runs/decipher_yelp

Measured, one seed, system `lm` alone: BLEU 49.3 (copying 32.1, frequency matching 67.5, hill climbing 97.9) in under four
minutes of one CPU core, readers and autoencoder included; so not yet above frequency matching, and no other system is
measured yet. `--config.data.share=1.0` enciphers all words, `--config.data.words=1000` takes more of them; `--config.seeds=3`.
"""

from configs import base
from configs.lm_discriminator import decipher
from jaxgen.config import Config


def get_config() -> Config:
    config = decipher.get_config()
    yelp = base.yelp_data()
    config.data.update(
        source="files",
        path=yelp.path,
        train=(*yelp.train, *yelp.test),
        limit=0,
        max_words=10,
        words=500,
        train_rows=20_000,
        valid_rows=500,
        test_rows=1000,
        max_tokens=11,
    )
    return config
