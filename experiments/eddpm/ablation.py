"""Ablation of EDDPM's options on images: each switched on alone, against the same baseline config.

    python -m experiments.eddpm.ablation --config=configs/eddpm/digits.py --workdir=runs/ablation

The first four are those of Meshchaninov et al. (2026), arXiv 2605.07933; the others take away what the
digits config adds to the paper: several t for each image, a wider q(z_0|x), standardised latents.
"""

import pathlib
import shutil

from experiments.eddpm import image_report, study, systems
from experiments.eddpm.images import ImageProblem
from jaxgen import config as config_lib
from jaxgen import launch
from jaxgen.config import Config
from jaxgen.train import report

WARMUP = "+ encoder warm-up (a third of the steps)"
VARIANTS: dict[str, dict[str, object]] = {
    "digits config": {},
    "+ MSE term (weight 50)": {"eddpm.mse_weight": 50.0},
    WARMUP: {},
    "+ adaptive t": {"eddpm.adaptive_t": True},
    "+ decoder-input noise (std 0.1)": {"eddpm.decoder_noise": 0.1},
    "one t for each image": {"eddpm.num_t": 1},
    "sigma_0 = sqrt(beta_1)": {"eddpm.sigma_0": 0.0},
    "alignment by the exact bound": {"eddpm.alignment": "joint"},
    "latents not standardised": {"model.latent_norm": "none"},
}


def validate(config: Config) -> None:
    """Raises ConfigError for any value that cannot run, or another kind of data than images."""
    config_lib.check(config, {"data.kind": config_lib.one_of("images")})
    study.validate(config)


def train(config: Config, workdir: pathlib.Path) -> None:
    """Trains and evaluates every variant in a workdir of its own; writes one table."""
    rows = []
    launch.write_config(workdir, config)
    for number, (label, changes) in enumerate(VARIANTS.items()):
        variant = config.copy_and_resolve_references()
        variant.systems = ("eddpm",)
        variant.update_from_flattened_dict(changes)
        if label == WARMUP:
            variant.eddpm.encoder_warmup = config.train.steps // 3
        folder = workdir / f"variant-{number}"
        judge = workdir / "variant-0" / "checkpoints" / "classifier-0"
        own = folder / "checkpoints" / "classifier-0"
        if number and judge.exists() and not own.exists():
            copy = folder / "classifier.tmp"  # renamed when it is whole
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(judge, copy)
            own.parent.mkdir(parents=True, exist_ok=True)
            copy.rename(own)
        problem = ImageProblem.open(variant, folder, may_train=True)
        problem.train_judges()
        for seed in range(config.seed, config.seed + config.seeds):
            for trained in systems.train(problem, "eddpm", seed):
                numbers, _ = problem.evaluate(trained._replace(label=label), seed)
                rows.append({"system": label, "seed": seed, **numbers})
    floors = image_report.floor_rows(problem.data, problem.judge, problem.real_numbers())
    page = report.Report("EDDPM: ablation", workdir, config)
    page.text(f"Fréchet distance between the real splits: {problem.judge.floor:.3g}.\n")
    page.section("Results")
    ranks = page.comparison(rows, image_report.COLUMNS, ranked=image_report.RANKED, rules=floors)
    page.text(image_report.FLOORS)
    page.curves({label: workdir / f"variant-{i}" for i, label in enumerate(VARIANTS)})
    print(f"report: {page.write({'systems': rows, 'mean_rank': ranks, 'floors': floors})}")


if __name__ == "__main__":
    launch.run({"train": train}, validate, runtime=study.RUNTIME)
