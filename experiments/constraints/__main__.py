"""Generative models under constraints whose uncertain parts are learned (Hu et al., 2018).

    python -m experiments.constraints --config=configs/constraints/digits.py --workdir=runs/constraints

A model p(x | c), trained first on its own, goes on under a constraint f(x; c): posterior regularisation towards
q = p exp(alpha f) / Z. Two tasks: images under a pose that is asked for, by a model that only samples
(`task` images), and sentences of templates, by one with a density (`task` templates). All systems go on from one
base for the same number of steps; what they are stands in `systems.py`. `--mode=eval` tests again what is trained.
"""

from experiments.constraints import study
from jaxgen import launch

launch.run(study.MODES, study.validate, runtime=study.RUNTIME)
