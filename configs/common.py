"""What studies of all methods begin with."""

from configs.eddpm import digits
from jaxgen.config import Config


def get_config() -> Config:
    """Seeds, mesh and training, as the digits config has them, and nothing else."""
    base, config = digits.get_config(), Config()
    for field in ("seed", "seeds", "mesh", "train"):
        config[field] = base[field]
    return config
