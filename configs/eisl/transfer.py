"""Style transfer on the grammar corpus, whose sentiment is read off exactly: an hour on one core."""

from configs.eddpm import grammar
from jaxgen.config import Config


def get_config() -> Config:
    config = grammar.get_config()
    for unused in ("systems", "two_stage", "ascent", "eddpm", "vae", "sample", "schedule"):
        del config[unused]
    config.losses = ("ce", "eisl")
    config.model.dropout = 0.1

    config.operators = Config()
    config.operators.attributes = ("sentiment",)
    config.transfer = Config()
    config.transfer.content_weights = (0.1, 0.3, 1.0, 3.0)
    config.transfer.style_weight = 1.0
    config.transfer.temperature = 1.0
    config.transfer.ngrams = (1, 2)
    config.classifier = Config()
    config.classifier.width = 64
    config.classifier.word_dropout = 0.3  # share of the words that it does not see in training
    config.classifier.steps = 500
    config.classifier.learning_rate = 2e-3
    config.evaluate = Config()
    config.evaluate.count = 400

    config.train.steps = 600
    config.train.save_every = 600
    config.train.learning_rate = 2e-3
    return config
