"""DTS-Gate on the standard library's documentation: runs anywhere, minutes on two cores."""

from configs import common
from jaxgen.config import Config


def get_config() -> Config:
    config = common.get_config()
    config.methods = ("dts", "switch", "gshard", "hash", "dense")

    config.data = Config()
    config.data.source = "english"  # english, files
    config.data.path = ""
    config.data.files = ()
    config.data.valid_fraction = 0.08
    config.data.test_fraction = 0.08
    config.data.tokenizer = "bpe"
    config.data.vocab_size = 800
    config.data.context = 64

    config.model = Config()
    config.model.width = 96
    config.model.depth = 4
    config.model.heads = 4
    config.model.hidden = 192  # of each expert, and of dense feed-forward layers
    config.model.experts = 8
    config.model.expert_every = 2
    config.model.capacity_factor = 0.0  # 0: dropless
    config.model.receive_capacity_factor = (
        0.0  # rows a device takes in, times its even share; 0: all that come
    )
    config.model.dtype = "float32"
    config.model.remat = False
    config.model.scan = False

    config.dts = Config()
    config.dts.start = 2.0  # temperature
    config.dts.end = 0.3
    config.dts.decay = "exponential"  # exponential, linear
    config.dts.decay_steps = 200
    config.dts.threshold = 0.001
    config.dts.noise_free_weights = False
    config.dts.budgets = ((0, 8), (60, 4), (120, 2), (200, 1))  # (from step, experts a token)
    config.dts.shared_steps = 40  # of one shared expert, at first
    config.dts.mask_rate = 0.1

    config.train.steps = 400
    config.train.batch_size = 16
    config.train.learning_rate = 3e-3
    config.train.warmup = 50
    config.train.ema_decay = 0.0
    config.train.save_every = 400
    config.train.log_every = 25
    config.train.eval_every = 25
    config.train.eval_windows = 64
    config.train.balance_weight = 0.01
    config.train.z_weight = 0.0
    return config
