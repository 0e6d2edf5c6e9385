"""EDDPM on antimicrobial peptides that modlamp ships (extra `data`); value 1 is an active peptide."""

from configs.eddpm import grammar
from jaxgen.config import Config


def get_config() -> Config:
    config = grammar.get_config()
    config.systems = ("eddpm", "two_stage", "vae", "lm")
    config.data.kind = "proteins"
    config.data.source = "AMPvsUniProt"  # csv, or a set of modlamp
    config.data.text_field = ""  # of a csv: the first column
    config.data.label_field = ""  # the second
    config.data.test_fraction = 0.2
    config.data.limit = 0

    config.model.latent_dim = 30
    config.model.latent_norm = "none"  # see yelp.py
    config.model.encoder_width = 64
    config.model.encoder_depth = 1
    config.model.decoder = "non_autoregressive"
    config.model.decoder_width = 64
    config.model.decoder_depth = 1
    config.model.pad_weight = 0.8
    config.model.regressor_weight = 1.0
    config.schedule.kind = "constant"
    config.schedule.beta_max = 0.008
    config.eddpm.diffusion_weight = 0.03
    config.eddpm.num_t = 4
    config.vae.betas = (0.1,)
    config.vae.free_bits = 0.0

    config.train.learning_rate = 3e-3

    config.judge.width = 64
    config.judge.test_rows = 1000
    return config
