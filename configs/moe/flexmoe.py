"""FlexMoE on 8 forced host devices: a GPT with 16 experts on the standard library's documentation.

    python -m experiments.flexmoe --config=configs/moe/flexmoe.py --workdir=runs/flexmoe

Expected: balance 1.27 and modelled steps of 48.9 ms with FlexMoE, 1.47 and 57.7 ms with the EPLB-like
policy, 1.90 and 59.5 ms with static placement. This was measured before a run's key came from its name and
seed, and before tokenizers were trained deterministically: the same command draws other numbers now.
"""

from configs import base
from jaxgen.config import Config


def get_config() -> Config:
    config = base.config(
        task="text",  # text, images
        # And eplb_nodes, laer and sharded, for modelled devices with nodes.
        policies=("capacity", "static", "shadowing", "eplb", "flexmoe", "symi"),
        capacity_factor=1.25,  # of the policy `capacity`
        data=base.section(
            source="english",  # english, files, domains
            path="",
            files=(),
            valid_fraction=0.08,
            test_fraction=0.08,
            tokenizer="bpe",
            vocab_size=800,
            context=32,
            max_megabytes=0.0,  # of each domain; 0: all
        ),
        model=base.section(
            width=32,
            depth=4,
            heads=2,
            hidden=64,
            experts=16,
            expert_every=2,
            k=2,
            patch=2,  # side of an image's patches
            capacity_factor=0.0,  # 0: dropless, as all policies but `capacity` are
            receive_capacity_factor=0.0,
            dropout=0.0,
            dtype="float32",
            remat=False,
            scan=False,
        ),
        placement=base.section(
            slots=4,  # a device
            threshold=1.05,  # balance ratio above which to plan
            horizon=3,  # steps in which a change must pay off
            slack=0.005,
            every=5,  # steps, of EPLB
            average=0.0,  # what each step keeps of the moving average of counts; 0: the last step's
            split="even",  # even, scheduled: of an expert's tokens over its replicas
            # The machine and the model whose step time is modelled, on this traffic.
            device="a100",  # v5e, v5p, a100, h100; with nodes of 8: a100_nodes, h100_nodes, laer
            width=1024,
            hidden=4096,
            tokens=8192,  # of a device
        ),
        train=base.train(
            steps=150,
            batch_size=32,
            learning_rate=2e-3,
            warmup=20,
            clip=0.0,  # a norm over slots would count replicas more than once
            ema_decay=0.0,
            save_every=50,
            log_every=1,
        ),
        mesh=base.mesh(host_devices=8, data=1, expert=8),
    )
    config.train.balance_weight = 0.001
    config.train.z_weight = 0.0
    return config
