"""The study on images: its tasks, its schedule, and the parts of its report."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.eddpm import celeba64, digits, mnist
from experiments.common.latent import chain_of
from experiments.eddpm import image_report, images, study, systems
from jaxgen.data import splits
from jaxgen.errors import ConfigError
from jaxgen.nn import batch_renorm
from jaxgen.train import tables
from jaxgen.train.state import parameter_count
from tests.data.test_posed import write_idx

SHAPE = (8, 8, 1)


def networks(config):
    return images.ImageNetworks(config, SHAPE)


def count(task):
    return parameter_count(jax.eval_shape(task.build, jax.random.key(0)))


def test_all_systems_have_about_the_same_number_of_parameters():
    config = digits.get_config()
    goal = count(systems.eddpm_task(config, networks(config)))
    vae = count(systems.vae_task(config, networks(config), 1.0, with_mlp=True))
    stages = count(systems.vae_task(config, networks(config), 1.0, with_mlp=False))
    ddpm = count(images.ddpm_task(config, networks(config), SHAPE))
    assert stages == vae  # the two-stage MLP is counted once, in the first stage's module
    for other in (vae, ddpm):
        assert abs(other / goal - 1) < 0.1


def test_shipped_configs_are_valid():
    for module in (digits, mnist, celeba64):
        study.validate(module.get_config())


@pytest.mark.parametrize("scale", [1.0, 1e-2])
def test_latents_do_not_shrink_whatever_the_encoder_scale(scale):
    """The trap: a diffusion term that makes z ~ 0. After 60 steps the latent std is still about 1."""
    import optax

    from jaxgen.data import images as image_data
    from jaxgen.data import pipeline
    from jaxgen.train import state, step

    config = digits.get_config()
    config.model.width = 8
    config.model.denoiser_width = 32
    config.eddpm.diffusion_weight = 100.0
    task = systems.eddpm_task(config, networks(config))
    tx = step.optimizer(optax.constant_schedule(3e-3))

    def init(k):
        s = state.create(task.build, tx, k, extra=task.extra)
        kernel = s.model.encoder.out.kernel
        kernel[...] = kernel[...] * scale
        return s

    s = jax.jit(init)(jax.random.key(0))
    f = step.make_step(task.loss, tx, ema_decay=0.9)
    train = jnp.asarray(image_data.load("digits")["train"].image)
    it = pipeline.batches({"image": np.asarray(train)}, 64, seed=0)
    for _ in range(60):
        s, _ = f(s, next(it))
    z, _ = batch_renorm.standardise(s.model.encoder(train), s.extra["moments"])
    # Not exactly 1: the running moments lag behind an encoder that still moves fast.
    assert 0.5 < float(jnp.std(z, axis=0).mean()) < 2.0


def test_spherical_interpolation_keeps_the_norm_and_meets_its_ends():
    a, b = jax.random.normal(jax.random.key(0), (2, 5, 16))
    assert np.allclose(image_report.spherical(a, b, 0.0), a, atol=1e-5)
    assert np.allclose(image_report.spherical(a, b, 1.0), b, atol=1e-5)
    unit = a / jnp.linalg.norm(a, axis=-1, keepdims=True)
    other = b / jnp.linalg.norm(b, axis=-1, keepdims=True)
    middle = image_report.spherical(unit, other, 0.3)
    assert np.allclose(jnp.linalg.norm(middle, axis=-1), 1.0, atol=1e-5)


def test_nearest_mse_against_brute_force():
    rng = np.random.default_rng(0)
    a, b = rng.random((7, 3, 3, 1)), rng.random((9, 3, 3, 1))
    want = np.mean([min(((x - y) ** 2).mean() for y in b) for x in a])
    for rows in (1, 3, 500):
        assert images.nearest_mse(a, b, rows=rows) == pytest.approx(want)


def idx_folder(path, side, count=40):
    """The four files of a set whose two labels are dark and bright images."""
    rng = np.random.default_rng(0)
    for stem in ("train", "t10k"):
        label = np.arange(count) % 2
        image = rng.integers(0, 100, (count, side, side)) + 150 * label[:, None, None]
        write_idx(path / f"{stem}-images-idx3-ubyte", image)
        write_idx(path / f"{stem}-labels-idx1-ubyte", label)
    return str(path)


@pytest.mark.slow
def test_idx_files_are_a_source_and_probes_see_a_share_of_them(tmp_path, one_device):
    config = mnist.get_config()
    config.update_from_flattened_dict(
        {
            "systems": ("eddpm",),
            "data.path": idx_folder(tmp_path, 28),
            "data.valid_fraction": 0.25,
            "model.width": 4,
            "model.denoiser_width": 16,
            "model.latent_dim": 4,
            "train.steps": 3,
            "train.batch_size": 8,
            "classifier.steps": 3,
            "classifier.width": 4,
            "classifier.probe_rows": 20,
            "classifier.test_rows": 12,
            "sample.count": 12,
            "sample.steps": 3,
        }
    )
    study.validate(config)
    problem = images.ImageProblem.open(config, tmp_path / "w", may_train=True)
    assert {n: len(p) for n, p in problem.data.items()} == {"train": 30, "valid": 10, "test": 40}
    problem.train_judges()
    (trained,) = systems.train(problem, "eddpm", 0)
    row, shown = problem.evaluate(trained, 0)
    assert shown["z_train"].shape == (20, 4)
    assert np.bincount(shown["y_train"]).tolist() == [10, 10]
    tested = problem.data["test"].image[splits.spread(40, 12, problem.data["test"].label)]
    assert np.array_equal(shown["originals"], tested)
    assert shown["restored"].shape == (12, 28, 28, 1)
    # The mean image is what an untrained decoder can do no better than by far.
    assert row["reconstruction_mse"] < 1.0
    assert np.isfinite(list(row.values())).all()


def test_idx_files_of_another_size_are_named(tmp_path):
    config = mnist.get_config()
    config.data.path = idx_folder(tmp_path, 20)
    with pytest.raises(
        ConfigError, match=r"data\.source is \(20, 20, 1\), allowed: images of \(28"
    ):
        images.load(config, tmp_path)
    config.data.size = 20
    with pytest.raises(ConfigError, match=r"data\.size is 20, allowed: one of 0, 28, of idx"):
        study.validate(config)


def test_impossible_schedule_is_a_config_error():
    config = digits.get_config()
    config.schedule.kind = "vp_sde"
    config.schedule.beta_max = 1e6
    with pytest.raises(ConfigError, match="schedule"):
        chain_of(config)


def test_mean_ranks_and_spread():
    rows = [
        {"system": "a", "x": 1.0, "y": 5.0},
        {"system": "a", "x": 3.0, "y": 5.0},
        {"system": "b", "x": 4.0, "y": 5.0},
    ]
    summary = tables.summarise(rows, ["x", "y"])
    assert summary["a"]["x"] == (2.0, pytest.approx(np.sqrt(2)))
    assert np.isnan(summary["b"]["x"][1])
    assert tables.mean_ranks(summary, {"x": False, "y": True}) == {"a": 1.25, "b": 1.75}
    assert tables.format_value(0.00123456, 0.0001) == "0.00123 ± 0.00010"
    assert tables.format_value(12345.6, float("nan")) == "12346"
    assert tables.format_value(3e-9, float("nan")) == "0.00"
