"""GPT-MoE with 1.5 billion parameters (Nie et al., 2021), for a TPU slice: 48 experts in every second block.

    python -m experiments.dts_gate --config=configs/moe/gpt_moe_1_5b.py --mode=compile

Expected: 1,455,293,952 parameters, 2,746.3 MiB and 1.382e+13 FLOPs a step on each of the 64 chips. It was
never trained.
"""

from configs import base
from configs.moe import dts
from jaxgen.config import Config


def get_config() -> Config:
    config = dts.get_config()
    config.data.update(vocab_size=50_304, context=1024)
    config.model.update(
        width=768,
        depth=12,
        heads=12,
        hidden=3072,
        experts=48,
        receive_capacity_factor=1.5,
        dtype="bfloat16",
        remat=True,
        scan=True,
    )
    config.dts.update(
        budgets=((0, 48), (2000, 8), (6000, 4), (12_000, 2), (20_000, 1)),
        decay_steps=20_000,
        shared_steps=2000,
    )
    config.reference.update(hard_at=20_000, decay_steps=20_000, caps=((0, 48), (2000, 8)))
    config.relu.caps = ((0, 48), (2000, 8))
    config.train.update(
        steps=60_000, batch_size=512, learning_rate=6e-4, warmup=2000, save_every=2000
    )
    config.mesh = base.mesh(topology="v5p:4x4x4", fsdp=4, expert=16)
    return config
