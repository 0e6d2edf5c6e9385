"""Style transfer on Yelp sentences of up to nine words: sentiment from the files.

    python -m experiments.style_transfer --config=configs/style_transfer/yelp.py --workdir=runs/transfer_yelp

Expected geometric means, one seed, of content weights 0.3 and 1: 0.606 and 0.633 with cross-entropy,
0.595 and 0.623 with EISL. This was measured before a run's key came from its name and seed, and before
tokenizers were trained deterministically: the same command draws other numbers now.
"""

from configs import base
from configs.style_transfer import grammar
from jaxgen.config import Config


def get_config() -> Config:
    config = grammar.get_config()
    config.data = base.yelp_data(max_words=9, max_tokens=14)
    config.judge = base.judge(width=128, steps=2000, reverse_steps=400, test_rows=2000)
    config.transfer.content_weights = (0.3, 1.0)
    config.train.steps = 1500
    return config
