"""The page: what was learned against what was forgotten, tables by task and split, plans in pictures and words."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.common.runs import Study
from experiments.e2wm import drawing
from experiments.e2wm.collect import PLAN_SPLITS
from experiments.e2wm.corpus import Corpus
from experiments.e2wm.systems import systems_of
from jaxgen.train import report
from jaxgen.train.runs import Row
from jaxgen.world import grounding

SUMMARY = {
    "score": "mean task score ↑",
    "rise": "rise of general NLL ↓",
    "nll": "general NLL (nats) ↓",
    "perplexity": "general perplexity ↓",
    "plan_goals_met": "plans that meet all goals ↑",
    "recognise": "recognition ↑",
    "count_all": "counting ↑",
    "path_overlap": "path overlap ↑",
}
DETAILS = {
    **{
        f"plan_{split}_{k}": f"{split}: {title} ↑"
        for split in PLAN_SPLITS
        for k, title in (
            ("executable", "executable"),
            ("goals_met", "all goals met"),
            ("goals", "goals met"),
            ("rougeL", "ROUGE-L"),
        )
    },
    "recognise_seen": "recognition, seen ↑",
    "recognise_unseen": "recognition, unseen ↑",
    "path_exact": "path, exact ↑",
}
SHOWN = 8


def complete(rows: Sequence[Row], base_nll: float) -> None:
    """Adds to each row what follows from it."""
    for row in rows:
        row["rise"] = row["nll"] - base_nll
        row["perplexity"] = float(np.exp(row["nll"]))
        row["plan_goals_met"] = float(
            np.mean([row[f"plan_{split}_goals_met"] for split in PLAN_SPLITS])
        )
        row["recognise"] = (row["recognise_seen"] + row["recognise_unseen"]) / 2


def not_dominated(points: dict[str, tuple[float, float]]) -> list[str]:
    """Names of the points (rise, score) that no other one beats in both."""
    return [
        name
        for name, (x, y) in points.items()
        if not any(
            (a <= x and b >= y) and (a < x or b > y)
            for other, (a, b) in points.items()
            if other != name
        )
    ]


def write(
    study: Study[Corpus], rows: list[Row], floors: dict[str, float], fisher_sum: float
) -> pathlib.Path:
    """The page; returns its path."""
    config, corpus = study.config, study.data
    base = next((r["nll"] for r in rows if r["name"] == "base"), None)
    complete(rows, float("nan") if base is None else base)
    page = report.Report("Language models that learn from a household world", study.workdir, config)
    page.text(_about(study, fisher_sum))
    numbers = [{k: v for k, v in r.items() if k not in ("plans", "name")} for r in rows]
    page.section("Results")
    rules = {"unigram, and guessing": {**floors, "perplexity": float(np.exp(floors["nll"]))}}
    page.comparison(numbers, SUMMARY, rules=rules)
    trained = [r for r in rows if r["name"] != "base"]
    means: dict[str, tuple[float, float]] = {
        t: tuple(  # type: ignore[misc]
            float(np.mean([r[k] for r in trained if r["system"] == t])) for k in ("rise", "score")
        )
        for t in dict.fromkeys(r["system"] for r in trained)
    }
    if means:
        page.section("Learned against forgotten")
        drawing.pareto(study.workdir / "samples" / "pareto.png", trained)
        page.plot("Rise of the general NLL, and mean task score", "samples/pareto.png")
        best = not_dominated(means)
        page.text("Not dominated by any other system: " + ", ".join(best) + ".")
    page.section("Tasks and splits")
    page.comparison(numbers, DETAILS)
    authors = {k: k.removeprefix("authors_") + " ↑" for r in rows for k in r if "authors_" in k}
    if authors:
        page.section("The authors' evaluation files")
        page.comparison(numbers, authors)
    _plans(page, study, rows)
    page.curves(metrics=("loss", "task", "penalty", "general", "kl", "perplexity"))
    found = {"systems": rows, "floors": floors, "fisher_sum": fisher_sum}
    return page.write({**found, "general_text": corpus.digest})


def _about(study: Study[Corpus], fisher_sum: float) -> str:
    config, corpus = study.config, study.data
    docs = ", ".join(f"{n} {d:,} documents, {t:,} tokens" for n, (d, t) in corpus.sizes.items())
    rows = len(corpus.rows["tokens"])
    return (
        f"General text {corpus.digest}: {docs}. Experience: {rows:,} examples of four tasks, plans by "
        f"{'tree search' if config.collect.planner == 'search' else 'breadth-first search'}; 30 of 200 activities are "
        f"held out by name (unseen). {len(systems_of(config))} systems of {config.train.steps:,} steps, "
        f"{config.seeds} seed(s). Fisher information of {config.fisher.texts:,} general texts that nothing is tested "
        f"on, {config.fisher.reduce} over tokens, labels of the {config.fisher.labels}; its sum over the kernels with "
        f"updates is {fisher_sum:.4g}. Replay and KL see the same texts. Mean task score: the mean of plans that meet "
        "all goals in the simulator, recognition, counting and path overlap, each averaged over its splits. No "
        "choice by test scores; λ of all rows was set beforehand.\n"
    )


def _plans(page: report.Report, study: Study[Corpus], rows: Sequence[Row]) -> None:
    households, tests = study.data.experience.households, study.data.experience.tests
    mine = [r for r in rows if r["seed"] == study.config.seed]
    h = households["seen"][0]
    page.section("Plans")
    done = grounding.execute(grounding.plan_steps(h.plan), h.graph, h.world, h.goal)
    drawing.strip(study.workdir / "samples" / "plan.png", h.graph, h.world, done.script)
    page.plot(f"{h.activity}: the plan that search found, step by step", "samples/plan.png")
    for split in PLAN_SPLITS:
        told = [str(r["input"]).rpartition("Q: ")[2] for r in tests["plan", split]][:SHOWN]
        shown: dict[str, Any] = {"question": told}
        shown["search"] = [x.plan for x in households[split]][:SHOWN]
        page.texts(shown | {r["system"]: r["plans"][split][:SHOWN] for r in mine})
