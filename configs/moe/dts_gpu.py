"""DTS-Gate at the size of one GPU: 16 experts, width 512, on the code of installed packages, each token once.

    python -m experiments.dts_gate --config=configs/moe/dts_gpu.py --workdir=runs/dts_gpu

The domains are packages that this project needs anyway, so no other data are.
"""

from configs.moe import dts
from jaxgen.config import Config


def get_config() -> Config:
    config = dts.get_config()
    config.methods = ("hash", "switch", "dts_reference", "relu")
    config.data.update(
        source="domains",
        files=(
            "python:",
            *(f"python:{p}" for p in ("jax", "numpy", "scipy", "sklearn", "transformers")),
        ),
        valid_fraction=0.03,
        test_fraction=0.01,
        vocab_size=4000,
        context=256,
        max_megabytes=7.0,
    )
    config.model.update(
        width=512, depth=8, heads=8, hidden=1024, experts=16, dtype="bfloat16", scan=True
    )
    config.dts.update(
        decay_steps=300, budgets=((0, 16), (100, 4), (200, 2), (300, 1)), shared_steps=60
    )
    config.reference.update(hard_at=200, decay_steps=200, caps=((0, 16),))
    # The published start and factor suit tens of thousands of steps; here they would overshoot, and experts die.
    config.relu.update(coefficient=1e-4, factor=1.05, caps=((0, 16), (300, 4)))
    config.train.update(
        steps=1600,
        batch_size=32,
        learning_rate=1e-3,
        warmup=100,
        save_every=1600,
        log_every=100,
        eval_every=100,
        eval_windows=128,
    )
    return config
