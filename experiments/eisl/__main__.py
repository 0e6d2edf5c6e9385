"""EISL: translation learned from noisy targets, under cross-entropy and under losses that forgive.

    python -m experiments.eisl --config=configs/eisl/invented.py --workdir=runs/eisl

For every kind and level of noise and every seed, a model is trained by cross-entropy, on targets as noisy
or on clean ones (`noise.start`), and from there each loss goes on for the same number of steps on noisy
targets. BLEU is that of greedy translations of the clean test split, detokenised. Cells that are finished
are kept under `results/`, so a launch with more levels, kinds, losses or seeds adds to what is there;
`--mode=eval` translates again with every trained model.
`--mode=compile` compiles the train step under EISL for a TPU slice.
"""

from experiments.eisl import study
from jaxgen import launch

launch.run(study.MODES, study.validate, runtime=study.RUNTIME)
