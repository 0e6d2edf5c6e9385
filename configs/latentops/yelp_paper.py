"""LatentOps on Yelp at the paper's size: BERT and GPT-2 from local folders, d = 64."""

from configs.eddpm import yelp_paper
from configs.latentops import yelp
from jaxgen.config import Config


def get_config() -> Config:
    config = yelp.get_config()
    base = yelp_paper.get_config()
    config.data, config.model, config.train, config.mesh = (
        base.data,
        base.model,
        base.train,
        base.mesh,
    )
    config.spaces = ("vae", "eddpm")
    config.model.latent_dim = 64
    config.model.decoder_width = 768
    config.model.decoder_depth = 12
    config.model.decoder_heads = 12
    config.mesh.fsdp = 1
    config.vae.beta = 1.0
    config.vae.free_bits = 0.9
    config.vae.cycles = 10
    config.prior.gan_steps = 20_000
    config.ode.rtol = 1e-5
    config.ode.atol = 1e-5
    return config
