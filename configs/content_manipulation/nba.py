"""RotoWire sentences (Wang et al., 2019): short ones, at a size for one CPU core.

    python -m experiments.content_manipulation --config=configs/content_manipulation/nba.py --workdir=runs/content_nba

JAXGEN_DATA names the folder that holds `rotowire_style`, with folders train, val and test of parallel files.
Measured of the full model, one seed: content precision and recall 73.0, 73.4 at m-BLEU 81.8, of the rules 67.6, 74.6 at 99.8;
about half an hour of a shared CPU core. MAST and AdvST were not run.
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
    config.train.update(steps=2400, learning_rate=1e-3, warmup=100, save_every=400)
    config.evaluate.every = 400
    return config
