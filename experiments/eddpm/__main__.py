"""EDDPM against its baselines on images, text or proteins, by one loop and one objective.

    python -m experiments.eddpm --config=configs/eddpm/digits.py --workdir=runs/eddpm

`config.data.kind` chooses the kind of data. Every system is trained for the same number of steps and
judged on the test split in three capabilities: generation, reconstruction, representation; how is
told in `images` and `sequences`. `--mode=eval` judges again from the checkpoints,
`--mode=sample` writes new samples, `--mode=compile` compiles EDDPM's train step for a TPU slice.
"""

from experiments.eddpm import study
from jaxgen import launch

launch.run(study.MODES, study.validate, runtime=study.RUNTIME)
