"""A translation model with 262,144 tokens, fused EISL with its vocabulary split, for a TPU slice.

    python -m experiments.eisl --config=configs/eisl/vocab256k.py --mode=compile

Expected: 620,821,504 parameters, 1,862.0 MiB a chip; 3,276 MiB with `--config.eisl.fused_bytes=0`. It was
never trained.
"""

from configs import base
from configs.eisl import invented
from jaxgen.config import Config


def get_config() -> Config:
    config = invented.get_config()
    config.data.update(vocab_size=262_144, max_tokens=128)
    config.model.update(
        width=1024, depth=12, heads=16, dropout=0.0, dtype="bfloat16", remat=True, scan=True
    )
    config.eisl.fused_bytes = 2**28
    config.train.batch_size = 512
    config.mesh = base.mesh(topology="v5p:4x4x4", data=4, fsdp=4, model=4)
    return config
