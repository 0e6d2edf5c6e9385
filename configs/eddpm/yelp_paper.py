"""The paper's text model: a BERT-small encoder and a GPT-2 decoder, here of XL shape, for a TPU slice.

Put the folders of pretrained weights into `model.encoder_path` and `model.decoder_path`; without them
both are trained from scratch.
"""

from configs.eddpm import yelp
from jaxgen.config import Config


def get_config() -> Config:
    config = yelp.get_config()
    config.systems = ("eddpm",)
    config.data.max_tokens = 64
    config.data.vocab_size = 50_257
    config.data.source_vocab_size = 30_522

    config.model.latent_dim = 128
    config.model.encoder_width = 512
    config.model.encoder_depth = 4
    config.model.encoder_heads = 8
    config.model.pre_norm = False
    config.model.decoder_width = 1600
    config.model.decoder_depth = 48
    config.model.decoder_heads = 25
    config.model.word_dropout = 0.0
    config.model.denoiser_width = 2048
    config.model.denoiser_depth = 10
    config.model.dropout = 0.1
    config.model.dtype = "bfloat16"
    config.model.remat = True
    config.model.scan = True

    config.eddpm.diffusion_weight = 8.0
    config.eddpm.num_t = 1
    config.train.steps = 70_000  # 20 epochs of the full training file
    config.train.batch_size = 128
    config.train.learning_rate = 5e-5
    config.train.save_every = 2000
    config.sample.count = 10_000

    config.mesh.data = -1
    config.mesh.fsdp = 32
    return config
