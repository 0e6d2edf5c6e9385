"""Decipherment of Yelp sentences of the 500 most frequent words, 40 % of them enciphered.

    python -m experiments.lm_discriminator --config=configs/lm_discriminator/decipher_yelp.py --workdir=runs/decipher_yelp

Measured with 800 steps, three seeds: BLEU 57.0 +- 7.9 of the language models, 39.5 +- 6.4 of the classifier, copying 32.1, frequency
matching 67.5, hill climbing 97.9; the other systems are in docs/methods/lm_discriminator.md. Three minutes of one CPU core a system.
With 3,000 steps the language models come to 58.3 +- 7.5, level from 1,200 on; these 2,000 take seven minutes.
`--config.data.share=1.0` enciphers all words, `--config.data.words=1000` takes more of them; `--config.seeds=3`.
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
    config.train.steps = 2000
    config.evaluate.every = 200
    return config
