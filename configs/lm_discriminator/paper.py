"""Translation between related languages (Yang et al., 2018, section 5.3), at the paper's sizes; the files are yours.

    python -m experiments.lm_discriminator --config=configs/lm_discriminator/paper.py --workdir=runs/lm_related

JAXGEN_DATA names a folder with `related/{train,test}.{bs,sr}`, Bosnian and Serbian in the paper: to train on, a sentence
a line and no pairs; to test on, line i of one is the translation of line i of the other. `--config.data.path`,
`--config.data.train` and `--config.data.test` name others. Never run: no such text is at hand.
"""

from configs import base
from configs.lm_discriminator import decipher
from jaxgen.config import Config


def get_config() -> Config:
    config = decipher.get_config()
    config.task = "related"
    config.systems = ("autoencoder", "classifier", "lm", "lm_learned", "lm_classifier", "lm_kl")
    config.data.update(
        source="files",
        path="$JAXGEN_DATA/related",
        train=("train.sr", "train.bs"),
        test=("test.sr", "test.bs"),
        limit=0,
        max_words=20,
        train_rows=200_000,
        valid_rows=500,
        test_rows=2000,
        vocab_size=30_000,
        max_tokens=21,
    )
    config.model.update(width=700, embedding=200, dropout=0.1)
    config.lm.update(width=512, depth=4, heads=8, steps=20_000, learning_rate=1e-3)
    config.classifier.update(width=200, steps=5000, learning_rate=1e-3)
    config.autoencoder.update(steps=20_000, learning_rate=1e-3)
    config.transfer.update(ramp=5000, decay_steps=20_000)
    config.train = base.train(
        steps=30_000,
        batch_size=64,
        learning_rate=5e-4,
        warmup=500,
        ema_decay=0.999,
        save_every=1000,
    )
    config.evaluate.every = 1000
    return config
