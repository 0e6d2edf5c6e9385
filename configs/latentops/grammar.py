"""LatentOps on the grammar corpus, whose labels are exact: minutes on two cores."""

from configs.eddpm import grammar
from jaxgen.config import Config


def get_config() -> Config:
    config = grammar.get_config()
    del config.systems, config.two_stage, config.ascent
    config.spaces = ("vae", "eddpm")
    config.model.latent_dim = 64
    config.model.latent_norm = "none"
    config.model.encoder_depth = 1
    config.model.decoder_depth = 1
    config.eddpm.diffusion_weight = 0.01
    config.eddpm.num_t = 4

    config.vae = Config()
    config.vae.beta = 0.1
    config.vae.free_bits = 0.1
    config.vae.cycles = 4
    config.vae.token_deletion_rate = (
        0.0  # share of the encoder's tokens that are left out in training
    )
    config.train.steps = 2500
    config.train.learning_rate = 3e-3

    config.prior = Config()
    config.prior.kind = "gan"  # of the VAE: gan, gaussian; EDDPM draws from its own diffusion
    config.prior.gan_steps = 2000

    config.operators = Config()
    config.operators.attributes = ("sentiment", "tense", "formality")
    config.operators.width = 128
    config.operators.depth = 2
    config.operators.noise = 0.6  # on latents of unit variance
    config.operators.keywords = 20  # words that the keyword operator knows; 0 for none
    config.operators.steps = 1500
    config.operators.learning_rate = 1e-3

    config.ode = Config()
    config.ode.rtol = 1e-3
    config.ode.atol = 1e-3
    config.ode.max_steps = 512

    config.sgld = Config()
    config.sgld.steps = 100
    config.sgld.rate = 0.05
    config.sgld.noise = 1.0
    config.sgld.edit_steps = 20  # few and with little noise, so that edits keep something
    config.sgld.edit_noise = 0.1

    config.predictor_corrector = Config()
    config.predictor_corrector.steps = 100
    config.predictor_corrector.snr = 0.1
    config.predictor_corrector.edit_steps = 20
    config.predictor_corrector.t_edit = 0.1  # edits start here, so that they keep something

    config.evaluate = Config()
    config.evaluate.count = 400  # test sentences, and as many generated ones
    config.evaluate.tune_count = 400  # valid sentences, on which guidance_strength are chosen
    config.evaluate.combinations = (
        ("sentiment",),
        ("sentiment", "tense"),
        ("sentiment", "tense", "formality"),
    )

    config.edit = Config()  # of --mode=edit and --mode=generate; "" leaves an attribute alone
    config.edit.text = ""
    config.edit.sentiment = ""  # a label's name or number
    config.edit.tense = ""
    config.edit.formality = ""
    config.edit.person = ""
    config.edit.keywords = ""  # words apart by spaces
    config.edit.strength = 1.0
    config.edit.count = 10
    return config
