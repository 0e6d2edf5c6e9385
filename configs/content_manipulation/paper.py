"""RotoWire at the paper's sizes: whole data, width 384, for accelerators.

    python -m experiments.content_manipulation --config=configs/content_manipulation/paper.py --mode=compile

It was never trained. Compiled for a v5p:4x4x4, 64 chips as data 16 x fsdp 4: 14.8 million parameters, 635 MiB a chip, of which
577 are temporary; 9.0e10 FLOPs of matrix products a step and chip.
"""

from configs import base
from configs.content_manipulation import grammar
from jaxgen.config import Config


def get_config() -> Config:
    config = grammar.get_config()
    config.systems = ("full", "no_coverage", "mast", "advst")
    config.data.update(
        source="parallel",
        path="$JAXGEN_DATA/rotowire_style",
        limit=0,
        valid_rows=1000,
        test_rows=6999,
        max_tuples=40,
        max_words=51,
        slots=32,
        vocab_size=5504,
        generated=4245,
        types=35,
    )
    config.model.update(width=384, depth=2, heads=8, coverage=128, dropout=0.1)
    config.loss.update(style_weight=0.8, pure=600, ramp=600)
    config.judge.update(width=256, steps=3000, learning_rate=1e-3)
    config.evaluate.update(every=1000)
    config.train.update(
        steps=12_000,
        batch_size=512,
        learning_rate=1e-3,
        warmup=600,
        ema_decay=0.999,
        save_every=1000,
    )
    config.mesh = base.mesh(topology="v5p:4x4x4", fsdp=4)
    return config
