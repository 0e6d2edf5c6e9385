"""LatentOps: composable operations on text by an ODE in latent space, against other samplers.

    python -m experiments.latentops --config=configs/latentops/grammar.py --workdir=runs/latentops

Modes: `train_vae` trains the autoencoders, `train_operators` also the operators, `train` also judges
everything and writes the report; `eval` judges again. On a trained workdir, `generate` writes
sentences with the attributes of `config.edit`, and `edit` rewrites sentences of `--text="..."` or of
stdin, one a line:

    python -m experiments.latentops --config=... --workdir=... --mode=edit --text="..." \
        --config.edit.sentiment=positive
"""

from experiments.latentops import study
from jaxgen import launch

launch.run(
    study.MODES,
    study.validate,
    runtime=study.RUNTIME,
    begins=("train", "train_vae", "train_operators"),
    aliases={"text": "config.edit.text"},
)
