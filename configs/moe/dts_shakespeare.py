"""DTS-Gate on Shakespeare's plays.

    python -m experiments.dts_gate --config=configs/moe/dts_shakespeare.py --workdir=runs/dts --config.seeds=3

Switch's 2,000 steps take 128 seconds a seed. Expected validation perplexities: DTS 54.9 ± 2.0, Switch
47.6 ± 3.9, GShard 52.4 ± 1.7, hash 42.4 ± 1.5, dense 59.1 ± 2.5. This was measured before a run's key came
from its name and seed, and before tokenizers were trained deterministically: the same command draws other
numbers now.
"""

from configs.moe import dts
from jaxgen.config import Config
from jaxgen.data import text


def get_config() -> Config:
    config = dts.get_config()
    config.data.update(
        source="files",
        path=str(text.data_root() / "shakespeare"),
        files=("input.txt",),
        vocab_size=1000,
    )
    config.dts.update(
        decay_steps=1000,
        budgets=((0, 8), (300, 4), (600, 2), (1000, 1)),
        shared_steps=200,
    )
    config.train.update(steps=2000, save_every=1000)
    return config
