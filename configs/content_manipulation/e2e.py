"""E2E restaurants (Lin et al., 2020): records of strings, whose content is values alone.

    python -m experiments.content_manipulation --config=configs/content_manipulation/e2e.py --workdir=runs/content_e2e

JAXGEN_DATA names the folder that holds `e2e_style`, with folders train, val and test of parallel files. No run of it is
measured yet.
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
    return config
