"""BLEU over the level of noise, as tables, curves and translations."""

import math
import pathlib
from typing import Any

from experiments.common.runs import Study
from experiments.eddpm.image_report import curves
from experiments.eisl.corpus import Corpus
from jaxgen.metrics import text as text_metrics
from jaxgen.train import markup, report
from jaxgen.train.runs import Row

TITLES = {
    "start": "CE (the start)",
    "ce": "CE",
    "smoothing": "label smoothing",
    "pg": "policy gradient",
    "eisl": "EISL",
}


def write(study: Study[Corpus], rows: list[Row]) -> pathlib.Path:
    """The tables and the curves of BLEU over level; returns the report's path."""
    config, corpus = study.config, study.data
    start = config.noise.start
    sizes = ", ".join(
        f"{len(part):,} {markup.literal(name)}" for name, part in corpus.parts.items()
    )
    body = [
        f"Data: {markup.literal(config.data.source)}; {sizes} pairs. Cross-entropy for {config.train.steps:,} steps of "
        f"batch {config.train.batch_size} on {start} targets, then each loss for "
        f"{config.finetune.steps:,} more on noisy ones. sacrebleu (13a) of greedy translations of the clean test "
        f"split, {config.seeds} seed(s); ± is the standard deviation over seeds. *Copy of the input*: the source "
        "sentences as their own translations.\n"
    ]
    test = corpus.parts["test"]
    copied = text_metrics.bleu(test.source, test.target, tokenize="13a")
    levels = sorted({r["level"] for r in rows})
    kinds = config.noise.kinds if any(levels) else ("no noise",)
    panels: dict[str, Any] = {}
    for kind in kinds:
        mine = [r for r in rows if r["kind"] == kind or r["level"] == 0]
        lines, drawn = [], {}
        for loss in ("start", *config.losses):
            cell, points = [], []
            for level in levels:
                scores = [r["bleu"] for r in mine if (r["loss"], r["level"]) == (loss, level)]
                mean, spread = report.mean_and_spread(scores)
                cell.append(report.format_value(mean, spread))
                points.append(mean)
            lines.append([TITLES[loss], *cell])
            drawn[TITLES[loss]] = (levels, points)
        lines.append(["copy of the input", *[report.format_value(copied, math.nan)] * len(levels)])
        body.append(f"## {markup.literal(kind)}\n")
        body.append(report.markdown_table(["loss", *(f"level {x:g}" for x in levels)], lines))
        panels[kind] = drawn
    body.append(corpus.about_cuts())
    picture = study.workdir / "samples" / "bleu.png"
    report.plot_panels(picture, panels, x="noise level", y="BLEU", marker="o")
    body.append("![BLEU over the level of noise](samples/bleu.png)\n")
    body.append("## Translations\n")
    last = [r for r in rows if r["seed"] == config.seed and r["level"] == levels[-1]]
    body.append(
        report.markdown_table(
            ["noise", "loss", "source", "translation", "reference"],
            [
                [
                    r["kind"] if r["level"] else "none",
                    TITLES[r["loss"]],
                    test.source[i],
                    text,
                    test.target[i],
                ]
                for r in last
                for i, text in enumerate(r["samples"][:3])
            ],
        )
    )
    body.append(curves(study.workdir))
    floors = {"copy of the input": {"bleu": copied}}
    results = {"systems": rows, "floors": floors, "config": config.to_dict()}
    return report.write(study.workdir, "EISL on translation", "\n".join(body), results)
