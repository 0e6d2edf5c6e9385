"""A translation model with 256k tokens, fused EISL with its vocabulary split: for `--mode=compile`."""

from configs.eisl import invented
from jaxgen.config import Config


def get_config() -> Config:
    config = invented.get_config()
    config.data.vocab_size = 262_144
    config.data.max_tokens = 128
    config.model.width = 1024
    config.model.depth = 12
    config.model.heads = 16
    config.model.dropout = 0.0
    config.model.dtype = "bfloat16"
    config.model.remat = True
    config.model.scan = True
    config.mesh.topology = "v5p:4x4x4"
    config.mesh.data = 4
    config.mesh.fsdp = 4
    config.mesh.model = 4
    config.train.batch_size = 512
    config.eisl.fused_bytes = 2**28
    return config
