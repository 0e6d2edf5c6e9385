"""EDDPM and its baselines on the grammar corpus: text, without any files.

    python -m experiments.eddpm --config=configs/eddpm/grammar.py --workdir=runs/grammar

Minutes on two CPU cores.
"""

from configs import base
from jaxgen.config import Config


def get_config() -> Config:
    return base.config(
        systems=("eddpm", "two_stage", "vae", "lm"),
        data=base.text_data(),
        model=base.text_model(),
        schedule=base.schedule(),
        eddpm=base.eddpm(sigma_0=0.1, diffusion_weight=1.0),
        vae=base.vae(betas=(1.0, 0.1), anneal_steps=500, free_bits=0.1),
        two_stage=base.two_stage(),
        train=base.train(steps=1500, batch_size=64, learning_rate=1e-3),
        judge=base.judge(),
        ascent=base.ascent(),
        sample=base.sample(count=2000),
    )
