"""The paper's text model with a decoder of the shape of an 8 B language model, for TPU slices.

    python -m experiments.eddpm --config=configs/eddpm/text_8b.py --mode=compile

It was never trained; docs/guides/tpu-and-multihost.md says what is split, and how.
"""

from configs import base
from configs.eddpm import yelp_paper
from jaxgen.config import Config


def get_config() -> Config:
    config = yelp_paper.get_config()
    config.data.update(max_tokens=256, vocab_size=128_256)
    config.model.update(decoder_width=4096, decoder_depth=36, decoder_heads=32)
    config.train.batch_size = 1024
    config.mesh = base.mesh(topology="v5p:4x4x4", fsdp=64)
    return config
