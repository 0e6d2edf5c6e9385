"""RotoWire sentences (Wang et al., 2019) of at most 32 words, at a size for one CPU core.

    python -m experiments.content_manipulation --config=configs/content_manipulation/nba.py --workdir=runs/content_nba

JAXGEN_DATA names the folder that holds `rotowire_style`, with folders train, val and test of parallel files.
Measured of `marked`, three seeds: content precision and recall 75.1, 69.9 at m-BLEU 91.2, of the rules 64.9, 68.2 at
99.9; about twelve minutes of a CPU core a system. `full` does better under a schedule like the paper's,
--config.loss.style_weight=0.8 and --config.loss.pure=800. MAST and AdvST take half an hour each.
"""

from configs.content_manipulation import grammar
from jaxgen.config import Config


def get_config() -> Config:
    config = grammar.get_config()
    config.systems = ("full", "no_coverage", "marked")
    config.data.update(
        source="parallel",
        path="$JAXGEN_DATA/rotowire_style",
        limit=0,
        valid_rows=200,
        test_rows=1000,
        max_tuples=10,
        max_words=32,
    )
    config.loss.update(style_weight=0.95, pure=1600, ramp=400)
    config.train.update(steps=2400, warmup=100, save_every=400)
    config.evaluate.every = 400
    return config
