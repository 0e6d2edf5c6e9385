"""Style transfer on the grammar corpus, whose sentiment is read off exactly.

    python -m experiments.style_transfer --config=configs/style_transfer/grammar.py --workdir=runs/transfer

An hour on one CPU core. Expected, one seed: geometric means from 0.556 to 0.687 over the weights of
cross-entropy, 0.574 to 0.678 of EISL; no winner. This was measured before a run's key came from its name
and seed, and before tokenizers were trained deterministically: the same command draws other numbers now.
"""

from configs import base
from jaxgen.config import Config


def get_config() -> Config:
    return base.config(
        losses=("ce", "eisl"),
        data=base.text_data(),
        model=base.text_model(dropout=0.1),
        operators=base.section(attributes=("sentiment",)),
        transfer=base.section(
            content_weights=(0.1, 0.3, 1.0, 3.0),
            style_weight=1.0,
            temperature=1.0,
            ngrams=(1, 2),
        ),
        classifier=base.section(
            width=64,
            word_dropout=0.3,  # share of the words that it does not see in training
            steps=500,
            learning_rate=2e-3,
        ),
        train=base.train(steps=600, batch_size=64, learning_rate=2e-3, save_every=600),
        judge=base.judge(),
        evaluate=base.section(count=400),
    )
