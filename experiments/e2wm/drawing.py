"""Pictures: systems in the plane of forgetting and learning, and an apartment while a plan is carried out."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from experiments.e2wm.play import moments
from jaxgen.train.runs import Row
from jaxgen.world import graph, sentences
from jaxgen.world.graph import Graph, World
from jaxgen.world.rules import VERBS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS = "osD^v<>PX*hp"
_COLOURS = {"ON": "tab:orange", "OPEN": "tab:green", "DIRTY": "tab:brown"}


def pareto(path: pathlib.Path, rows: Sequence[Row]) -> None:
    """A point for each system: rise of the NLL against the score, with the spread over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    systems = list(dict.fromkeys(r["system"] for r in rows))
    for i, name in enumerate(systems):
        xs, ys = (np.array([r[k] for r in rows if r["system"] == name]) for k in ("rise", "score"))
        axes.errorbar(
            xs.mean(),
            ys.mean(),
            xerr=xs.std() or None,
            yerr=ys.std() or None,
            fmt=_MARKS[i % len(_MARKS)],
            label=name,
            markersize=7,
            color=f"C{i % 10}",
        )
    axes.set_xlabel("rise of general NLL (nats a token)")
    axes.set_ylabel("mean task score")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def strip(path: pathlib.Path, source: Graph, world: World, script: Int[ndarray, "L 3"]) -> None:
    """The apartment before a plan and after each step: rooms, what the plan touches, and the character."""
    from matplotlib.figure import Figure

    worlds = moments(source, world, script.tolist())
    names = [n["class_name"] for n in sorted(source["nodes"], key=lambda n: n["id"])]
    touched = {int(x) for _, *nodes in script.tolist() for x in nodes if x >= 0}
    titles = ["before"]
    for verb, *nodes in script.tolist():
        told = " ".join(sentences.words(names[x]) for x in nodes if x >= 0)
        titles.append(f"{VERBS[verb].lower()} {told}".strip())
    columns = min(len(worlds), 4)
    lines = -(-len(worlds) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.0 * lines), layout="constrained")
    every = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in every:
        axes.axis("off")
    for axes, now, title in zip(every, worlds, titles, strict=False):
        _draw(axes, graph.dump(now, source), touched)
        axes.set_title(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _draw(axes: "Axes", now: Graph, touched: set[int]) -> None:
    """Rooms as squares; in each the touched things, what they are on or in, and the character."""
    nodes = sorted(now["nodes"], key=lambda n: n["id"])
    place = {n["id"]: i for i, n in enumerate(nodes)}
    rooms = [n for n in nodes if n.get("category") == "Rooms"]
    side = int(np.ceil(np.sqrt(len(rooms))))
    corner = {r["id"]: (i % side, side - 1 - i // side) for i, r in enumerate(rooms)}
    where: dict[int, int] = {}
    on: dict[int, tuple[str, int]] = {}
    holds: set[int] = set()
    for e in now["edges"]:
        a, relation, b = e["from_id"], e["relation_type"], e["to_id"]
        if relation == "INSIDE" and b in corner:
            where.setdefault(a, b)
        elif relation in ("ON", "INSIDE") and b not in corner:
            on[a] = (relation.lower(), b)
        elif relation.startswith("HOLDS"):
            holds.add(b)
    of = {n["id"]: sentences.words(n["class_name"]) for n in nodes}
    for r in rooms:
        x, y = corner[r["id"]]
        axes.plot([x, x + 1, x + 1, x, x], [y, y, y + 1, y + 1, y], color="lightgray")
        axes.text(x + 0.05, y + 0.9, of[r["id"]], fontsize=6.5, color="gray")
    lines: dict[int, list[tuple[str, str]]] = {r["id"]: [] for r in rooms}
    for n in nodes:
        person = n["class_name"] == "character"
        if n["id"] in corner or not (person or place[n["id"]] in touched):
            continue
        told = "character" if person else of[n["id"]]
        if n["id"] in on:
            told += f" {on[n['id']][0]} {of[on[n['id']][1]]}"
        if n["id"] in holds:
            told += " (held)"
        shown = [s for s in n["states"] if s in _COLOURS or s in ("CLOSED", "SITTING", "LYING")]
        if shown:
            told += " [" + ", ".join(s.lower() for s in shown) + "]"
        colour = (
            "tab:blue" if person else next((_COLOURS[s] for s in shown if s in _COLOURS), "black")
        )
        if n["id"] in where:
            lines[where[n["id"]]].append((told, colour))
    for room, texts in lines.items():
        x, y = corner[room]
        for i, (text, colour) in enumerate(texts[:6]):
            axes.text(x + 0.05, y + 0.72 - 0.13 * i, text, fontsize=6.5, color=colour)
    axes.set_xlim(-0.05, side + 0.05)
    axes.set_ylim(-0.05, side + 0.05)
