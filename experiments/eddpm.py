"""EDDPM against VAE, two-stage latent diffusion and pixel DDPM on images.

    python -m experiments.eddpm --config=configs/eddpm/digits.py --workdir=runs/eddpm

Every system is trained for the same number of steps by the same loop, and judged on the test split
by reconstruction error, Frechet distance of samples in the features of an independent classifier,
and a linear probe on its representation. `--mode=eval` judges again from the checkpoints,
`--mode=sample` writes new samples, `--mode=compile` compiles EDDPM's train step for a TPU slice.
"""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from experiments import image_report, systems
from jaxgen import config as config_lib
from jaxgen import launch
from jaxgen import mesh as mesh_lib
from jaxgen.config import Config
from jaxgen.data import images, pipeline
from jaxgen.errors import ConfigError
from jaxgen.metrics import frechet, probes
from jaxgen.nn import conv
from jaxgen.train import loop, state, step
from jaxgen.train.writers import image_grid, save_png, write_atomic

SYSTEMS = ("eddpm", "two_stage", "vae", "ddpm")


def validate(config: Config) -> None:
    """Raises ConfigError for any value that cannot run; touches no device and no data."""
    c = config_lib
    c.check(
        config,
        {
            "seeds": c.at_least(1),
            "systems": (lambda v: v and set(v) <= set(SYSTEMS), f"some of {', '.join(SYSTEMS)}"),
            "data.limit": c.NON_NEGATIVE,
            "model.latent_dim": c.at_least(1),
            "model.latent_norm": c.one_of("none", "running"),
            "model.width": c.at_least(1),
            "model.blocks": c.at_least(1),
            "model.denoiser_width": c.at_least(1),
            "model.denoiser_depth": c.at_least(1),
            "model.decoder": c.one_of("gaussian", "bernoulli", "diffusion"),
            "model.decoder_std": c.POSITIVE,
            "model.dtype": c.one_of("float32", "bfloat16"),
            "schedule.kind": c.one_of("linear", "cosine", "constant", "vp_sde"),
            "schedule.num_steps": c.at_least(1),
            "schedule.beta_min": c.POSITIVE,
            "eddpm.weighting": c.one_of("simple", "elbo"),
            "eddpm.alignment": c.one_of("kl", "joint"),
            "eddpm.sigma_0": c.NON_NEGATIVE,
            "eddpm.diffusion_weight": c.POSITIVE,
            "eddpm.num_t": c.at_least(1),
            "eddpm.mse_weight": c.NON_NEGATIVE,
            "eddpm.encoder_warmup": c.NON_NEGATIVE,
            "eddpm.decoder_noise": c.NON_NEGATIVE,
            "vae.betas": (lambda v: v and all(b > 0 for b in v), "numbers above 0"),
            "two_stage.beta": c.NON_NEGATIVE,
            "ddpm.multipliers": (lambda v: v and all(m > 0 for m in v), "whole numbers above 0"),
            "train.steps": c.at_least(1),
            "train.batch_size": c.at_least(1),
            "train.learning_rate": c.POSITIVE,
            "train.schedule": c.one_of(*step.SCHEDULES),
            "train.warmup": c.NON_NEGATIVE,
            "train.final": c.NON_NEGATIVE,
            "train.clip": c.NON_NEGATIVE,
            "train.weight_decay": c.NON_NEGATIVE,
            "train.ema_decay": c.FRACTION,
            "train.accumulate": c.at_least(1),
            "train.log_every": c.at_least(1),
            "train.save_every": c.at_least(1),
            "train.keep": c.at_least(1),
            "train.profile_steps": c.at_least(1),
            "classifier.width": c.at_least(1),
            "classifier.features": c.at_least(2),
            "classifier.steps": c.at_least(1),
            "classifier.learning_rate": c.POSITIVE,
            "classifier.noise": c.NON_NEGATIVE,
            "classifier.label_smoothing": c.FRACTION,
            "sample.sampler": c.one_of("ddim", "ancestral", "ode"),
            "sample.steps": c.at_least(1),
            "sample.eta": c.NON_NEGATIVE,
            "sample.count": c.at_least(2),
            "mesh.host_devices": c.NON_NEGATIVE,
            "mesh.processes": c.at_least(1),
        },
    )
    if config.schedule.kind != "vp_sde":
        share = (lambda v: 0 < v < 1, "above 0 and below 1 (a share of the variance)")
        c.check(config, {"schedule.beta_min": share, "schedule.beta_max": share})
    if config.train.batch_size % config.train.accumulate:
        raise ConfigError(
            "train.accumulate", config.train.accumulate, f"a divisor of {config.train.batch_size}"
        )


def check_batch(config: Config, mesh: Mesh) -> None:
    """The batch must divide over the mesh, in each part of an accumulated step."""
    parts = mesh_lib.batch_divisor(mesh) * config.train.accumulate
    if config.train.batch_size % parts:
        raise ConfigError(
            "train.batch_size",
            config.train.batch_size,
            f"a multiple of {parts} (mesh axes data x fsdp, times train.accumulate)",
        )


@dataclasses.dataclass(frozen=True)
class Study:
    """What all runs of one launch share."""

    config: Config
    workdir: pathlib.Path
    mesh: Mesh
    data: dict[str, images.Images]
    may_train: bool = True

    @property
    def shape(self) -> systems.ImageShape:
        return self.data["train"].image.shape[1:]  # type: ignore[return-value]

    def fit(
        self,
        system: systems.System,
        seed: int,
        arrays: dict[str, Any],
        *,
        steps: int | None = None,
        learning_rate: float | None = None,
    ) -> Any:
        """Trains (or finishes, or just restores) a run; returns its EMA weights on the host."""
        t = self.config.train
        steps, peak = steps or t.steps, learning_rate or t.learning_rate
        name = f"{system.name}-{seed}"
        if not self.may_train and not (self.workdir / "checkpoints" / name / str(steps)).is_dir():
            raise ConfigError("workdir", str(self.workdir), f"one where {name} is trained")
        schedule = step.learning_rate(t.schedule, peak, steps=steps, warmup=t.warmup, final=t.final)
        final = loop.fit(
            name,
            system.build,
            system.loss,
            step.optimizer(schedule, clip=t.clip, weight_decay=t.weight_decay),
            pipeline.batches(arrays, t.batch_size, seed=seed),
            jax.random.key(seed),
            loop.Options(
                steps=steps,
                save_every=t.save_every,
                log_every=t.log_every,
                keep=t.keep,
                ema_decay=t.ema_decay,
                accumulate=t.accumulate,
                profile_at=t.profile_at,
                profile_steps=t.profile_steps,
            ),
            workdir=self.workdir,
            mesh=self.mesh,
            extra=system.extra,
        )
        return mesh_lib.to_host(final.model if final.ema is None else final.ema)


def open_study(config: Config, workdir: pathlib.Path, *, may_train: bool = True) -> Study:
    """Mesh and data, checked; from here on the workdir belongs to this config."""
    mesh = mesh_lib.make_mesh(mesh_shape(config))
    check_batch(config, mesh)
    systems.make_schedule(config)
    d = config.data
    data = images.load(
        d.source,
        name=d.name,
        path=d.path,
        size=d.size,
        channels=d.channels,
        valid_fraction=d.valid_fraction,
        test_fraction=d.test_fraction,
        limit=d.limit,
    )
    for split, part in data.items():
        if split != "valid" and len(part) < 10:
            raise ConfigError("data", len(part), f"at least 10 images in the {split} split")
    launch.write_config(workdir, config)
    return Study(config, workdir, mesh, data, may_train)


def mesh_shape(config: Config) -> dict[str, int]:
    """Axis sizes as `config.mesh` has them."""
    return {axis: config.mesh[axis] for axis in mesh_lib.AXES}


def train_system(study: Study, name: str, seed: int) -> list[tuple[str, Any, systems.Trained]]:
    """Trains one entry of `config.systems`; returns (label, model, functions) of each model."""
    config, shape = study.config, study.shape
    train = study.data["train"].image
    arrays = {"image": train}
    if name == "eddpm":
        model = study.fit(systems.eddpm_system(config, shape), seed, arrays)
        return [("EDDPM", model, systems.trained_eddpm(config, shape, model, train))]
    if name == "vae":
        done = []
        for beta in config.vae.betas:
            model = study.fit(systems.vae_system(config, shape, beta, with_mlp=True), seed, arrays)
            label = f"VAE (beta {beta:g})"
            done.append((label, model, systems.trained_vae(config, shape, model)))
        return done
    if name == "two_stage":
        first = systems.vae_system(config, shape, config.two_stage.beta, with_mlp=False)
        model = study.fit(first, seed, arrays)
        latents = systems.in_batches(systems.frozen_encoder(model, train), train)
        net = study.fit(systems.latent_diffusion_system(config), seed, {"latent": latents})
        return [("two-stage", model, systems.trained_two_stage(config, shape, model, net, train))]
    model = study.fit(systems.ddpm_system(config, shape), seed, arrays)
    return [("DDPM (pixels)", model, systems.trained_ddpm(config, shape, model))]


class Classifier(nnx.Module):
    """Judge of samples: its features carry the Frechet distance. Never sees a generated image."""

    def __init__(self, config: Config, shape: systems.ImageShape, classes: int, rngs: nnx.Rngs):
        c = config.classifier
        self.encoder = conv.Encoder(shape, c.features, width=c.width, rngs=rngs)
        self.out = nnx.Linear(c.features, classes, rngs=rngs)

    def features(self, x: Any) -> Any:
        return jax.nn.silu(self.encoder(x))

    def __call__(self, x: Any) -> Any:
        return self.out(self.features(x))


def train_classifier(study: Study) -> Classifier:
    """Trained on the train split with noise and smoothed labels; one for all systems and seeds.

    Smoothing bounds its logits, so that its features do not grow on the images it was trained on.

    Raises:
      ConfigError: if the data have no labels.
    """
    train = study.data["train"]
    if train.label is None:
        raise ConfigError("data", study.config.data.source, "data with labels, to train the judge")
    classes = int(train.label.max()) + 1
    c = study.config.classifier

    def loss(model, extra, batch, key, _):
        x = batch["image"]
        logits = model(x + c.noise * jax.random.normal(key, x.shape))
        soft = optax.smooth_labels(jax.nn.one_hot(batch["label"], classes), c.label_smoothing)
        value = optax.softmax_cross_entropy(logits, soft).mean()
        accuracy = (logits.argmax(-1) == batch["label"]).mean()
        return value, ({"accuracy": accuracy}, extra)

    system = systems.System(
        "classifier",
        lambda key: Classifier(study.config, study.shape, classes, nnx.Rngs(key)),
        loss,
    )
    arrays = {"image": train.image, "label": train.label}
    return study.fit(system, 0, arrays, steps=c.steps, learning_rate=c.learning_rate)


@dataclasses.dataclass(frozen=True)
class Judge:
    """Fixed features of real images, to measure systems against."""

    features: Any
    train: Any
    test: Any

    @classmethod
    def of(cls, classifier: Classifier, data: dict[str, images.Images]) -> "Judge":
        features = functools.partial(systems.in_batches, jax.jit(classifier.features))
        return cls(features, features(data["train"].image), features(data["test"].image))

    @property
    def floor(self) -> float:
        """Frechet distance between the two real splits."""
        return frechet.frechet_distance(self.train, self.test)


def evaluate(
    config: Config, data: dict[str, images.Images], judge: Judge, model: Any, t: systems.Trained
) -> tuple[dict[str, float], dict[str, Any]]:
    """The row of numbers of one trained system, and the samples and latents behind it."""
    train, test = data["train"], data["test"]
    z_train = systems.in_batches(t.encode, train.image)
    z_test = systems.in_batches(t.encode, test.image)
    restored = systems.in_batches(t.decode, z_test)
    latents = t.sample_latent(jax.random.key(config.seed + 1_000_003), config.sample.count)
    samples = systems.in_batches(t.decode, latents)
    features = judge.features(samples)
    flat_train, flat_test = z_train.reshape(len(train), -1), z_test.reshape(len(test), -1)
    assert train.label is not None
    assert test.label is not None
    accuracy, probe = probes.linear_probe(flat_train, train.label, flat_test, test.label)
    row = {
        "parameters": state.parameter_count(model),
        "reconstruction_mse": float(np.mean((restored - test.image) ** 2)),
        "frechet_test": frechet.frechet_distance(features, judge.test),
        "frechet_train": frechet.frechet_distance(features, judge.train),
        "probe_accuracy": accuracy,
        "knn_accuracy": probes.knn_accuracy(flat_train, train.label, flat_test, test.label),
        "nearest_train_mse": nearest_mse(samples[:500], train.image),
        "latent_std": float(flat_train.std(0).mean()),
    }
    return row, {"samples": samples, "restored": restored, "z_train": flat_train, "probe": probe}


def nearest_mse(a: Any, b: Any) -> float:
    """Mean over a of the mean squared pixel difference to its nearest image in b."""
    a, b = a.reshape(len(a), -1).astype(np.float64), b.reshape(len(b), -1).astype(np.float64)
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * a @ b.T
    return float(np.maximum(squared.min(1), 0.0).mean() / a.shape[1])


def run(config: Config, workdir: pathlib.Path, *, reuse: bool) -> None:
    """Trains what is not trained, evaluates, and writes the report.

    Args:
      reuse: take a finished system's numbers from `results/` where they were made with the same
        `config.sample`. Without it everything is evaluated again, and nothing is trained.
    """
    setting = json.loads(config.sample.to_json())
    study = open_study(config, workdir, may_train=reuse)
    judge_model = train_classifier(study)
    judge = Judge.of(judge_model, study.data)
    rows, shown = [], {}
    for seed in range(config.seed, config.seed + config.seeds):
        for name in config.systems:
            for label, model, trained in train_system(study, name, seed):
                path = workdir / "results" / f"{label.replace(' ', '_')}-{seed}.json"
                first = seed == config.seed
                if reuse and path.exists() and not first:
                    known = json.loads(path.read_text())
                    if known["sample"] == setting:
                        rows.append(known["row"])
                        continue
                numbers, artefacts = evaluate(config, study.data, judge, model, trained)
                row = {"system": label, "seed": seed, **numbers}
                if jax.process_index() == 0:
                    text = json.dumps({"sample": setting, "row": row}, indent=2)
                    write_atomic(path, text + "\n")
                rows.append(row)
                if first:
                    shown[label] = (trained, artefacts)
    if jax.process_index() == 0:
        test = study.data["test"]
        real = {
            "frechet_floor": judge.floor,
            "nearest_train_mse": nearest_mse(test.image, study.data["train"].image),
            "classifier_accuracy": float(
                (np.asarray(judge_model(test.image)).argmax(-1) == test.label).mean()
            ),
        }
        path = image_report.write(config, workdir, study.data, rows, shown, real)
        print(f"report: {path}")


def train(config: Config, workdir: pathlib.Path) -> None:
    """Trains and evaluates whatever is not finished."""
    run(config, workdir, reuse=True)


def evaluate_again(config: Config, workdir: pathlib.Path) -> None:
    """Evaluates every system from its checkpoint."""
    run(config, workdir, reuse=False)


def sample(config: Config, workdir: pathlib.Path) -> None:
    """Writes `samples/NAME-new.png` (a grid) and `samples/NAME-new.npz` for each system."""
    study = open_study(config, workdir, may_train=False)
    for name in config.systems:
        for label, _, trained in train_system(study, name, config.seed):
            key = jax.random.key(np.random.SeedSequence().generate_state(1)[0])
            x = systems.in_batches(trained.decode, trained.sample_latent(key, config.sample.count))
            stem = workdir / "samples" / f"{label.replace(' ', '_')}-new"
            save_png(stem.with_suffix(".png"), image_grid(x[:100], 10))
            np.savez_compressed(stem.with_suffix(".npz"), samples=x)
            print(f"samples: {stem}.png")


def compile_step(config: Config, _: pathlib.Path) -> None:
    """Compiles EDDPM's train step for `mesh.topology` and prints what one chip has to hold."""
    if not config.mesh.topology:
        raise ConfigError("mesh.topology", "", "a TPU slice such as v5p:4x4x4")
    devices = mesh_lib.topology_devices(config.mesh.topology)
    mesh = mesh_lib.make_mesh(mesh_shape(config), devices)
    check_batch(config, mesh)
    shape = (config.data.size, config.data.size, config.data.channels)
    system = systems.eddpm_system(config, shape)
    t = config.train
    tx = step.optimizer(optax.constant_schedule(t.learning_rate), clip=t.clip)
    init = functools.partial(
        state.create, system.build, tx, use_ema=t.ema_decay > 0, extra=system.extra
    )
    template = jax.eval_shape(init, jax.random.key(0))
    where = mesh_lib.shardings(template, mesh)
    with_sharding = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), template, where
    )
    batch = {
        "image": jax.ShapeDtypeStruct(
            (t.batch_size, *shape), jnp.float32, sharding=NamedSharding(mesh, mesh_lib.BATCH)
        )
    }
    train_step = step.make_step(
        system.loss, tx, ema_decay=t.ema_decay, accumulate=t.accumulate, shardings=where
    )
    report = mesh_lib.compile_report(train_step.lower(with_sharding, batch).compile())
    axes = ", ".join(f"{a} {n}" for a, n in mesh.shape.items() if n > 1)
    print(f"topology {config.mesh.topology}: {len(devices)} chips; mesh {axes}")
    print(f"parameters {state.parameter_count(template.model):,}; batch {t.batch_size}")
    for kind in ("memory", "argument", "temporary"):
        print(f"{kind} per chip: {report[f'{kind}_bytes_per_chip'] / 2**20:,.1f} MiB")
    flops = report["flops_per_chip"]
    print(f"FLOPs per step: {flops:.4g} per chip, {flops * len(devices):.4g} in all")
    for kind, entry in sorted(report["collectives"].items()):
        print(f"{kind}: {entry['count']} a step, {entry['bytes'] / 2**20:,.1f} MiB per chip")


if __name__ == "__main__":
    launch.run(
        {"train": train, "eval": evaluate_again, "sample": sample, "compile": compile_step},
        validate,
    )
