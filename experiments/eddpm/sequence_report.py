"""Tables and readable sequences of a study on text or proteins."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.eddpm.image_report import curves
from experiments.eddpm.systems import Shown
from jaxgen.config import Config
from jaxgen.data.tokens import about_cuts
from jaxgen.train import markup, report

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
    "ascent_regressor_r2": "latent regressor R² ↑",
    "gradient_ascent_value": "best by ascent ↑",
    "probe_accuracy": "linear probe ↑",
    "parameters": "parameters",
}

FLOORS = (
    "The last rows are no systems. *Constant consensus*: the most frequent token of each position in the "
    "train split, for every test sequence; *copy of the input*: the test sequence itself; *unigram*: a model of "
    "the train split's token frequencies, in place of one of samples; *data*: real train sequences in place of "
    "samples; *majority class*: the train split's most frequent label.\n"
)
R2_FLOOR = "\nA constant prediction of values has R² 0.\n"


def write(
    config: Config,
    workdir: pathlib.Path,
    data: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    shown: Mapping[str, Shown],
    real: Mapping[str, float],
    floors: Mapping[str, Mapping[str, float]] | None = None,
) -> pathlib.Path:
    """Writes the report; returns its path. Arguments as in `image_report.write`."""
    ranked = TEXT_RANKED if config.data.kind == "text" else PROTEIN_RANKED
    text, ranks = report.comparison_table(rows, ranked, OTHERS, floors)
    sizes = ", ".join(f"{len(part):,} {markup.literal(name)}" for name, part in data.items())
    v = data["train"].vocabulary
    measured = ", ".join(f"{markup.literal(k.replace('_', ' '))} {x:.4g}" for k, x in real.items())
    body = [
        f"Data: {markup.literal(' '.join([config.data.source, *config.data.train]))}; "
        f"{sizes} sequences of at most "
        f"{v.length} tokens, vocabulary {v.size:,}. {config.train.steps:,} steps of batch "
        f"{config.train.batch_size} for every system (and as many again for the second of the two "
        f"stages), {config.seeds} seed(s); ± is the standard deviation over seeds.\n",
        about_cuts(data),
        text,
        f"Reconstruction: the first {config.judge.test_rows:,} test sequences at even distances, "
        f"decoded greedily from z alone. Generation: {config.sample.count:,} samples; sample PPL is "
        "under a language model of real sequences, reverse PPL that of real test sequences under a "
        "language model of the samples. The mean rank is over the first three columns, among systems "
        "that have all three.\n",
        FLOORS if config.data.kind == "text" else FLOORS + R2_FLOOR,
        f"**Real sequences in place of samples**: {measured}.\n",
    ]
    for label, (_, artefacts) in shown.items():
        body.append(f"## {markup.literal(label)}\n")
        body.append("Samples (the first 20)\n\n" + markup.listing(artefacts["samples"][:20]))
        if "restored" in artefacts:
            pairs = zip(artefacts["originals"][:20], artefacts["restored"][:20], strict=True)
            body.append(
                "Test sequences and their reconstructions (the first 20)\n\n"
                + report.markdown_table(["test", "reconstruction"], [list(p) for p in pairs])
            )
            for path in artefacts["paths"]:
                body.append("Interpolation\n\n" + markup.listing(path))
        if "ascent" in artefacts:
            body.append(
                "### Ascent of the predicted value\n\nValues (standardised) are judged by "
                "gradient-boosted trees on letters, which neither steer nor rank. "
                + artefacts["ascent"]
            )
    body.append(curves(workdir))
    results = {
        "systems": [dict(row) for row in rows],
        "mean_rank": ranks,
        "real": dict(real),
        "floors": {rule: dict(row) for rule, row in (floors or {}).items()},
        "config": config.to_dict(),
    }
    title = "EDDPM on text" if config.data.kind == "text" else "EDDPM on proteins"
    return report.write(workdir, title, "\n".join(body), results)
