"""EDDPM and its baselines on MNIST, 28 x 28, by its own four files and its own test split.

    python -m experiments.eddpm --config=configs/eddpm/mnist.py --workdir=runs/eddpm_mnist --config.seeds=3

Data: $JAXGEN_DATA/mnist, or --config.data.path=DIR; the test split is the files' own, whatever data.test_fraction says.
Expected after a quarter of the steps (`--config.train.steps=500`, one seed) of EDDPM: reconstruction MSE 0.0063,
Fréchet distance to test 4.29, linear probe 0.907.
"""

from configs import base
from configs.eddpm import digits
from jaxgen.config import Config
from jaxgen.data import text


def get_config() -> Config:
    config = digits.get_config()
    config.data.update(
        source="idx", path=str(text.data_root() / "mnist"), size=0, valid_fraction=0.05
    )
    config.model.update(denoiser_width=512, decoder_std=0.1)
    # Twelve times as many pixels as digits have: the weight keeps the two losses' ratio.
    config.eddpm.update(sigma_0=0.1, diffusion_weight=1.0)
    config.ddpm.multipliers = (1, 2, 4)
    config.train = base.train(steps=2000, batch_size=128, learning_rate=2e-3)
    config.classifier.update(width=16, features=64, steps=800, probe_rows=5000)
    config.sample.count = 5000
    return config
