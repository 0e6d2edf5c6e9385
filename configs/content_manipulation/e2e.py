"""E2E restaurants (Lin et al., 2020): records of strings, whose content is values alone.

    python -m experiments.content_manipulation --config=configs/content_manipulation/e2e.py --workdir=runs/content_e2e

JAXGEN_DATA names the folder that holds `e2e_style`, with folders train, val and test of parallel files. Measured, one
seed: precision and recall of typed values 71.4, 52.9 at m-BLEU 77.9, with `marked` 76.1, 56.1 at 76.7, of the rules
55.1, 44.6; about ten minutes of a CPU core a system.
"""

from configs.content_manipulation import grammar
from jaxgen.config import Config


def get_config() -> Config:
    config = grammar.get_config()
    config.data.update(
        source="parallel",
        path="$JAXGEN_DATA/e2e_style",
        content="values",
        limit=0,
        test_rows=1000,
        max_tuples=8,
        max_words=24,
    )
    config.systems = ("full", "marked", "no_coverage")
    config.loss.update(pure=800, ramp=400)
    config.train.update(steps=2400, warmup=100, save_every=400)
    # Of greedy sentences; those of beams are nearer to the reference.
    config.evaluate.update(every=200, m_bleu=60.0)
    return config
