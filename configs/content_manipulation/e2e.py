"""E2E restaurants (Lin et al., 2020): records of strings, whose content is values alone.

    JAXGEN_DATA=DIR python -m experiments.content_manipulation --config=configs/content_manipulation/e2e.py \
        --workdir=runs/content_e2e

DIR holds `e2e_style` with folders train, val and test of parallel files. No run of it is measured yet.
"""

from configs.content_manipulation import nba
from jaxgen.config import Config


def get_config() -> Config:
    config = nba.get_config()
    config.systems = ("full", "no_coverage")
    config.data.update(path="$JAXGEN_DATA/e2e_style", content="values")
    return config
