"""LatentOps on Yelp sentences of up to nine words: sentiment from the files, tense by rules.

    python -m experiments.latentops --config=configs/latentops/yelp.py --workdir=runs/latentops_yelp --config.seeds=3

Short sentences, because a VAE that two cores train in minutes keeps their content and not that of long
ones. Expected of the ODE, geometric mean: edit of sentiment 0.523 ± 0.005, of sentiment and tense
0.383 ± 0.014; generation 0.976 ± 0.008 and 0.906 ± 0.013. This was measured before a run's key came from
its name and seed, and before tokenizers were trained deterministically: the same command draws other
numbers now.
"""

from configs import base
from configs.latentops import grammar
from jaxgen.config import Config


def get_config() -> Config:
    config = grammar.get_config()
    config.spaces = ("vae",)
    config.data = base.yelp_data(max_words=9, max_tokens=14)
    # Leaves fewer gaps between sentences, at the price of some reconstruction.
    config.vae.token_deletion_rate = 0.2
    config.train.update(steps=10_000, save_every=2500)
    config.judge = base.judge(width=128, steps=2000, reverse_steps=400, test_rows=2000)
    config.operators.update(attributes=("sentiment", "tense"), keywords=40)
    config.evaluate.combinations = (("sentiment",), ("sentiment", "tense"))
    return config
