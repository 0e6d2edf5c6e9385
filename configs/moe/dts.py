"""DTS-Gate on the standard library's documentation: runs anywhere.

    python -m experiments.dts_gate --config=configs/moe/dts.py --workdir=runs/dts

Minutes on two CPU cores.
"""

from configs import base
from jaxgen.config import Config


def get_config() -> Config:
    config = base.config(
        methods=(
            "dts",
            "switch",
            "gshard",
            "hash",
            "dense",
        ),  # dts_reference, switch_capacity, loss_free, relu
        data=base.section(
            source="english",  # english, files, domains
            path="",
            files=(),
            valid_fraction=0.08,
            test_fraction=0.08,
            tokenizer="bpe",
            vocab_size=800,
            context=64,
            max_megabytes=0.0,  # of each domain; 0: all
        ),
        model=base.section(
            width=96,
            depth=4,
            heads=4,
            hidden=192,  # of each expert, and of dense feed-forward layers
            experts=8,
            expert_every=2,
            capacity_factor=0.0,  # 0: dropless
            receive_capacity_factor=0.0,  # rows a device takes in, times its even share; 0: all
            dropout=0.0,
            dtype="float32",
            remat=False,
            scan=False,
        ),
        dts=base.section(
            start=2.0,  # temperature
            end=0.3,
            decay="exponential",  # exponential, linear
            decay_steps=200,
            threshold=0.001,
            noise_free_weights=False,
            budgets=((0, 8), (60, 4), (120, 2), (200, 1)),  # (from step, experts a token)
            shared_steps=40,  # of one shared expert, at first
            mask_rate=0.1,
        ),
        reference=base.section(
            hard_at=200,  # steps of the soft gate; temperatures and threshold are those of dts
            decay_steps=200,
            noise_until=0,  # the hard gate's noise; 0: to the end
            noise_free_weights=True,  # weights softmax(logits), else the gate's
            caps=((0, 8),),  # as dts.budgets; where one cuts off, kept weights are renormalised
            balance_weight=0.0,  # while soft; then train.balance_weight
        ),
        capacity=base.section(train=1.0, evaluation=2.0),  # of switch_capacity, times an even share
        loss_free=base.section(rate=0.001, score="sigmoid"),  # sigmoid, softmax
        relu=base.section(
            target=1.0,  # experts a token
            coefficient=1e-8,  # of the penalty, at first
            factor=1.2,
            caps=((0, 8),),  # as reference.caps
        ),
        train=base.train(
            steps=400,
            batch_size=16,
            learning_rate=3e-3,
            warmup=50,
            ema_decay=0.0,
            save_every=400,
            log_every=25,
        ),
    )
    config.train.eval_every = 25
    config.train.eval_windows = 64
    config.train.balance_weight = 0.01
    config.train.z_weight = 0.0
    return config
