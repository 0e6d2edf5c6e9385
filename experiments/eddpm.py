"""EDDPM against its baselines on images, text or proteins, by one loop and one objective.

    python -m experiments.eddpm --config=configs/eddpm/digits.py --workdir=runs/eddpm

`config.data.kind` chooses the kind of data. Every system is trained for the same number of steps and
judged on the test split in three capabilities: generation, reconstruction, representation; how is
told in `image_study` and `sequence_study`. `--mode=eval` judges again from the checkpoints,
`--mode=sample` writes new samples, `--mode=compile` compiles EDDPM's train step for a TPU slice.
"""

import json
import pathlib
from typing import Any

import jax
import numpy as np

from experiments import checks, image_study, sequence_study, systems
from experiments.study import Study, compile_step, open_study
from jaxgen import config as config_lib
from jaxgen import launch
from jaxgen.config import Config
from jaxgen.errors import ConfigError
from jaxgen.train.writers import read_json, write_atomic

KINDS: dict[str, Any] = {
    "images": image_study,
    "text": sequence_study,
    "proteins": sequence_study,
}


def validate(config: Config) -> None:
    """Raises ConfigError for any value that cannot run; touches no device and no data."""
    config_lib.check(config, {"data.kind": config_lib.one_of(*KINDS)})
    kind = KINDS[config.data.kind]
    kind.check(config)
    check_schedule(config)
    checks.check_run(config)


def check_schedule(config: Config) -> None:
    """The noise must be a share of the variance in every step, and must not fall."""
    c = config.schedule
    if c.kind != "vp_sde":
        share = (lambda v: 0 < v < 1, "above 0 and below 1 (a share of the variance)")
        config_lib.check(config, {"schedule.beta_min": share, "schedule.beta_max": share})
    if c.kind in ("linear", "vp_sde") and c.beta_min > c.beta_max:
        raise ConfigError("schedule.beta_min", c.beta_min, f"at most beta_max, {c.beta_max}")


def open_eddpm(config: Config, workdir: pathlib.Path, *, may_train: bool = True) -> Study:
    """The study of a config, with its data."""
    systems.make_schedule(config)  # raises for one that cannot be
    return open_study(config, workdir, KINDS[config.data.kind].load, may_train=may_train)


def train_system(study: Study, name: str, seed: int) -> list[tuple[str, Any, systems.Trained]]:
    """Trains one entry of `config.systems`; returns (label, model, functions) of each model."""
    config, kind = study.config, KINDS[study.config.data.kind]
    if name not in ("eddpm", "vae", "two_stage"):
        return kind.train_baseline(study, name, seed)
    domain, arrays = kind.domain(study), kind.train_arrays(study)
    train = kind.x_of(study.data["train"])
    if name == "eddpm":
        model = study.fit(systems.eddpm_system(config, domain), seed, arrays)
        return [("EDDPM", model, systems.trained_eddpm(config, domain, model, train))]
    if name == "vae":
        done = []
        for beta in config.vae.betas:
            model = study.fit(systems.vae_system(config, domain, beta, with_mlp=True), seed, arrays)
            label = f"VAE (beta {beta:g})"
            done.append((label, model, systems.trained_vae(config, domain, model)))
        return done
    autoencoder = systems.vae_system(config, domain, config.two_stage.beta, with_mlp=False)
    model = study.fit(autoencoder, seed, arrays)
    first = systems.FirstStage.of(domain, model, train)
    latents = systems.in_batches(jax.jit(first.encode), train)
    net = study.fit(systems.latent_diffusion_system(config), seed, {"latent": latents})
    return [("two-stage", model, systems.trained_two_stage(config, first, net))]


def run(config: Config, workdir: pathlib.Path, *, reuse: bool) -> None:
    """Trains what is not trained, evaluates, and writes the report.

    Args:
      reuse: take a finished system's numbers from `results/` where they were made with the same
        `config.sample`. Without it everything is evaluated again, and nothing is trained.
    """
    kind, setting = KINDS[config.data.kind], json.loads(config.sample.to_json())
    study = open_eddpm(config, workdir, may_train=reuse)
    judge = kind.Judge.train(study)
    rows, shown = [], {}
    for seed in range(config.seed, config.seed + config.seeds):
        for name in config.systems:
            for label, model, trained in train_system(study, name, seed):
                path = workdir / "results" / f"{label.replace(' ', '_')}-{seed}.json"
                first = seed == config.seed
                known = read_json(path) if reuse and not first else None
                if known and is_result(known, label, seed) and known["sample"] == setting:
                    rows.append(known["row"])
                    continue
                numbers, artefacts = kind.evaluate(study, judge, label, model, trained, seed)
                row = {"system": label, "seed": seed, **numbers}
                if jax.process_index() == 0:
                    text = json.dumps({"sample": setting, "row": row}, indent=2)
                    write_atomic(path, text + "\n")
                rows.append(row)
                if first:
                    shown[label] = (trained, artefacts)
    if jax.process_index() == 0:
        print(f"report: {kind.write(study, judge, rows, shown)}")


def is_result(known: Any, label: str, seed: int) -> bool:
    """Whether it is what `run` keeps of a system, and not something else that stands in its place."""
    row = known.get("row") if isinstance(known, dict) and "sample" in known else None
    return isinstance(row, dict) and (row.get("system"), row.get("seed")) == (label, seed)


def train(config: Config, workdir: pathlib.Path) -> None:
    """Trains and evaluates whatever is not finished."""
    run(config, workdir, reuse=True)


def evaluate_again(config: Config, workdir: pathlib.Path) -> None:
    """Evaluates every system from its checkpoint."""
    run(config, workdir, reuse=False)


def sample(config: Config, workdir: pathlib.Path) -> None:
    """Writes new samples of each system under `samples/`, as NAME-new."""
    study = open_eddpm(config, workdir, may_train=False)
    for name in config.systems:
        for label, _, trained in train_system(study, name, config.seed):
            key = jax.random.key(np.random.SeedSequence().generate_state(1)[0])
            x = trained.generate(key, config.sample.count)
            stem = workdir / "samples" / f"{label.replace(' ', '_')}-new"
            print(f"samples: {KINDS[config.data.kind].save_samples(study, stem, x)}")


def compile_eddpm(config: Config, _: pathlib.Path) -> None:
    """Compiles EDDPM's train step for `mesh.topology` and prints what one chip has to hold."""
    domain, batch = KINDS[config.data.kind].abstract_domain(config)
    compile_step(config, lambda _: systems.eddpm_system(config, domain), batch)


if __name__ == "__main__":
    launch.run(
        {"train": train, "eval": evaluate_again, "sample": sample, "compile": compile_eddpm},
        validate,
    )
