"""Tables and readable sequences of a study on text or proteins."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import systems
from experiments.image_report import curves
from jaxgen.config import Config
from jaxgen.latent_ode import ascent
from jaxgen.metrics import probes
from jaxgen.train import report

# Metric: (column title, higher is better). These decide the mean rank, one for each capability.
TEXT_RANKED = {
    "bleu": ("reconstruction BLEU ↑", True),
    "generation": ("generation √(PPL·reverse PPL) ↓", False),
    "probe_accuracy": ("linear probe ↑", True),
}
PROTEIN_RANKED = {
    "token_accuracy": ("reconstruction token accuracy ↑", True),
    "generation": ("generation √(PPL·reverse PPL) ↓", False),
    "probe_r2": ("probe R² ↑", True),
}
OTHERS = {
    "token_accuracy": "token accuracy ↑",
    "exact_match": "exact match ↑",
    "sample_ppl": "sample PPL ↓",
    "reverse_ppl": "reverse PPL ↓",
    "self_bleu": "self-BLEU ↓",
    "distinct_2": "distinct-2 ↑",
    "grammatical": "grammatical ↑",
    "valid": "valid ↑",
    "novel": "novel",
    "unique": "unique ↑",
    "predicted_value": "predicted value",
    "probe_spearman": "probe Spearman ↑",
    "regressor_r2": "joint regressor R² ↑",
    "regressor_spearman": "joint regressor Spearman ↑",
    "probe_accuracy": "linear probe ↑",
    "parameters": "parameters",
}


def write(
    config: Config,
    workdir: pathlib.Path,
    data: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    shown: Mapping[str, tuple[systems.Trained, Mapping[str, Any]]],
    real: Mapping[str, float],
) -> pathlib.Path:
    """Writes the report; returns its path. Arguments as in `image_report.write`."""
    ranked = TEXT_RANKED if config.data.kind == "text" else PROTEIN_RANKED
    text, ranks = report.comparison_table(rows, ranked, OTHERS)
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in data.items())
    v = data["train"].vocabulary
    measured = ", ".join(f"{k.replace('_', ' ')} {x:.4g}" for k, x in real.items())
    body = [
        f"Data: {config.data.source} {' '.join(config.data.train)}; {sizes} sequences of at most "
        f"{v.length} tokens, vocabulary {v.size:,}. {config.train.steps:,} steps of batch "
        f"{config.train.batch_size} for every system (and as many again for the second of the two "
        f"stages), {config.seeds} seed(s); ± is the standard deviation over seeds.\n",
        text,
        f"Reconstruction: the first {config.judge.test_rows:,} test sequences at even distances, "
        f"decoded greedily from z alone. Generation: {config.sample.count:,} samples; sample PPL is "
        "under a language model of real sequences, reverse PPL that of real test sequences under a "
        "language model of the samples. The mean rank is over the first three columns, among systems "
        "that have all three.\n",
        f"**Real sequences in place of samples**: {measured}.\n",
    ]
    for label, (_, artefacts) in shown.items():
        body.append(f"## {label}\n")
        body.append("Samples (the first 20)\n\n" + listing(artefacts["samples"][:20]))
        if "restored" in artefacts:
            pairs = zip(artefacts["originals"][:20], artefacts["restored"][:20], strict=True)
            body.append(
                "Test sequences and their reconstructions (the first 20)\n\n"
                + report.markdown_table(["test", "reconstruction"], [list(p) for p in pairs])
            )
            for path in artefacts["paths"]:
                body.append("Interpolation\n\n" + listing(path))
        if "ascent" in artefacts:
            body.append(
                "### Ascent of the predicted value\n\n"
                "From latents of train sequences, along the gradient of the value that the model "
                "predicts; values (standardised) are predicted by the independent regressor, which is "
                "gradient-boosted trees on letters. Distance: letters that differ from the nearest "
                "train sequence. The best decile of train has mean value "
                f"{real['best_decile']:.3g}.\n\n" + artefacts["ascent"]
            )
    body.append(curves(workdir))
    results = {
        "systems": [dict(row) for row in rows],
        "mean_rank": ranks,
        "real": dict(real),
        "config": config.to_dict(),
    }
    title = "EDDPM on text" if config.data.kind == "text" else "EDDPM on proteins"
    return report.write(workdir, title, "\n".join(body), results)


def listing(texts: Sequence[str]) -> str:
    """A fenced block, one text a line."""
    return "```\n" + "\n".join(texts) + "\n```\n"


def ascend(
    config: Config, judge: Any, model: Any, t: systems.Trained, train: Any, z_train: Any
) -> str:
    """Raises the predicted value from random and from good starts; a table of what came of it."""
    a = config.ascent
    assert t.decode is not None
    if model.regressor is not None:

        def score(z):
            return model.regressor(z[None])[0, 0]

    else:
        _, _, probe = probes.ridge_probe(z_train, train.value, z_train, train.value)
        scaler, ridge = probe.steps[0][1], probe.steps[1][1]
        direction = jnp.asarray(ridge.coef_ / scaler.scale_, jnp.float32)

        def score(z):
            return z @ direction

    rng = np.random.default_rng(0)
    best = np.flatnonzero(train.value >= np.quantile(train.value, 0.9))
    starts = {
        "random train sequences": rng.integers(0, len(train), a.count),
        "best decile of train": rng.choice(best, a.count),
    }
    lines = []
    for name, index in starts.items():
        z = jnp.asarray(z_train[index])
        moved = {"decoded as they are": z}
        moved["gradient ascent"] = ascent.gradient_ascent(
            score, z, steps=a.steps, rate=a.rate, penalty=a.penalty
        )
        moved["ODE"], _ = ascent.ascent_ode(score, z, time=a.steps * a.rate, penalty=a.penalty)
        for how, end in moved.items():
            kept = np.asarray(end)[np.isfinite(np.asarray(end)).all(-1)]
            ids = systems.in_batches(t.decode, kept)
            distance = nearest_distance(ids, train.x["target"])
            value = judge.predict(ids)
            lines.append(
                [
                    name,
                    how,
                    f"{value.mean():.3f} ± {value.std():.3f}",
                    f"{distance.mean():.2f}",
                    f"{(distance > 0).mean():.0%}",
                    str(len(kept)),
                ]
            )
    header = ["start", "method", "predicted value", "distance to train", "novel", "sequences"]
    return report.markdown_table(header, lines)


def nearest_distance(a: np.ndarray, b: np.ndarray, *, block: int = 16) -> np.ndarray:
    """Hamming distance of each row of a [N, T] to its nearest row of b [M, T]."""
    parts = [(a[i : i + block, None] != b[None]).sum(-1).min(1) for i in range(0, len(a), block)]
    return np.concatenate(parts)
