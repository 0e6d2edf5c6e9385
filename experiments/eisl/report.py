"""BLEU over the level of noise, as tables, curves and translations; and over steps, where weights are chosen."""

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
    "best_of": "best of four",
    "eisl": "EISL",
    "eisl12": "EISL, authors' n-grams",
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
    choice = config.selection
    if choice.start_every or choice.every:
        page.text(_about_choice(study))
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
    _learning_curves(page, study, rows)
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


def _about_choice(study: Study[Corpus]) -> str:
    choice = study.config.selection
    pairs = min(choice.rows or len(study.data.parts["valid"]), len(study.data.parts["valid"]))
    looks = [
        f"every {steps:,} steps of {of}"
        for steps, of in ((choice.start_every, "the start"), (choice.every, "each loss"))
        if steps
    ]
    return (
        f"Weights are those of the highest BLEU on {pairs:,} clean valid pairs, looked at "
        f"{' and '.join(looks)}; the share of unknown tokens (blanks) in translations and the step chosen are in "
        "`results.json`.\n"
    )


def _learning_curves(page: report.Report, study: Study[Corpus], rows: list[Row]) -> None:
    """BLEU on valid over the steps of each loss, from the start's on; a picture for each kind of noise."""
    drawn: dict[str, str] = {}
    for kind in dict.fromkeys(r["kind"] for r in rows):
        panels: dict[str, Any] = {}
        for level in sorted({r["level"] for r in rows if r["kind"] == kind}):
            mine = [r for r in rows if (r["kind"], r["level"]) == (kind, level)]
            begin = [_best(r["curve"]) for r in mine if r["loss"] == "start" and r.get("curve")]
            lines = {}
            for loss in study.config.losses:
                curves = [r["curve"] for r in mine if r["loss"] == loss and r.get("curve")]
                if not curves:
                    continue
                steps = [step for step, _ in curves[0]]
                means = [
                    tables.mean_and_spread([c[i][1] for c in curves])[0] for i in range(len(steps))
                ]
                if begin:
                    steps, means = [0, *steps], [tables.mean_and_spread(begin)[0], *means]
                lines[TITLES[loss]] = (steps, means)
            if lines:
                panels[f"level {level:g}"] = lines
        if panels:
            path = f"samples/valid-{kind}.png"
            plots.plot_panels(study.workdir / path, panels, x="step", y="BLEU on valid", marker="o")
            drawn[f"{kind}: BLEU on clean valid pairs over the steps of each loss"] = path
    if drawn:
        page.section("Learning curves")
        page.grid(drawn, plots=True)


def _best(curve: list[tuple[int, float]]) -> float:
    return max(score for _, score in curve)
