"""DTS-Gate and its peers on 12 MB of five domains, each token seen 0.24 times.

    python -m experiments.dts_gate --config=configs/moe/dts_domains.py --workdir=runs/dts --config.seeds=3

Reviews, plays, English and German captions (under `$JAXGEN_DATA`) and the standard library's code. Minutes a
method and seed on one CPU core, seconds on a GPU.
"""

from configs.moe import dts
from jaxgen.config import Config
from jaxgen.data import text


def get_config() -> Config:
    config = dts.get_config()
    config.methods = (
        *("hash", "switch", "switch_capacity", "dts", "dts_reference", "loss_free", "relu"),
        "dense",
    )
    config.data.update(
        source="domains",
        path=str(text.data_root()),
        files=(
            "yelp/sentiment.test.*",
            "shakespeare/input.txt",
            "multi30k/train.en.gz",
            "multi30k/train.de.gz",
            "python:",
        ),
        valid_fraction=0.03,
        test_fraction=0.02,
        vocab_size=2000,
        max_megabytes=4.0,
    )
    config.dts.update(
        decay_steps=500, budgets=((0, 8), (150, 4), (300, 2), (500, 1)), shared_steps=100
    )
    config.reference.update(hard_at=500, decay_steps=500)
    # The published start and factor suit tens of thousands of steps; here they would overshoot, and experts die.
    config.relu.update(coefficient=1e-4, factor=1.05, caps=((0, 8), (300, 4)))
    config.train.update(steps=1000, save_every=1000, log_every=50, eval_every=50, eval_windows=128)
    return config
