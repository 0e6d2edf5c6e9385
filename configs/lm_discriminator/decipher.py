"""Decipherment of the bundled grammar, whose words are drawn by Zipf's law: runs anywhere.

    python -m experiments.lm_discriminator --config=configs/lm_discriminator/decipher.py --workdir=runs/decipher

A key for 48 of 120 words. Copying, frequency matching and hill climbing on the key stand beside the systems in the
report. Measured, one seed: BLEU 66.2 of the language models, 59.8 of the classifier, copying 18.2, frequency matching 61.3,
hill climbing 87.5; about three minutes of one CPU core a system. The other systems were not run.
"""

from configs import base
from jaxgen.config import Config


def get_config() -> Config:
    return base.config(
        task="decipher",  # decipher, sentiment, related
        systems=("autoencoder", "classifier", "critic", "lm", "lm_learned", "lm_classifier"),
        data=base.section(
            source="grammar",  # grammar, english, files
            path="",
            train=(),  # file names under path; of sentiment: negative, positive; of related: the languages
            test=(),  # of sentiment and related; of the latter, line by line
            limit=12_000,
            max_words=14,
            seed=0,  # of corpus, key and splits
            skew=0.7,  # of the grammar's words: exponent of Zipf's law
            words=120,  # the most frequent ones; sentences with others are left out
            share=0.4,  # of the words that are enciphered
            train_rows=5000,  # of each side
            valid_rows=250,
            test_rows=1000,
            tokenizer="word",
            vocab_size=4000,  # at most
            max_tokens=15,
        ),
        model=base.section(
            width=128,
            embedding=0,  # width of tokens; 0: as the states
            dropout=0.0,
            hide=0.1,  # share of words that the encoder does not see where it is to repeat
        ),
        lm=base.section(width=96, depth=2, heads=4, dropout=0.1, steps=600, learning_rate=3e-3),
        classifier=base.section(width=64, word_dropout=0.3, steps=300, learning_rate=2e-3),
        autoencoder=base.section(steps=500, learning_rate=3e-3),
        transfer=base.section(
            lm_weight=1.0,
            classifier_weight=0.5,
            critic_weight=0.5,
            cycle_weight=1.0,
            content_weight=1.0,  # of the systems that have a content loss in place of the way back
            ngrams=(1, 2),  # of EISL as content loss
            ramp=300,  # steps in which these three rise from 0
            gamma=0.1,  # of language models that learn
            start=1.0,  # temperature, falling linearly to `end` in `decay_steps` steps
            end=0.45,
            decay_steps=800,
        ),
        train=base.train(
            steps=800,
            batch_size=32,  # of each style
            learning_rate=1e-3,
            warmup=20,
            final=1.0,
            ema_decay=0.99,
            save_every=400,
        ),
        evaluate=base.section(every=100),
    )
