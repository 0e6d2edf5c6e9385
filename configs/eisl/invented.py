"""EISL on an invented language that the project's grammar speaks: runs anywhere, half an hour on two cores."""

from configs import common
from jaxgen.config import Config


def get_config() -> Config:
    config = common.get_config()
    config.data = Config()
    config.data.source = "grammar"  # grammar, files
    config.data.path = ""
    config.data.train = ()  # (source file, target file)
    config.data.valid = ()
    config.data.test = ()
    config.data.limit = 6000
    config.data.seed = 0
    config.data.tokenizer = "bpe"
    config.data.vocab_size = 800
    config.data.max_tokens = 24
    config.data.train_tokens = 0  # longer pairs are not trained on; 0 keeps all

    config.model = Config()
    config.model.width = 96
    config.model.depth = 2
    config.model.heads = 4
    config.model.dropout = 0.1
    config.model.dtype = "float32"
    config.model.remat = False
    config.model.scan = False
    config.model.non_autoregressive = False  # all target tokens at once, given their number
    config.model.length_weight = 0.1  # of the predicted number's cross-entropy

    config.noise = Config()
    config.noise.kinds = ("shuffle", "repetition", "blank")
    config.noise.levels = (0.0, 0.6)
    config.noise.start = "noisy"  # noisy: as the cell's targets; clean: one start for all cells
    config.losses = ("ce", "smoothing", "pg", "eisl")
    config.smoothing = 0.1
    config.eisl = Config()
    config.eisl.ngram_factor = 1.0
    config.eisl.ce_factor = 0.0
    config.eisl.ngrams = (1, 2, 3)
    config.eisl.fused_bytes = 0  # above 0: no [B, T, V] logits, tiles of so many bytes
    config.finetune = Config()
    config.finetune.steps = 150
    config.finetune.learning_rate = 2e-3

    config.train.steps = 300
    config.train.batch_size = 64
    config.train.optimizer = "adafactor"
    config.train.learning_rate = 5e-2  # relative to the size of each parameter
    config.train.save_every = 1000
    return config
