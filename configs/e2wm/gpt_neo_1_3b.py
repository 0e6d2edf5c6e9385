"""The paper's size, GPT-Neo 1.3B's shape under LoRA with EWC, compiled for TPU slices.

    python -m experiments.e2wm --config=configs/e2wm/gpt_neo_1_3b.py --mode=compile

It was never trained. `--config.model.path=DIR` takes weights from a Hugging Face folder, and `--config.data.embodied`
the authors' files, whose two worked examples fit into 800 tokens.
"""

from configs import base
from configs.e2wm import default
from jaxgen.config import Config


def get_config() -> Config:
    config = default.get_config()
    config.data.update(shots=2, vocab_size=50_257)
    config.model.update(
        kind="gpt_neo",
        width=2048,
        depth=24,
        heads=16,
        positions=2048,
        dtype="bfloat16",
        remat=True,
        scan=True,
    )
    config.lora.update(alpha=32.0, targets=("attention/(query|value)$",), learning_rate=8e-4)
    config.fisher.update(texts=20_000, reduce="mean")
    config.ewc.update(strengths=(2.0,))
    config.train.update(steps=750, batch_size=64)
    config.evaluate.update(beams=4, plan_tokens=256)
    config.mesh = base.mesh(topology="v5p:4x4x4", fsdp=64)
    return config
