"""EDDPM on antibody CDR3 sequences with measured enrichment: d = 30, constant beta, joint regressor."""

from configs.eddpm import peptides
from jaxgen.config import Config
from jaxgen.data import text


def get_config() -> Config:
    config = peptides.get_config()
    config.data.source = "csv"
    config.data.path = str(text.data_root() / "antibody")
    config.data.train = ("train.csv",)
    config.data.test = ("test.csv",)
    config.data.text_field = "CDR3"
    config.data.label_field = "enrichment"

    config.train.steps = 2000
    config.judge.reverse_steps = 300
    config.judge.test_rows = 4000
    config.judge.probe_rows = 20_000
    config.sample.count = 4000
    return config
