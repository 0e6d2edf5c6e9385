"""Tables of numbers: mean ± spread over seeds, the best of each column marked, mean ranks.

A column's title says by its arrow which way is better, `Fréchet to test ↓`; one without an arrow has no best.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxgen.train import markup
from jaxgen.train.writers import Json

NONE = "–"
ARROWS = {"↑": True, "↓": False}  # arrow -> higher is better


class Number(NamedTuple):
    """A cell that can be the best of its column."""

    mean: float
    spread: float = math.nan

    def __str__(self) -> str:
        return format_value(*self)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation over seeds; the spread of one value is NaN."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return float(np.mean(values)), spread


def number(values: Iterable[float]) -> Number | str:
    """The cell of a metric over seeds; a dash where there are none."""
    found = list(values)
    return Number(*mean_and_spread(found)) if found else NONE


def summarise(
    rows: Sequence[Mapping[str, Json]], metrics: Sequence[str]
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


def best_cells(header: Sequence[object], rows: Sequence[Sequence[object]]) -> set[tuple[int, int]]:
    """(row, column) of the best `Number` of each column with an arrow, and of those that read the same.

    A column that is one number throughout has none.
    """
    found = set()
    for j, title in enumerate(header):
        higher = ARROWS.get(str(title)[-1:])
        column = [row[j] for row in rows]
        cells = [(i, c) for i, c in enumerate(column) if isinstance(c, Number)]
        cells = [(i, c) for i, c in cells if math.isfinite(c.mean)]
        if higher is None or len({format_value(c.mean, math.nan) for _, c in cells}) < 2:
            continue
        best = (max if higher else min)(cell.mean for _, cell in cells)
        text = format_value(best, math.nan)
        found |= {(i, j) for i, cell in cells if format_value(cell.mean, math.nan) == text}
    return found


def markdown_table(
    header: Sequence[object],
    rows: Sequence[Sequence[object]],
    best: Iterable[tuple[int, int]] = (),
) -> str:
    """A table in pipe syntax. Header and cells are text, not markup: see `markup.literal`.

    Args:
      best: (row, column) of cells in bold.
    """
    cells = [list(map(markup.cell, row)) for row in rows]
    for i, j in best:
        cells[i][j] = f"**{cells[i][j]}**"
    titles = [re.sub(" (?=[↑↓]$)", "\u00a0", markup.cell(title)) for title in header]  # on one line
    lines = ["| " + " | ".join(row) + " |" for row in (titles, *cells)]
    lines.insert(1, "|" + " --- |" * len(header))
    return "\n".join(lines) + "\n"


def number_table(
    header: Sequence[object],
    rows: Sequence[Sequence[object]],
    rules: Sequence[Sequence[object]] = (),
) -> str:
    """`markdown_table` with the best of each column in bold.

    Args:
      rules: rows of what is no system, such as a constant prediction; shown below, and never the best.
    """
    return markdown_table(header, [*rows, *rules], best_cells(header, rows))


def comparison_table(
    rows: Sequence[Mapping[str, Json]],
    columns: Mapping[str, str],
    *,
    ranked: Sequence[str] = (),
    rules: Mapping[str, Mapping[str, float | tuple[float, float]]] | None = None,
    label: str = "system",
) -> tuple[str, dict[str, float]]:
    """Markdown table, one line a system, and the mean ranks of systems that have all ranked metrics.

    Args:
      rows: one a system and seed.
      columns: metric -> column title. `parameters` is shown as a whole number, a metric that a system
        lacks as a dash, and one that no system has not at all.
      ranked: metrics that decide the mean rank; they stand first, the rank behind them.
      rules: rule -> its metrics (or mean and spread), shown below the systems; a rule has no rank.
      label: title of the systems' column.
    """
    there = {m for row in rows for m in row}
    ranked = [m for m in ranked if m in there]
    others = [m for m in columns if m in there and m not in ranked]
    summary = summarise(rows, [*ranked, *others])
    ranks = mean_ranks(summary, {m: ARROWS[columns[m][-1]] for m in ranked}) if ranked else {}

    def cells(values: Mapping[str, Json], rank: Number | str) -> list[Number | str]:
        def cell(metric: str) -> Number | str:
            if metric not in values:
                return NONE
            value = values[metric]
            found = Number(*value) if isinstance(value, tuple) else Number(float(value))
            return f"{found.mean:,.0f}" if metric == "parameters" else found

        return [*map(cell, ranked), *([rank] if ranked else []), *map(cell, others)]

    lines = [
        [system, *cells(values, Number(ranks[system]) if system in ranks else NONE)]
        for system, values in summary.items()
    ]
    below = [
        [rule, *cells(scores, NONE)]
        for rule, scores in (rules or {}).items()
        if scores.keys() & {*ranked, *others}
    ]
    rank = ["mean rank ↓"] if ranked else []
    header = [label, *(columns[m] for m in ranked), *rank, *(columns[m] for m in others)]
    return number_table(header, lines, below), ranks
