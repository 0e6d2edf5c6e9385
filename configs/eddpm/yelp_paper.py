"""The paper's text model: a BERT-small encoder and a GPT-2 decoder, here of XL shape, for a TPU slice.

    python -m experiments.eddpm --config=configs/eddpm/yelp_paper.py --mode=compile --config.mesh.topology=v5p:4x4x4

Expected: 1,636,494,912 parameters, 1,506.2 MiB a chip, 9.407e+13 FLOPs a step in all. It was never
trained. Put the folders of pretrained weights into `model.encoder_path` and `model.decoder_path`; without
them both are trained from scratch.
"""

from configs import base
from configs.eddpm import yelp
from jaxgen.config import Config


def get_config() -> Config:
    config = yelp.get_config()
    config.systems = ("eddpm",)
    config.data.update(max_tokens=64, vocab_size=50_257, source_vocab_size=30_522)
    config.model = base.text_model(
        latent_dim=128,
        latent_norm="none",
        encoder_width=512,
        encoder_depth=4,
        encoder_heads=8,
        pre_norm=False,
        decoder_width=1600,
        decoder_depth=48,
        decoder_heads=25,
        word_dropout=0.0,
        denoiser_width=2048,
        denoiser_depth=10,
        dropout=0.1,
        dtype="bfloat16",
        remat=True,
        scan=True,
    )
    config.eddpm.update(diffusion_weight=8.0, num_t=1)
    config.train = base.train(
        steps=70_000,  # 20 epochs of the full training file
        batch_size=128,
        learning_rate=5e-5,
        save_every=2000,
    )
    config.sample.count = 10_000
    config.mesh = base.mesh(fsdp=32)
    return config
