"""Fields of a config of the study on text or proteins."""

from experiments.common import fields, text_fields
from jaxgen import config as config_lib
from jaxgen.config import Config

SYSTEMS = ("eddpm", "two_stage", "vae", "lm")
NAMES = {
    **text_fields.NAMES,
    "": "seed seeds systems",
    **fields.LATENT_NAMES,
    "vae": "betas anneal_steps free_bits",
    "two_stage": "beta",
    "ascent": "count stages steps rate penalty keep noise width depth train_steps batch_size "
    "learning_rate",
}


def check(config: Config) -> None:
    """Raises ConfigError for fields that cannot be, or not together."""
    rules = {**text_fields.RULES, "systems": config_lib.some_of(*SYSTEMS)}
    config_lib.check_fields(config, NAMES, rules)
    text_fields.check_sequences(config)
