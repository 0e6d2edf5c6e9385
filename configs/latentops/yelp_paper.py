"""LatentOps on Yelp at the paper's size: BERT and GPT-2 from local folders, d = 64.

    python -m experiments.latentops --config=configs/latentops/yelp_paper.py --workdir=runs/latentops_paper --config.model.encoder_path=BERT_DIR --config.model.decoder_path=GPT2_DIR

For accelerators: no table of ours has its numbers.
"""

from configs import base
from configs.latentops import grammar
from jaxgen.config import Config


def get_config() -> Config:
    config = grammar.get_config()
    config.data = base.yelp_data(max_tokens=64, vocab_size=50_257, source_vocab_size=30_522)
    config.model = base.text_model(
        latent_dim=64,
        latent_norm="none",
        encoder_width=512,
        encoder_depth=4,
        encoder_heads=8,
        pre_norm=False,
        decoder_width=768,
        decoder_depth=12,
        decoder_heads=12,
        word_dropout=0.0,
        denoiser_width=2048,
        denoiser_depth=10,
        dropout=0.1,
        dtype="bfloat16",
        remat=True,
        scan=True,
    )
    config.vae.update(beta=1.0, free_bits=0.9, cycles=10, token_deletion_rate=0.2)
    config.train = base.train(steps=70_000, batch_size=128, learning_rate=5e-5, save_every=2000)
    config.judge = base.judge(width=128, steps=2000, reverse_steps=400, test_rows=2000)
    config.prior.gan_steps = 20_000
    config.operators.update(attributes=("sentiment", "tense"), keywords=40)
    config.ode.update(rtol=1e-5, atol=1e-5)
    config.evaluate.combinations = (("sentiment",), ("sentiment", "tense"))
    return config
