"""Plots of reports as PNG files; names are shown as they are, whatever they hold."""

import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from numpy import ndarray

from jaxgen.train import markup
from jaxgen.train.writers import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D

Numbers = Sequence[float | int] | ndarray
Colour = str | tuple[float, ...] | ndarray

CURVES = ("loss", "valid_nll", "reconstruction", "eps_mse")
_DASHES = ("-", "--", ":", "-.")
_MOST_NAMES = 24  # of a legend
_MOST_INSIDE = 8  # of one inside the axes


def plot_curves(
    path: pathlib.Path,
    curves: Mapping[str, tuple[Numbers, Numbers]],
    *,
    x: str,
    y: str,
    log_y: bool = False,
) -> None:
    """One line for each named (xs, ys), two sequences of numbers."""
    plot_panels(path, {"": curves}, x=x, y=y, log_y=log_y)


def plot_panels(
    path: pathlib.Path,
    panels: Mapping[str, Mapping[str, tuple[Numbers, Numbers]]],
    *,
    x: str,
    y: str,
    log_y: bool = False,
    marker: str = "",
) -> None:
    """`plot_curves` of each title side by side, on one y axis. More names than an axis has room for stand below.

    Args:
      marker: of single points, as matplotlib has them; "" for none.
    """
    from matplotlib.figure import Figure

    most = max(map(len, panels.values()), default=0)
    below = most if most > _MOST_INSIDE else 0
    size = (3 + 4 * len(panels), 4 + 0.2 * (below // 3))
    figure = Figure(figsize=size, layout="constrained")
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    colours = _colours(most)
    for axes, (title, curves) in zip(every, panels.items(), strict=True):
        for (xs, ys), colour in zip(curves.values(), colours, strict=False):
            axes.plot(xs, ys, label="-", color=colour, linewidth=1.2, marker=marker, markersize=4)
        _label(axes, title, x, y if axes is every[0] else "", log_y)
    if below:
        _name_below(figure, dict(zip(curves, every[-1].lines, strict=True)))
    else:
        _name(every[-1].legend(fontsize="small"), curves)
    _save(figure, path)


def plot_scatter(path: pathlib.Path, points: ndarray, labels: ndarray, *, title: str) -> None:
    """2-D points [N, 2] coloured by integer label [N]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    image = axes.scatter(points[:, 0], points[:, 1], c=labels, cmap="tab10", s=8)
    figure.colorbar(image, ax=axes, label="class")
    axes.set_title(markup.visible(title), parse_math=False)
    _save(figure, path)


def plot_training(
    folder: pathlib.Path,
    workdirs: Mapping[str, pathlib.Path],
    metrics: Iterable[str] = CURVES,
) -> dict[str, pathlib.Path]:
    """Training curves of workdirs, a picture for each metric that their `metrics.jsonl` have.

    A run's seeds are lines of one colour; the same run of another workdir has the colour too, but other dashes.

    Args:
      folder: where the pictures go, as `curve-METRIC.png`.
      workdirs: what a workdir is called -> its folder.

    Returns:
      metric -> picture.
    """
    rows = {name: read_metrics(path) for name, path in workdirs.items()}
    metrics = tuple(metrics)
    drawn_rows = (r for each in rows.values() for r in each if any(m in r for m in metrics))
    runs = list(dict.fromkeys(_system(r["run"]) for r in drawn_rows))
    colours = _colours(len(runs))
    drawn = {}
    for metric in metrics:
        lines: dict[tuple[str, str, str], tuple[list[int], list[float]]] = {}
        for name, each in rows.items():
            for row in each:
                if metric in row:
                    xs, ys = lines.setdefault((name, _system(row["run"]), row["run"]), ([], []))
                    xs.append(row["step"])
                    ys.append(row[metric])
        if lines:
            drawn[metric] = folder / f"curve-{metric}.png"
            styles = {
                key: (colours[runs.index(key[1])], _DASHES[list(rows).index(key[0]) % len(_DASHES)])
                for key in lines
            }
            _draw_training(drawn[metric], metric, lines, styles)
    return drawn


def _draw_training(
    path: pathlib.Path,
    metric: str,
    lines: Mapping[tuple[str, str, str], tuple[list[int], list[float]]],
    styles: Mapping[tuple[str, str, str], tuple[Colour, str]],
) -> None:
    from matplotlib.figure import Figure

    named: dict[str, Line2D] = {}
    below = min(len({key[:2] for key in lines}), _MOST_NAMES)
    figure = Figure(figsize=(7, 4 + 0.2 * (below // 3)), layout="constrained")
    axes = figure.subplots()
    for key, (xs, ys) in lines.items():
        colour, dashes = styles[key]
        marker = "." if len(xs) < 3 else ""  # a line of one point is not seen
        (line,) = axes.plot(
            xs, ys, color=colour, linestyle=dashes, linewidth=1.2, marker=marker, label="-"
        )
        named.setdefault(": ".join(filter(None, key[:2])), line)
    values = [v for _, ys in lines.values() for v in ys]
    _label(axes, "", "step", metric, min(values) > 0 and max(values) > 30 * min(values))
    shown = dict(list(named.items())[:_MOST_NAMES])
    _name_below(figure, shown)
    if len(named) > len(shown):
        axes.set_title(
            f"{len(named) - len(shown)} more runs without a name below", fontsize="small"
        )
    _save(figure, path)


def _system(run: str) -> str:
    """Name of a run without its seed."""
    return re.sub(r"-\d+\Z", "", run)


def _label(axes: "Axes", title: str, x: str, y: str, log_y: bool) -> None:
    axes.set_title(markup.visible(title), parse_math=False)
    axes.set_xlabel(markup.visible(x), parse_math=False)
    axes.set_ylabel(markup.visible(y), parse_math=False)
    if log_y:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)


def _colours(n: int) -> ndarray:
    """n colours that can be told apart."""
    from matplotlib import colormaps

    if n <= 10:
        return colormaps["tab10"](range(10))
    return colormaps["turbo"]([i / n for i in range(n)])


def _name_below(figure: "Figure", lines: Mapping[str, "Line2D"]) -> None:
    """A legend under the axes."""
    legend = figure.legend(
        lines.values(), ["-"] * len(lines), loc="outside lower center", ncols=3, fontsize="small"
    )
    _name(legend, lines)


def _name(legend: "Legend", names: Iterable[str]) -> None:
    """Sets what matplotlib would hide (a leading `_`) or read as mathematics (`$`)."""
    for entry, name in zip(legend.get_texts(), names, strict=True):
        entry.set_text(markup.visible(name))
        entry.set_parse_math(False)


def _save(figure: "Figure", path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
