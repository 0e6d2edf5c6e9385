"""Pictures and tables of an image study: samples, reconstructions, interpolations, edits."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.latent import chain_of
from experiments.eddpm.systems import Shown, System
from jaxgen.config import Config
from jaxgen.data.images import Images
from jaxgen.diffusion import gaussian
from jaxgen.evaluators.common import batched_apply, decode, encode
from jaxgen.evaluators.image_classifier import ImageClassifier
from jaxgen.metrics import floors as floor_metrics
from jaxgen.metrics import frechet, probes
from jaxgen.train import markup, plots, report, writers
from jaxgen.train.state import run_key

COLUMNS = {
    "reconstruction_mse": "reconstruction MSE ↓",
    "frechet_test": "Fréchet to test ↓",
    "probe_accuracy": "linear probe ↑",
    "frechet_train": "Fréchet to train ↓",
    "knn_accuracy": "5-NN ↑",
    "nearest_train_mse": "nearest train MSE",
    "latent_std": "latent std",
    "parameters": "parameters",
}
RANKED = ("reconstruction_mse", "frechet_test", "probe_accuracy")  # decide the mean rank
FLOORS = (
    "The last rows are no systems. *Mean image*: the mean train image as every reconstruction and every "
    "sample; *majority class*: the most frequent class of the train split for every test image; *data*: real "
    "test images in place of samples, real train images in place of the test split.\n"
)


def write(
    config: Config,
    workdir: pathlib.Path,
    data: Mapping[str, Images],
    rows: Sequence[Mapping[str, Any]],
    shown: Mapping[str, Shown],
    real: Mapping[str, float],
    floors: Mapping[str, Mapping[str, float]] | None = None,
) -> pathlib.Path:
    """Draws everything under `samples/` and writes the report; returns its path.

    Args:
      rows: one for each system and seed.
      shown: of the first seed: label -> (functions, samples and latents).
      real: measured on real images alone: the floor of the Frechet distance, and so on.
      floors: what rules without a model score.
    """
    page = report.Report("EDDPM on images", workdir, config)
    test = data["test"]
    most = config.data.get("limit", 0)
    kept = f"at most {most:,} of them (data.limit)" if most else "none left out"
    size = f"{test.image.shape[1]}x{test.image.shape[2]}"
    page.text(
        f"Data: {markup.literal(config.data.source)}; "
        + ", ".join(f"{len(part):,} {markup.literal(name)}" for name, part in data.items())
        + f" images of {size}, {kept}. "
        f"{config.train.steps:,} steps of batch {config.train.batch_size} for every system, "
        f"{config.seeds} seed(s); ± is the standard deviation over seeds.\n"
    )
    page.section("Results")
    ranks = page.comparison(rows, COLUMNS, ranked=RANKED, rules=floors)
    page.text(
        f"Reconstruction and probes are on {min(config.classifier.test_rows, len(test)):,} images of the "
        "test split. "
        f"Fréchet distance: {config.sample.count:,} "
        "samples in the features of a classifier trained on the train split "
        f"(test accuracy {real['classifier_accuracy']:.3f}). **Floor**: real train against real test "
        f"is {real['frechet_floor']:.3g}. Nearest train MSE of real test images: "
        f"{real['nearest_train_mse']:.4f}; samples far below it would be copies. The two-stage model "
        "has this many steps in each of its stages. The pixel DDPM is reconstructed by DDIM inversion "
        f"and represented by x_T, which is as large as the image; the others keep "
        f"{config.model.latent_dim} numbers. Mean rank is over the first three columns.\n\n"
        + FLOORS
    )
    samples, restored = {}, {}
    for label, (_, artefacts) in shown.items():
        stem = f"samples/{markup.file_stem(label)}"
        samples[f"{label} samples"] = f"{stem}-samples.png"
        restored[f"{label} reconstructions"] = f"{stem}-reconstructions.png"
        grid = writers.image_grid(artefacts["samples"][:100], 10)
        writers.save_png(workdir / f"{stem}-samples.png", grid)
        whole = len(artefacts["restored"]) // 6 * 6  # rows of six
        pairs = np.stack([artefacts["originals"][:whole], artefacts["restored"][:whole]], 1)
        strip = pairs.reshape(-1, 6, 2, *test.image.shape[1:]).swapaxes(1, 2)
        grid = writers.image_grid(strip.reshape(-1, *test.image.shape[1:]), 6)
        writers.save_png(workdir / f"{stem}-reconstructions.png", grid)
    page.section("Samples")
    page.grid(samples)
    page.section("Reconstructions")
    page.text("Test images (odd rows) above their reconstructions (even rows).\n")
    page.grid(restored)
    if "EDDPM" in shown:
        eddpm_pictures(config, page, data, *shown["EDDPM"])
    page.curves()
    return page.write(
        {
            "systems": [dict(row) for row in rows],
            "mean_rank": ranks,
            "real": dict(real),
            "floors": {rule: dict(row) for rule, row in (floors or {}).items()},
        }
    )


def floor_rows(
    data: Mapping[str, Images], judge: ImageClassifier, real: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """What the mean train image, the most frequent class and real test images score.

    Args:
      judge: see `evaluators.image_classifier`.
      real: see `images.ImageProblem.real_numbers`.
    """
    train, test = data["train"], data["test"]
    mse, mean = floor_metrics.mean_image_mse(train.image, test.image)
    same = judge.features(np.stack([mean, mean]))
    majority = floor_metrics.majority_accuracy(np.asarray(train.label), np.asarray(test.label))
    return {
        "mean image": {
            "reconstruction_mse": mse,
            "frechet_test": frechet.frechet_distance(same, judge.real_test),
            "frechet_train": frechet.frechet_distance(same, judge.real_train),
        },
        "majority class": {"probe_accuracy": majority, "knn_accuracy": majority},
        "data": {
            "frechet_test": real["frechet_floor"],
            "nearest_train_mse": real["nearest_train_mse"],
        },
    }


def eddpm_pictures(
    config: Config,
    page: report.Report,
    data: Mapping[str, Images],
    trained: System,
    artefacts: Mapping[str, Any],
) -> None:
    """Interpolations, a denoising strip, a map of the latents and an attribute edit."""
    train, test = data["train"], data["test"]
    from jaxgen.diffusion import samplers

    chain = chain_of(config)
    steps = min(config.sample.steps, chain.num_steps)
    denoise = trained.denoise
    pictures = page.workdir / "samples"

    z = jnp.asarray(encode(trained, test.image[:16]))
    a, b = z[:8], z[8:]
    weights = jnp.linspace(0.0, 1.0, 10)
    lerp = (1 - weights)[:, None, None] * a + weights[:, None, None] * b
    _save_paths(pictures / "EDDPM-interpolation-z0.png", trained, lerp)
    noise = samplers.ddim_encode(denoise, z, chain, num_steps=steps)
    slerp = jax.vmap(lambda w: spherical(noise[:8], noise[8:], w))(weights)
    flat = slerp.reshape(-1, slerp.shape[-1])
    back = samplers.ddim(denoise, flat, chain, num_steps=steps).reshape(slerp.shape)
    _save_paths(pictures / "EDDPM-interpolation-zT.png", trained, back)
    page.section("EDDPM: interpolation")
    page.text("Between pairs of test images.\n")
    page.grid(
        {
            "straight in z_0": "samples/EDDPM-interpolation-z0.png",
            "on the sphere in z_T (DDIM there and back)": "samples/EDDPM-interpolation-zT.png",
        }
    )

    start = jax.random.normal(run_key(f"denoising-{config.seed}"), (8, z.shape[-1]))
    path = samplers.ddim(denoise, start, chain, num_steps=steps, trajectory=True)
    taus = samplers.ddim_steps(chain.num_steps, steps)[::-1]
    kept = np.unique(np.round(np.linspace(0, steps, 11)).astype(int))
    guesses = [path[0]]
    for i in kept[1:]:
        t = jnp.full((8,), taus[i - 1])
        guesses.append(gaussian.predict_z0(path[i - 1], t, denoise(path[i - 1], t), chain))
    _save_paths(pictures / "EDDPM-denoising.png", trained, jnp.stack(guesses[1:]))
    page.section("EDDPM: denoising")
    page.text("The decoded guess of z_0 along DDIM, from noise (left) to sample.\n")
    page.picture("denoising", "samples/EDDPM-denoising.png")

    if train.label is not None:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE

        keep = min(1000, len(artefacts["z_train"]))
        points = TSNE(random_state=0, init="pca", perplexity=min(30, keep // 4)).fit_transform(
            PCA(min(30, z.shape[-1])).fit_transform(artefacts["z_train"][:keep])
        )
        plots.plot_scatter(
            pictures / "EDDPM-latents.png",
            points,
            artefacts["y_train"][:keep],
            title="t-SNE of mu(x)",
        )
        page.section("EDDPM: latents")
        page.text("t-SNE of train latents, coloured by class (which training never saw).\n")
        page.plot("latents", "samples/EDDPM-latents.png")
        edit(page, test, trained, artefacts)


def edit(page: report.Report, test: Images, trained: System, artefacts: Mapping[str, Any]) -> None:
    """Moves test images towards another class along the probe's direction; states how many flip."""
    probe = artefacts["probe"]
    classes = list(probe.steps[1][1].classes_)
    source, target = classes[3 % len(classes)], classes[8 % len(classes)]
    chosen = np.flatnonzero(np.asarray(test.label) == source)
    direction = probes.probe_direction(probe, int(target)) - probes.probe_direction(
        probe, int(source)
    )
    spread = float(np.std(artefacts["z_train"] @ direction / np.linalg.norm(direction)))
    direction = direction / np.linalg.norm(direction) * spread
    z = np.asarray(encode(trained, test.image[chosen]))
    strengths = np.linspace(0.0, 4.0, 9)
    path = z[None] + strengths[:, None, None] * direction
    _save_paths(page.workdir / "samples" / "EDDPM-edit.png", trained, path[:, :8])
    again = batched_apply(
        encode, trained, batched_apply(decode, trained, path.reshape(-1, z.shape[-1]))
    )
    verdict = (probe.predict(again) == target).reshape(len(strengths), -1).mean(1)
    shares = ", ".join(f"{s:g}: {v:.0%}" for s, v in zip(strengths, verdict, strict=True))
    page.section("EDDPM: attribute edit")
    page.text(
        f"Test images of class {source}, moved along the linear probe's direction from class {source} to "
        f"class {target} by 0 to 4 standard deviations. Share whose decoded and re-encoded image the probe "
        f"calls {target}, by strength: {shares}.\n"
    )
    page.picture("edit", "samples/EDDPM-edit.png")


def spherical(a: jax.Array, b: jax.Array, weight: Any) -> jax.Array:
    """Spherical interpolation between rows of a and b [B, D] (Shoemake, 1985)."""
    norm_a, norm_b = jnp.linalg.norm(a, axis=-1), jnp.linalg.norm(b, axis=-1)
    cosine = jnp.clip((a * b).sum(-1) / (norm_a * norm_b), -1.0, 1.0)
    angle = jnp.maximum(jnp.arccos(cosine), 1e-4)[:, None]
    return (jnp.sin((1 - weight) * angle) * a + jnp.sin(weight * angle) * b) / jnp.sin(angle)


def _save_paths(path: pathlib.Path, trained: System, latents: Any) -> None:
    """Decodes [K, N, D] and draws one row for each n, K columns."""
    k, n, d = latents.shape
    rows = np.asarray(latents).swapaxes(0, 1).reshape(n * k, d)
    writers.save_png(path, writers.image_grid(batched_apply(decode, trained, rows), k))
