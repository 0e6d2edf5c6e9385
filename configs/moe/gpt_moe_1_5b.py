"""GPT-MoE with 1.5 billion parameters (Nie et al., 2021), for a TPU slice: 48 experts in every second block."""

from configs.moe import dts
from jaxgen.config import Config


def get_config() -> Config:
    config = dts.get_config()
    config.data.vocab_size = 50_304
    config.data.context = 1024

    config.model.width = 768
    config.model.depth = 12
    config.model.heads = 12
    config.model.hidden = 3072
    config.model.experts = 48
    config.model.receive_capacity_factor = 1.5
    config.model.dtype = "bfloat16"
    config.model.remat = True
    config.model.scan = True

    config.dts.budgets = ((0, 48), (2000, 8), (6000, 4), (12_000, 2), (20_000, 1))
    config.dts.decay_steps = 20_000
    config.dts.shared_steps = 2000
    config.train.steps = 60_000
    config.train.batch_size = 512
    config.train.learning_rate = 6e-4
    config.train.warmup = 2000
    config.train.save_every = 2000
    config.mesh.topology = "v5p:4x4x4"
    config.mesh.data = -1
    config.mesh.expert = 16
    return config
