"""EISL on an invented language that the project's grammar speaks: runs anywhere.

    python -m experiments.eisl --config=configs/eisl/invented.py --workdir=runs/eisl_invented "--config.noise.levels=(0.6,)"

Half an hour on two CPU cores with all levels of noise. Expected BLEU at 0.6, one seed: EISL 30.3 under
shuffling, 21.2 under repetition, 13.9 under blanks; cross-entropy 26.3, 27.2 and 2.47. This was measured
before a run's key came from its name and seed, and before tokenizers were trained deterministically: the
same command draws other numbers now.
"""

from configs import base
from jaxgen.config import Config


def get_config() -> Config:
    return base.config(
        losses=("ce", "smoothing", "pg", "eisl"),  # best_of, eisl12
        data=base.section(
            source="grammar",  # grammar, files
            path="",
            train=(),  # (source file, target file)
            valid=(),
            test=(),
            limit=6000,
            seed=0,
            tokenizer="bpe",
            vocab_size=800,
            max_tokens=24,
            train_tokens=0,  # longer pairs are not trained on; 0 keeps all
        ),
        model=base.section(
            width=96,
            depth=2,
            heads=4,
            dropout=0.1,
            dtype="float32",
            remat=False,
            scan=False,
            non_autoregressive=False,  # all target tokens at once, given their number
            length_weight=0.1,  # of the predicted number's cross-entropy
        ),
        noise=base.section(
            kinds=("shuffle", "repetition", "blank"),  # mix, combined
            levels=(0.0, 0.6),
            start="noisy",  # noisy: as the cell's targets; clean: one start for all cells
        ),
        smoothing=0.1,
        eisl=base.section(
            ngram_factor=1.0,
            ce_factor=0.0,
            ngrams=(1, 2, 3),
            weights=(),  # of the n-grams, all the same if none are given
            fused_bytes=0,  # above 0: no [B, T, V] logits, tiles of so many bytes
        ),
        train=base.train(
            steps=300, batch_size=64, optimizer="adafactor", learning_rate=5e-2, save_every=1000
        ),
        finetune=base.section(steps=150, learning_rate=2e-3),
        selection=base.section(  # the weights of the best BLEU on clean valid; 0: those of the last step
            start_every=0,  # steps of the start from one look to the next
            every=0,  # of what follows
            rows=0,  # valid pairs at most; 0: all
        ),
    )
