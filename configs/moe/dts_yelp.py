"""DTS-Gate on Yelp sentences, with the schedule of `dts_shakespeare.py`.

    python -m experiments.dts_gate --config=configs/moe/dts_yelp.py --workdir=runs/dts_yelp

No table of ours has its numbers.
"""

from configs.moe import dts
from jaxgen.config import Config
from jaxgen.data import text


def get_config() -> Config:
    config = dts.get_config()
    config.data.update(
        source="files",
        path=str(text.data_root() / "yelp"),
        files=("sentiment.test.0", "sentiment.test.1"),
        vocab_size=2000,
        valid_fraction=0.01,
        test_fraction=0.01,
    )
    config.dts.update(
        decay_steps=1000,
        budgets=((0, 8), (300, 4), (600, 2), (1000, 1)),
        shared_steps=200,
    )
    config.train.update(steps=2000, save_every=1000)
    return config
