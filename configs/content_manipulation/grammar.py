"""Made-up games: records, and sentences that state them exactly. Runs anywhere.

    python -m experiments.content_manipulation --config=configs/content_manipulation/grammar.py --workdir=runs/content

Other systems: `--config.systems="('full','gate','back')"`, see experiments/content_manipulation/systems.py.
Measured, one seed: content precision and recall 48.3, 46.8 at m-BLEU 95.5, of the rules 46.6, 46.1 at 100.
"""

from configs import base
from jaxgen.config import Config


def get_config() -> Config:
    return base.config(
        systems=("full", "no_coverage"),
        data=base.section(
            source="grammar",  # grammar, parallel, table
            path="",
            train="",  # of a table: file names under path
            valid="",
            test="",
            content="box_score",  # box_score (numbers, by rules), values
            limit=6000,  # items of train; 0: all
            valid_rows=200,
            test_rows=500,
            seed=0,  # of the grammar
            max_tuples=9,
            max_words=36,  # of both sentences; longer items are left out
            min_count=2,  # words and values that are rarer are unknown
            slots=12,  # unknown values of an item at most
            # Of --mode=compile alone; else the data say.
            vocab_size=512,
            generated=256,
            types=16,
        ),
        model=base.section(
            width=96,
            depth=2,
            heads=4,
            coverage=32,  # width of the coverage state
            tied=True,  # words are scored by their embeddings
            dropout=0.0,
        ),
        loss=base.section(
            style="ce",  # ce, eisl
            style_weight=0.9,  # lambda at last
            pure=600,  # steps of lambda 1
            ramp=200,  # steps in which it falls
            coverage_weight=0.2,  # eta
            groups=False,  # True: coverage asks for tuples of one value and one owner once
            eisl_ngrams=(1, 2, 3),
            back_weight=0.2,
            mast_back_weight=0.1,
            advst_back_weight=1.0,
            judge_weight=0.5,
        ),
        judge=base.section(width=96, depth=2, heads=4, steps=300, learning_rate=3e-3),
        evaluate=base.section(
            every=200,
            beams=5,
            max_words=50,
            m_bleu=75.0,  # of valid: a checkpoint below it is not selected for its content
        ),
        rewrite=base.section(system="full", record="", reference="", reference_record=""),
        train=base.train(
            steps=1200,
            batch_size=16,
            learning_rate=1e-3,
            warmup=50,
            clip=15.0,
            ema_decay=0.98,
            save_every=200,
            log_every=50,
        ),
    )
