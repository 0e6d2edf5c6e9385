"""EDDPM on antimicrobial peptides that modlamp ships (extra `data`); value 1 is an active peptide.

    python -m experiments.eddpm --config=configs/eddpm/peptides.py --workdir=runs/peptides

No table of ours has its numbers.
"""

from configs import base
from jaxgen.config import Config


def get_config() -> Config:
    return base.config(
        systems=("eddpm", "two_stage", "vae", "lm"),
        data=base.text_data(
            kind="proteins",
            source="AMPvsUniProt",
            text_field="",
            label_field="",
            test_fraction=0.2,
            limit=0,
        ),
        model=base.text_model(
            latent_dim=30,
            latent_norm="none",  # see yelp.py
            encoder_width=64,
            encoder_depth=1,
            decoder="non_autoregressive",
            decoder_width=64,
            decoder_depth=1,
            pad_weight=0.8,
            regressor_weight=1.0,
        ),
        schedule=base.schedule(kind="constant", beta_max=0.008),
        eddpm=base.eddpm(sigma_0=0.1, diffusion_weight=0.03, num_t=4),
        vae=base.vae(betas=(0.1,), anneal_steps=500),
        two_stage=base.two_stage(),
        train=base.train(steps=1500, batch_size=64, learning_rate=3e-3),
        judge=base.judge(width=64),
        ascent=base.ascent(),
        sample=base.sample(count=2000),
    )
