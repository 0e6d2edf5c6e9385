"""Templates of Yelp sentences of 6 to 15 words with up to three blanks.

    python -m experiments.constraints --config=configs/constraints/templates_yelp.py --workdir=runs/templates_yelp

Data: Yelp's sentences in $JAXGEN_DATA/yelp, or --config.data.path=DIR.
"""

from configs import base
from configs.constraints import templates
from jaxgen.config import Config


def get_config() -> Config:
    config = templates.get_config()
    yelp = base.yelp_data()
    config.data.update(
        source="files",
        path=yelp.path,
        train=(*yelp.train, *yelp.test),
        limit=0,
        max_words=15,
        most_blanks=3,
        test=1000,
        max_tokens=16,
    )
    config.model.width = 128
    config.start.update(steps=1500)
    config.constraint.update(steps=500)
    config.judge.update(steps=1500)
    config.train.steps = 600
    return config
