"""EDDPM and its baselines on Yelp sentences, from scratch on two cores.

The files are those of Shen et al. (2017): tokenised, lower case, negative (.0) and positive (.1). The
test files serve as training text and the dev files for evaluation.
"""

from configs.eddpm import grammar
from jaxgen.config import Config
from jaxgen.data import text


def get_config() -> Config:
    config = grammar.get_config()
    config.data.source = "files"
    config.data.path = str(text.data_root() / "yelp")
    config.data.train = ("sentiment.test.0", "sentiment.test.1")
    config.data.test = ("sentiment.dev.0", "sentiment.dev.1")
    config.data.valid_fraction = 0.02
    config.data.limit = 0
    config.data.max_tokens = 18
    config.data.tokenizer = "bpe"
    config.data.vocab_size = 4000

    config.model.latent_dim = 64
    # Standardised latents learn far more slowly here: every dimension is filled by the first features
    # that are found (length, punctuation), and later ones have to displace them.
    config.model.latent_norm = "none"
    config.model.encoder_depth = 1
    config.model.decoder_depth = 1
    config.eddpm.diffusion_weight = 0.01
    config.eddpm.num_t = 4
    config.vae.betas = (1.0,)
    config.vae.anneal_steps = 1000

    config.train.steps = 2000
    config.train.learning_rate = 3e-3
    config.train.save_every = 1000
    config.judge.width = 128
    config.judge.steps = 2000
    config.judge.reverse_steps = 400
    config.judge.test_rows = 2000
    config.sample.count = 5000
    return config
