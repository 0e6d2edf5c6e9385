"""The report of an experiment: results.json, report.md, and report.html with everything inlined."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxgen.train import markup
from jaxgen.train.writers import write_atomic

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:980px;margin:2em auto;padding:0 1em;"
    "overflow-wrap:break-word}"
    "table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:.3em .7em}td{max-width:28em;white-space:pre-wrap}"
    "img{max-width:100%;image-rendering:pixelated}"
    "pre{background:#f3f3f3;padding:.5em;white-space:pre-wrap}"
)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation over seeds; the spread of one value is NaN."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return float(np.mean(values)), spread


def summarise(
    rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]
) -> dict[str, dict[str, tuple[float, float]]]:
    """{system: {metric: (mean, spread)}} from one row a system and seed, systems in first order."""
    systems = list(dict.fromkeys(r["system"] for r in rows))
    return {
        s: {
            m: mean_and_spread([float(r[m]) for r in rows if r["system"] == s and m in r])
            for m in metrics
            if any(r["system"] == s and m in r for r in rows)
        }
        for s in systems
    }


def mean_ranks(
    summary: Mapping[str, Mapping[str, tuple[float, float]]], higher_is_better: Mapping[str, bool]
) -> dict[str, float]:
    """Mean over the named metrics of each system's rank (1 is best; ties share their mean rank).

    Systems that lack one of the metrics are left out.
    """
    from scipy.stats import rankdata

    systems = [s for s, v in summary.items() if all(m in v for m in higher_is_better)]
    ranks = np.zeros(len(systems))
    for metric, higher in higher_is_better.items():
        values = np.array([summary[s][metric][0] for s in systems])
        ranks += rankdata(-values if higher else values)
    return dict(zip(systems, (ranks / len(higher_is_better)).tolist(), strict=True))


def format_value(mean: float, spread: float, digits: int = 3) -> str:
    """`mean ± spread`, with as many decimals as `digits` significant figures of the mean need."""
    if not math.isfinite(mean):
        return str(mean)
    if abs(mean) < 0.5e-6:  # nothing of it would be seen
        mean = 0.0
    decimals = digits - 1 - (math.floor(math.log10(abs(mean))) if mean else 0)
    decimals = min(max(decimals, 0), 6)
    text = f"{mean:.{decimals}f}"
    return text if math.isnan(spread) else f"{text} ± {spread:.{decimals}f}"


def markdown_table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """A table in pipe syntax. Header and cells are text, not markup: see `markup.literal`."""
    lines = ["| " + " | ".join(map(markup.cell, row)) + " |" for row in (header, *rows)]
    lines.insert(1, "|" + " --- |" * len(header))
    return "\n".join(lines) + "\n"


def comparison_table(
    rows: Sequence[Mapping[str, Any]],
    ranked: Mapping[str, tuple[str, bool]],
    others: Mapping[str, str],
    floors: Mapping[str, Mapping[str, float]] | None = None,
) -> tuple[str, dict[str, float]]:
    """Markdown table, one line a system, and the mean ranks of systems that have all ranked metrics.

    Args:
      rows: one a system and seed.
      ranked: metric -> (column title, higher is better); these decide the mean rank.
      others: metric -> column title, shown after it. `parameters` is shown as a whole number, a
        metric that a system lacks as a dash, and one that no system has not at all.
      floors: rule -> its metrics, shown below the systems; a rule has no rank.
    """
    there = {m for row in rows for m in row}
    ranked = {m: v for m, v in ranked.items() if m in there}
    others = {m: title for m, title in others.items() if m in there and m not in ranked}
    summary = summarise(rows, [*ranked, *others])
    ranks = mean_ranks(summary, {m: higher for m, (_, higher) in ranked.items()})
    lines = []
    for system, values in summary.items():

        def cell(m: str, values: Any = values) -> str:
            if m not in values:
                return "–"
            return f"{values[m][0]:,.0f}" if m == "parameters" else format_value(*values[m])

        rank = f"{ranks[system]:.2f}" if system in ranks else "–"
        lines.append([system, *map(cell, ranked), rank, *map(cell, others)])
    for rule, scores in (floors or {}).items():
        each = [
            format_value(scores[m], math.nan) if m in scores else "–" for m in [*ranked, *others]
        ]
        if set(each) != {"–"}:
            lines.append([rule, *each[: len(ranked)], "–", *each[len(ranked) :]])
    header = ["system", *(t for t, _ in ranked.values()), "mean rank ↓", *others.values()]
    return markdown_table(header, lines), ranks


def write(workdir: pathlib.Path, title: str, body: str, results: Mapping[str, Any]) -> pathlib.Path:
    """Writes `results.json`, `report.md` and `report.html`; returns the path of the last.

    Args:
      body: markdown, in which data went through `markup.literal`; pictures are those of `markup.image`.
        The HTML holds them itself, so that the one file can be sent to somebody.
    """
    write_atomic(workdir / "results.json", json.dumps(results, indent=2) + "\n")
    text = f"# {markup.literal(title)}\n\n{body}"
    write_atomic(workdir / "report.md", text)
    page = markup.page(title, markup.to_html(text, workdir), style=STYLE)
    write_atomic(workdir / "report.html", page)
    return workdir / "report.html"


def plot_curves(
    path: pathlib.Path,
    curves: Mapping[str, tuple[Any, Any]],
    *,
    x: str,
    y: str,
    log_y: bool = False,
) -> None:
    """One line for each named (xs, ys), two sequences of numbers."""
    plot_panels(path, {"": curves}, x=x, y=y, log_y=log_y)


def plot_panels(
    path: pathlib.Path,
    panels: Mapping[str, Mapping[str, tuple[Any, Any]]],
    *,
    x: str,
    y: str,
    log_y: bool = False,
    marker: str = "",
) -> None:
    """`plot_curves` of each title side by side, on one y axis.

    Args:
      marker: of single points, as matplotlib has them; "" for none.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 + 4 * len(panels), 4), layout="constrained")
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, curves) in zip(every, panels.items(), strict=True):
        for xs, ys in curves.values():
            axes.plot(xs, ys, label="-", linewidth=1.2, marker=marker, markersize=4)
        axes.set_title(markup.visible(title), parse_math=False)
        axes.set_xlabel(markup.visible(x), parse_math=False)
        if log_y:
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
    every[0].set_ylabel(markup.visible(y), parse_math=False)
    legend = every[-1].legend(fontsize="small")
    for entry, name in zip(legend.get_texts(), curves, strict=True):  # whatever a name holds
        entry.set_text(markup.visible(name))
        entry.set_parse_math(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def plot_scatter(path: pathlib.Path, points: Any, labels: Any, *, title: str) -> None:
    """2-D points [N, 2] coloured by integer label [N]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    image = axes.scatter(points[:, 0], points[:, 1], c=labels, cmap="tab10", s=8)
    figure.colorbar(image, ax=axes, label="class")
    axes.set_title(markup.visible(title), parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
