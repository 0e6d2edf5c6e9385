"""Non-autoregressive Multi30k: cross-entropy and EISL for a decoder that writes all tokens at once."""

from configs.eisl import multi30k
from jaxgen.config import Config


def get_config() -> Config:
    config = multi30k.get_config()
    config.model.non_autoregressive = True
    config.noise.levels = (0.0,)
    config.losses = ("ce", "eisl")
    return config
