"""EDDPM on CelebA 64x64 for a TPU slice, with the paper's latent size and diffusion decoder.

    python -m experiments.eddpm --config=configs/eddpm/celeba64.py --mode=compile --config.mesh.topology=v5p:4x4x4

Compiles in about two and a half minutes on two CPU cores. Expected: 193,910,915 parameters, 1,357.8 MiB
and 1.419e+12 FLOPs a step on each of the 64 chips. It was never trained.
"""

from configs import base
from configs.eddpm import digits
from jaxgen.config import Config


def get_config() -> Config:
    config = digits.get_config()
    config.systems = ("eddpm",)
    config.data.update(source="tfds", name="celeb_a", size=64, channels=3, test_fraction=0.1)
    config.model.update(
        latent_dim=512,
        width=64,
        blocks=2,
        denoiser_width=2048,
        denoiser_depth=10,
        decoder="diffusion",
        dtype="bfloat16",
    )
    config.ddpm.multipliers = (1, 2, 4, 8)
    config.train = base.train(
        steps=500_000,
        batch_size=1024,
        learning_rate=1e-4,
        schedule="constant",
        warmup=5000,
        ema_decay=0.9999,
        save_every=5000,
        log_every=100,
    )
    config.classifier.update(steps=5000, width=64, features=128)
    config.sample.count = 10_000
    config.mesh = base.mesh(fsdp=8)
    return config
