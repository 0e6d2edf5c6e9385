"""Tables and readable sequences of a study on text or proteins."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.eddpm.systems import Shown
from jaxgen.config import Config
from jaxgen.data.tokens import about_cuts
from jaxgen.train import markup, report

# These decide the mean rank, one for each capability.
RANKED = {
    "text": ("bleu", "generation", "probe_accuracy"),
    "proteins": ("token_accuracy", "generation", "probe_r2"),
}
COLUMNS = {
    "bleu": "reconstruction BLEU ↑",
    "token_accuracy": "reconstruction token accuracy ↑",
    "generation": "generation √(PPL·reverse PPL) ↓",
    "probe_accuracy": "linear probe ↑",
    "probe_r2": "probe R² ↑",
    "exact_match": "exact match ↑",
    "sample_ppl": "sample PPL ↓",
    "reverse_ppl": "reverse PPL ↓",
    "pretrained_ppl": "PPL of a pretrained LM ↓",
    "mauve": "MAUVE ↑",
    "self_bleu": "self-BLEU ↓",
    "distinct_2": "distinct-2 ↑",
    "diversity": "diversity ↑",
    "memorised": "memorised 4-grams",
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
    "parameters": "parameters",
}

SHOWN = 20  # samples and reconstructions
FLOORS = (
    "The last rows are no systems. *Constant consensus*: the most frequent token of each position in the "
    "train split, for every test sequence; *copy of the input*: the test sequence itself; *unigram*: a model of "
    "the train split's token frequencies, in place of one of samples; *data*: real train sequences in place of "
    "samples (memorised 4-grams: of test sequences); *majority class*: the train split's most frequent label.\n"
)
MEASURES = (
    "MAUVE (Pillutla et al., 2021) compares samples with real test sequences in the features of a language model of "
    "{reader}; diversity is the product of distinct-2, -3 and -4; memorised is the share of 4-grams that stand in a "
    "train sequence.\n\n"
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
    kind = "text" if config.data.kind == "text" else "proteins"
    page = report.Report(f"EDDPM on {kind}", workdir, config)
    sizes = ", ".join(f"{len(part):,} {markup.literal(name)}" for name, part in data.items())
    v = data["train"].vocabulary
    measured = ", ".join(f"{markup.literal(k.replace('_', ' '))} {x:.4g}" for k, x in real.items())
    page.text(
        f"Data: {markup.literal(' '.join([config.data.source, *config.data.train]))}; "
        f"{sizes} sequences of at most "
        f"{v.length} tokens, vocabulary {v.size:,}. {config.train.steps:,} steps of batch "
        f"{config.train.batch_size} for every system (and as many again for the second of the two "
        f"stages), {config.seeds} seed(s); ± is the standard deviation over seeds.\n\n"
        + about_cuts(data)
    )
    reader = "other text, pretrained" if config.judge.lm_path else "the train split"
    measures = MEASURES.format(reader=reader) if kind == "text" else ""
    page.section("Results")
    ranks = page.comparison(rows, COLUMNS, ranked=RANKED[kind], rules=floors)
    page.text(
        f"Reconstruction: the first {config.judge.test_rows:,} test sequences at even distances, "
        f"decoded greedily from z alone. Generation: {config.sample.count:,} samples; sample PPL is "
        "under a language model of real sequences, reverse PPL that of real test sequences under a "
        "language model of the samples. The mean rank is over the first three columns, among systems "
        "that have all three.\n\n"
        f"{measures}{FLOORS if kind == 'text' else FLOORS + R2_FLOOR}\n"
        f"**Real sequences in place of samples**: {measured}.\n"
    )
    made = {label: artefacts for label, (_, artefacts) in shown.items()}
    restored = {label: a for label, a in made.items() if "restored" in a}
    page.section("Samples")
    page.texts({label: a["samples"][:SHOWN] for label, a in made.items()})
    if restored:
        first = next(iter(restored.values()))
        page.section("Reconstructions")
        page.texts(
            {"test": first["originals"][:SHOWN]}
            | {label: a["restored"][:SHOWN] for label, a in restored.items()}
        )
        page.section("Between two test sequences")
        for number in range(len(first["paths"])):
            page.text("Interpolation\n")
            page.texts({label: a["paths"][number] for label, a in restored.items()})
    for label, artefacts in made.items():
        if "ascent" in artefacts:
            page.section(f"Ascent of the predicted value: {label}")
            page.text(
                "Values (standardised) are judged by gradient-boosted trees on letters, which neither "
                "steer nor rank. " + artefacts["ascent"]
            )
    page.curves()
    return page.write(
        {
            "systems": [dict(row) for row in rows],
            "mean_rank": ranks,
            "real": dict(real),
            "floors": {rule: dict(row) for rule, row in (floors or {}).items()},
        }
    )
