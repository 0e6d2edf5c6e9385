"""Sentiment of Yelp sentences of up to nine words.

    python -m experiments.lm_discriminator --config=configs/lm_discriminator/yelp.py --workdir=runs/lm_yelp

Half of the training sentences are for judges alone. Measured, three seeds: accuracy 0.873 +- 0.012 of language models and
classifier together, 0.867 +- 0.012 of the classifier, 0.634 +- 0.038 of the language models; perplexity of negative texts 66, 124, 72;
nine minutes of one CPU core a system. The other systems were not run. Systems `classifier_ce`,
`classifier_eisl`, `parallel_ce` and `parallel_eisl` keep the content by a loss in place of the way back.
"""

from configs import base
from configs.lm_discriminator import decipher
from jaxgen.config import Config


def get_config() -> Config:
    config = decipher.get_config()
    yelp = base.yelp_data()
    config.task = "sentiment"
    config.data.update(
        source="files",
        path=yelp.path,
        train=yelp.train,
        test=yelp.test,
        limit=0,
        max_words=9,
        vocab_size=2000,
        valid_rows=250,
        test_rows=1000,
        max_tokens=12,
    )
    config.lm.update(steps=2000)
    config.classifier.update(steps=1000)
    config.autoencoder.update(steps=1000)
    config.train.update(steps=1500, save_every=750)
    config.transfer.update(decay_steps=1500)
    return config
