"""BLEU over the level of noise, as tables, curves and translations."""

import pathlib
from typing import Any

from experiments.common.runs import Study
from experiments.eisl.corpus import Corpus
from jaxgen.metrics import text as text_metrics
from jaxgen.train import markup, plots, report, tables
from jaxgen.train.runs import Row

SHOWN = 5  # translations
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
    page = report.Report("EISL on translation", study.workdir, config)
    page.text(
        f"Data: {markup.literal(config.data.source)}; {sizes} pairs. Cross-entropy for {config.train.steps:,} steps of "
        f"batch {config.train.batch_size} on {start} targets, then each loss for "
        f"{config.finetune.steps:,} more on noisy ones. sacrebleu (13a) of greedy translations of the clean test "
        f"split, {config.seeds} seed(s); ± is the standard deviation over seeds. *Copy of the input*: the source "
        f"sentences as their own translations.\n\n{corpus.about_cuts()}"
    )
    test = corpus.parts["test"]
    copied = text_metrics.bleu(test.source, test.target, tokenize="13a")
    levels = sorted({r["level"] for r in rows})
    kinds = config.noise.kinds if any(levels) else ("no noise",)
    panels: dict[str, Any] = {}
    page.columns["bleu"] = "BLEU ↑"
    for kind in kinds:
        mine = [r for r in rows if r["kind"] == kind or r["level"] == 0]
        lines, drawn = [], {}
        for loss in ("start", *config.losses):
            scores = [
                [r["bleu"] for r in mine if (r["loss"], r["level"]) == (loss, level)]
                for level in levels
            ]
            lines.append([TITLES[loss], *map(tables.number, scores)])
            drawn[TITLES[loss]] = (levels, [tables.mean_and_spread(each)[0] for each in scores])
        page.section(f"BLEU: {kind}")
        header = ["loss", *(f"level {x:g} ↑" for x in levels)]
        page.table(header, lines, [["copy of the input", *[tables.Number(copied)] * len(levels)]])
        panels[kind] = drawn
    picture = study.workdir / "samples" / "bleu.png"
    plots.plot_panels(picture, panels, x="noise level", y="BLEU", marker="o")
    page.plot("BLEU over the level of noise", "samples/bleu.png")
    page.section("Translations")
    last = [r for r in rows if r["seed"] == config.seed and r["level"] == levels[-1]]
    columns: dict[str, list[str]] = {
        "source": test.source[:SHOWN],
        "reference": test.target[:SHOWN],
    }
    for r in last:
        noisy = f" ({r['kind']})" if r["level"] and len(kinds) > 1 else ""
        columns[TITLES[r["loss"]] + noisy] = r["samples"][:SHOWN]
    page.texts(columns)
    page.curves()
    return page.write({"systems": rows, "floors": {"copy of the input": {"bleu": copied}}})
