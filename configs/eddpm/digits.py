"""EDDPM and its baselines on scikit-learn's digits (1,797 real images).

    python -m experiments.eddpm --config=configs/eddpm/digits.py --workdir=runs/eddpm

About six minutes on two CPU cores. Expected of EDDPM over three seeds (`--config.seeds=3`):
reconstruction MSE 0.00124 ± 0.00007, Fréchet distance to test 0.502 ± 0.080, linear probe 0.971. This
was measured before a run's key came from its name and seed: the same command draws other numbers now.
"""

from configs import base
from jaxgen.config import Config


def get_config() -> Config:
    return base.config(
        systems=("eddpm", "two_stage", "vae", "ddpm"),
        data=base.section(
            kind="images",
            source="digits",  # digits, idx, folder, tfds, hf
            name="",
            path="",
            size=8,
            channels=1,
            valid_fraction=0.1,
            test_fraction=0.2,
            limit=0,
        ),
        model=base.section(
            latent_dim=32,
            latent_norm="running",  # none, running: standardised latents
            width=16,
            blocks=1,
            denoiser_width=320,
            denoiser_depth=4,
            decoder="gaussian",  # gaussian, bernoulli, diffusion
            decoder_std=0.05,
            dtype="float32",  # float32, bfloat16: of the computation
        ),
        schedule=base.schedule(),
        eddpm=base.eddpm(),
        vae=base.vae(),
        two_stage=base.two_stage(),
        ddpm=base.section(
            multipliers=(1, 5),  # of the U-Net's width; the width follows from the parameters
        ),
        train=base.train(steps=1500, batch_size=64, learning_rate=3e-3),
        classifier=base.section(  # its features carry the Frechet distance
            width=16,
            features=32,
            steps=400,
            learning_rate=1e-3,
            noise=0.1,  # std, added to its training images
            label_smoothing=0.1,
            probe_rows=10_000,  # train images at most, that linear probe and neighbours see
            test_rows=10_000,  # test images at most, that are reconstructed and probed
        ),
        sample=base.sample(count=1536),
    )
