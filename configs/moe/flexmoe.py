"""FlexMoE on 8 forced host devices: a GPT with 16 experts on the standard library's documentation."""

from configs.moe import dts
from jaxgen.config import Config


def get_config() -> Config:
    config = dts.get_config()
    del config.methods, config.dts, config.train.eval_every, config.train.eval_windows
    config.task = "text"  # text, images
    config.policies = ("capacity", "static", "shadowing", "eplb", "flexmoe")
    config.capacity_factor = 1.25  # of the policy `capacity`
    config.data.context = 32

    config.model.width = 32
    config.model.hidden = 64
    config.model.heads = 2
    config.model.experts = 16
    config.model.k = 2
    config.model.patch = 2  # side of an image's patches

    config.placement = Config()
    config.placement.slots = 4  # a device
    config.placement.threshold = 1.05  # balance ratio above which to plan
    config.placement.horizon = 3  # steps in which a change must pay off
    config.placement.slack = 0.005
    config.placement.every = 5  # steps, of EPLB
    # The machine and the model whose step time is modelled, on this traffic.
    config.placement.device = "a100"  # v5e, v5p, a100, h100
    config.placement.width = 1024
    config.placement.hidden = 4096
    config.placement.tokens = 8192  # of a device

    config.train.steps = 150
    config.train.batch_size = 32
    config.train.learning_rate = 2e-3
    config.train.warmup = 20
    config.train.clip = 0.0  # a norm over slots would count replicas more than once
    config.train.save_every = 50
    config.train.log_every = 1
    config.train.balance_weight = 0.001
    config.mesh.host_devices = 8
    config.mesh.data = 1
    config.mesh.expert = 8
    return config
