"""EDDPM on CelebA 64x64 for a TPU slice, with the paper's latent size and diffusion decoder."""

from configs.eddpm import digits
from jaxgen.config import Config


def get_config() -> Config:
    config = digits.get_config()
    config.systems = ("eddpm",)

    config.data.source = "tfds"
    config.data.name = "celeb_a"
    config.data.size = 64
    config.data.channels = 3
    config.data.test_fraction = 0.1

    config.model.latent_dim = 512
    config.model.width = 64
    config.model.blocks = 2
    config.model.denoiser_width = 2048
    config.model.denoiser_depth = 10
    config.model.decoder = "diffusion"
    config.ddpm.multipliers = (1, 2, 4, 8)
    config.model.dtype = "bfloat16"

    config.train.steps = 500_000
    config.train.batch_size = 1024
    config.train.learning_rate = 1e-4
    config.train.schedule = "constant"
    config.train.warmup = 5000
    config.train.ema_decay = 0.9999
    config.train.save_every = 5000
    config.train.log_every = 100
    config.classifier.steps = 5000
    config.classifier.width = 64
    config.classifier.features = 128
    config.sample.count = 10_000

    config.mesh.data = -1
    config.mesh.fsdp = 8
    return config
