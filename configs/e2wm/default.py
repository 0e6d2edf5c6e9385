"""A small language model of docstrings learns from a household world: runs anywhere, and reads nothing from outside.

    python -m experiments.e2wm --config=configs/e2wm/default.py --workdir=runs/e2wm

General text is the prose of installed Python packages' docstrings, 4.7 MB of it. A fine-tuning with its test takes about six
minutes of a shared CPU core, the base (3.8 M weights) the better part of an hour, estimated, or two minutes of a GPU.
Measured, three seeds (`--config.seeds=3`): rise of general NLL and mean score of LoRA 1.55, 0.283, EWC-LoRA at 0.1 0.22, 0.263.
"""

from configs import base
from jaxgen.config import Config


def get_config() -> Config:
    return base.config(
        systems=(
            *("base", "full", "lora", "ewc_lora", "replay", "kl"),
            *("ewc_full", "l2_sp", "general", "separate"),
        ),
        collect=base.section(
            planner="search",  # search, breadth_first
            worlds=64,  # searched at once
            nodes=48,  # of an apartment
            actions=72,  # of a plan's table, at most
            simulations=48,
            depth=16,  # actions of a plan, at most
            events=12,  # of a path's story
            examples=240,  # of each task
            test_examples=32,  # of each task and split
            seed=0,
        ),
        data=base.section(
            general_path="",  # a text file or a folder of them; "": docstrings
            general_tokens=416,  # of a window: as long as prompts, so that all positions are learned
            general_limit=0,  # letters of the training part, 0 for all; a tenth of that for the other parts
            embodied="",  # folder with the authors' evaluation files
            shots=0,  # worked examples before a question
            tokenizer="bpe",
            vocab_size=2048,
        ),
        model=base.section(
            path="",  # a Hugging Face folder or GGUF file
            kind="gpt2",  # gpt2, gpt_neo
            width=256,
            depth=4,
            heads=8,
            positions=416,
            dtype="float32",
            remat=False,
            scan=True,
        ),
        pretrain=base.section(steps=1000, batch_size=16, learning_rate=2e-3, warmup=50),
        lora=base.section(
            rank=8,
            alpha=32.0,
            targets=("attention/", "mlp/"),
            dropout=0.0,  # of the updates' inputs; the authors have 0.1
            learning_rate=5e-3,
        ),
        weights=base.section(plan=1.0, recognise=0.7, count=1.0, path=1.0),
        fisher=base.section(
            texts=120,
            reduce="sum",  # sum, mean: over a text's tokens
            labels="data",  # data, model: the empirical or the true Fisher information
        ),
        ewc=base.section(
            strengths=(1.0, 10.0, 0.1),  # of EWC-LoRA: lambda
            full_strength=1.0,
            l2_strength=0.1,
            separate_strength=1.0,
        ),
        replay=base.section(
            share=0.25,  # of a batch, of general text beside the experience
            weight=1.0,
            kl_weight=1.0,
        ),
        train=base.train(
            steps=120,
            batch_size=8,
            learning_rate=2e-3,  # of all parameters; LoRA has its own
            schedule="cosine",
            warmup=10,
            final=0.0,
            ema_decay=0.0,
            save_every=500,
        ),
        evaluate=base.section(
            beams=1,
            batch_size=32,
            plan_tokens=64,
            path_tokens=24,
            limit=100,  # questions of each of the authors' files; 0 for all
        ),
    )
