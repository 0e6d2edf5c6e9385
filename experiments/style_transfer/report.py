"""The trade-off between style and content, as a table, a curve and sentences."""

import pathlib
from typing import Any

import numpy as np

from experiments.common.runs import Study
from jaxgen.data import corpora
from jaxgen.data.tokens import TextSplit, about_cuts
from jaxgen.evaluators.controlled_text import ControlledText
from jaxgen.metrics import floors
from jaxgen.metrics import text as text_metrics
from jaxgen.train import markup, plots, report, tables
from jaxgen.train.runs import Row

COLUMNS = {
    "accuracy": "accuracy ↑",
    "bleu": "input-BLEU ↑",
    "ppl": "PPL ↓",
    "mean": "geometric mean ↑",
}


def evaluate(
    judges: ControlledText, texts: list[str], test: TextSplit, asked: np.ndarray
) -> dict[str, float]:
    """Numbers of test sentences that were moved to the styles asked for."""
    right = judges.accuracy(texts, {"sentiment": asked})
    row = {
        "accuracy": float(right.mean()),
        "bleu": text_metrics.bleu(texts, test.text),
        "ppl": judges.perplexity(texts),
    }
    return row | {"mean": judges.mean(row["accuracy"], row["ppl"], row["bleu"] / 100.0)}


def write(
    study: Study[dict[str, TextSplit]],
    judges: ControlledText,
    rows: list[Row],
    shown: dict[Any, list[str]],
    test: TextSplit,
    asked: np.ndarray,
) -> pathlib.Path:
    """The table, the trade-off between style and content, and sentences; returns the report's path."""
    config = study.config
    page = report.Report("Style transfer", study.workdir, config)
    page.text(
        f"Data: {markup.literal(config.data.source)}. Every model: {config.train.steps:,} steps of batch "
        f"{config.train.batch_size}, {config.seeds} seed(s); ± is the standard deviation over seeds. "
        f"{len(test):,} test sentences moved to the other sentiment. Accuracy: {markup.literal(judges.attributes.about())}. "
        f"PPL under a language model of real sentences (which are at {judges.real_ppl:.1f}), "
        "geometric mean over accuracy, input-BLEU / 100 and min(1, PPL of real / PPL). The last rows are no "
        "models: *copy of the input* leaves sentences as they are, *majority class* always writes the style "
        f"that is asked most often.\n\n{about_cuts(study.data)}"
    )
    lines: list[list[Any]] = []
    drawn: dict[str, Any] = {}
    for content in config.losses:
        points = []
        for weight in config.transfer.content_weights:
            mine = [r for r in rows if (r["loss"], r["weight"]) == (content, weight)]
            each = {
                k: tables.Number(*tables.mean_and_spread([r[k] for r in mine])) for k in COLUMNS
            }
            lines.append([content.upper(), f"{weight:g}", *each.values()])
            points.append((each["accuracy"].mean, each["bleu"].mean))
        drawn[content.upper()] = tuple(zip(*sorted(points), strict=True))
    unchanged = evaluate(judges, test.text, test, asked)
    rules = {
        "copy of the input": unchanged,
        "majority class": {"accuracy": floors.majority_accuracy(asked, asked)},
    }
    below = [
        [rule, tables.NONE, *(tables.number([values[k]] if k in values else []) for k in COLUMNS)]
        for rule, values in rules.items()
    ]
    page.section("Results")
    page.columns |= COLUMNS
    page.table(["content loss", "weight", *COLUMNS.values()], lines, below)
    plots.plot_curves(
        study.workdir / "samples" / "tradeoff.png", drawn, x="accuracy", y="input-BLEU"
    )
    page.plot("Content over style", "samples/tradeoff.png")
    best = {
        content: max(
            (r for r in rows if r["loss"] == content and r["seed"] == config.seed),
            key=lambda r: r["mean"],
        )["weight"]
        for content in config.losses
    }
    page.section("Sentences")
    most = min(40, len(test))
    page.texts(
        {
            "before": test.text[:most],
            "asked": [corpora.SENTIMENTS[style] for style in asked[:most]],
            **{f"{k.upper()}, weight {w:g}": shown[k, w][:most] for k, w in best.items()},
        }
    )
    page.curves()
    return page.write({"systems": rows, "unchanged": unchanged, "floors": rules})
