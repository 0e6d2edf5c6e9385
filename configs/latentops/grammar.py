"""LatentOps on the grammar corpus, whose labels are exact.

    python -m experiments.latentops --config=configs/latentops/grammar.py --workdir=runs/latentops --config.seeds=3

A seed takes minutes on two CPU cores. Expected of the ODE's edits in the VAE's space, geometric mean:
0.846 ± 0.007 for one attribute, 0.721 ± 0.011 for two, 0.611 ± 0.008 for three. This was measured before
a run's key came from its name and seed, and before tokenizers were trained deterministically: the same
command draws other numbers now.
"""

from configs import base
from jaxgen.config import Config


def get_config() -> Config:
    return base.config(
        spaces=("vae", "eddpm"),
        data=base.text_data(),
        model=base.text_model(latent_dim=64, latent_norm="none", encoder_depth=1, decoder_depth=1),
        schedule=base.schedule(),
        eddpm=base.eddpm(sigma_0=0.1, diffusion_weight=0.01, num_t=4),
        vae=base.section(
            beta=0.1,
            free_bits=0.1,
            cycles=4,
            token_deletion_rate=0.0,  # share of the encoder's tokens left out in training
        ),
        train=base.train(steps=2500, batch_size=64, learning_rate=3e-3),
        judge=base.judge(),
        sample=base.sample(count=2000),
        prior=base.section(
            kind="gan",  # of the VAE: gan, gaussian; EDDPM draws from its own diffusion
            gan_steps=2000,
        ),
        operators=base.section(
            attributes=("sentiment", "tense", "formality"),
            width=128,
            depth=2,
            noise=0.6,  # on latents of unit variance
            keywords=20,  # words that the keyword operator knows; 0 for none
            steps=1500,
            learning_rate=1e-3,
        ),
        ode=base.section(rtol=1e-3, atol=1e-3, max_steps=512),
        sgld=base.section(
            steps=100,
            rate=0.05,
            noise=1.0,
            edit_steps=20,  # few and with little noise, so that edits keep something
            edit_noise=0.1,
        ),
        predictor_corrector=base.section(
            steps=100,
            snr=0.1,
            edit_steps=20,
            t_edit=0.1,  # edits start here, so that they keep something
        ),
        guided=base.section(  # EDDPM's own reverse process, steered at each step of DDIM
            steps=100,
            eta=0.0,
            draws=4,  # of z_0 at each step, on which the operators' energy is averaged
        ),
        evaluate=base.section(
            count=400,  # test sentences, and as many generated ones
            tune_count=400,  # valid sentences, on which each guidance_strength is chosen
            combinations=(
                ("sentiment",),
                ("sentiment", "tense"),
                ("sentiment", "tense", "formality"),
            ),
        ),
        edit=base.section(  # of --mode=edit and --mode=generate; "" leaves an attribute alone
            text="",
            sentiment="",  # a label's name or number
            tense="",
            formality="",
            person="",
            keywords="",  # words apart by spaces
            strength=1.0,
            count=10,
        ),
    )
