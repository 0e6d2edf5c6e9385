"""Tables and pictures of the DTS-Gate study."""

import pathlib
from typing import Any

import numpy as np

from experiments.common import moe
from experiments.common.moe import Corpus
from experiments.common.runs import Study
from jaxgen.metrics import floors
from jaxgen.train import markup, plots, report, tables, writers

TITLES = {
    "dts": "DTS",
    "switch": "Switch",
    "gshard": "GShard top-2",
    "hash": "hash",
    "dense": "dense",
}
COLUMNS = {"valid_perplexity": "valid perplexity ↓", "test_perplexity": "test perplexity ↓"}
AXES = {"steps": 1.0, "flops": 1e-12, "seconds": 1.0}  # of a curve, and their scale in reports


def write(
    study: Study[Corpus],
    corpus: Corpus,
    rows: list[dict[str, Any]],
    seconds: dict[str, float],
    segments: Any,
) -> pathlib.Path:
    """The report of `experiments.dts_gate`; returns its path.

    Args:
      rows: nats a token on the test part, one row a method and seed.
      seconds: of a step, see `study.step_seconds`.
      segments: of DTS.
    """
    config = study.config
    seeds = range(config.seed, config.seed + config.seeds)
    logged = writers.read_metrics(
        study.workdir, [f"{m}-{s}" for m in config.methods for s in seeds]
    )
    curves = {
        (m, s): curve(config, corpus, logged, m, s, seconds, segments)
        for m in config.methods
        for s in seeds
    }
    goal = "switch" if "switch" in config.methods else config.methods[0]
    table = []
    results: list[dict[str, Any]] = []
    for method in config.methods:
        mine = []
        for s in seeds:
            run, target = curves[method, s], curves[goal, s]["valid"][-1]
            hit = np.flatnonzero(run["valid"] <= target)
            test = next(r["nll"] for r in rows if (r["system"], r["seed"]) == (method, s))
            reached = [float(run[k][hit[0]]) for k in AXES] if len(hit) else None
            mine.append(
                {
                    "system": method,
                    "seed": s,
                    "valid_perplexity": float(np.exp(run["valid"][-1])),
                    "test_perplexity": float(np.exp(test)),
                    "to_target": reached,
                    "lost": run["lost"],
                }
            )
        results += mine
        there = [r["to_target"] for r in mine if r["to_target"]]
        table.append(
            [
                TITLES[method],
                *(tables.number(r[m] for r in mine) for m in COLUMNS),
                str(len(there)),
                *(
                    tables.number(r[i] * scale for r in there)
                    for i, scale in enumerate(AXES.values())
                ),
                str(sum(r["lost"] for r in mine)),
            ]
        )
    unigram = {
        "valid_perplexity": unigram_perplexity(
            config, corpus, corpus.parts["valid"][: config.train.eval_windows]
        ),
        "test_perplexity": unigram_perplexity(config, corpus, corpus.parts["test"]),
    }
    page = report.Report("DTS-Gate", study.workdir, config)
    page.text(
        f"Text: {markup.literal(config.data.source)}, {len(corpus.parts['train']):,} windows of "
        f"{config.data.context} tokens, vocabulary {corpus.vocab}. GPT of width {config.model.width}, "
        f"depth {config.model.depth}, {config.model.experts} experts in each "
        f"{config.model.expert_every}. block; {config.train.steps:,} steps of batch "
        f"{config.train.batch_size}, {config.seeds} seed(s). The target is the validation perplexity that "
        f"{TITLES[goal]} ends at, seed by seed; FLOPs are those of matrix products, experts counted by the "
        "pairs of token and expert that were kept; seconds are steps times the measured time of a step of "
        "their kind, measured in turns on one machine. Lost: choices beyond a budget or a buffer in the "
        "logged steps. *Unigram* is no method but the token frequencies of the train part.\n\n"
        + corpus.about_cuts()
    )
    page.section("Results")
    page.columns |= COLUMNS
    header = [*COLUMNS.values(), "seeds at target", "steps ↓", "TFLOPs ↓", "seconds ↓", "lost"]
    floor = ["unigram", *map(tables.Number, unigram.values()), *[tables.NONE] * 5]
    page.table(["method", *header], table, [floor])
    each = ", ".join(f"{markup.literal(name)} {value:.3f}" for name, value in seconds.items())
    page.text(f"Seconds of a step: {each}.\n")
    drawn = {}
    for axis, scale in AXES.items():
        lines = {
            TITLES[m]: (
                curves[m, config.seed][axis] * scale,
                np.exp(curves[m, config.seed]["valid"]),
            )
            for m in config.methods
        }
        label = "TFLOPs" if axis == "flops" else axis
        drawn[f"Perplexity over {label}"] = path = f"samples/perplexity-{axis}.png"
        plots.plot_curves(study.workdir / path, lines, x=label, y="valid perplexity", log_y=True)
    page.grid(drawn, plots=True)
    maps = {}
    for method in config.methods:
        loads = utilisation(logged, method, config.seed)
        if loads is not None:
            maps[f"Experts of {TITLES[method]}"] = path = f"samples/experts-{method}.png"
            heat_map(study.workdir / path, *loads, title=TITLES[method])
    if maps:
        page.section("Experts")
        page.grid(maps, plots=True)
    page.curves()
    return page.write({"systems": results, "floors": {"unigram": unigram}, "seconds": seconds})


def unigram_perplexity(config: Any, corpus: Corpus, part: np.ndarray) -> float:
    """Of the windows [N, T + 1] that `dts_gate.tester` reads, under the token frequencies of the train part."""
    size = min(config.train.batch_size, len(part))
    read = part[: len(part) // size * size, 1:]
    train = corpus.parts["train"][:, 1:]
    return floors.unigram_perplexity(train.ravel(), read.ravel(), corpus.vocab)


def curve(
    config: Any,
    corpus: Corpus,
    logged: list[dict[str, Any]],
    method: str,
    seed: int,
    seconds: dict[str, float],
    segments: Any,
) -> dict[str, Any]:
    """Validation loss over steps, FLOPs and seconds, and how many choices were lost."""
    count = moe.flops(config, corpus.vocab)
    steps, flops, time, valid, lost = [], [], [], [], 0
    shared = config.dts.shared_steps if method == "dts" else 0
    if shared:
        for row in _rows(logged, f"shared-{seed}"):
            steps.append(row["step"])
            flops.append(row["step"] * count.dense)
            time.append(row["step"] * seconds["dense"])
            valid.append(row["valid_nll"])
    for row in _rows(logged, f"{method}-{seed}"):
        done = row["step"]
        steps.append(shared + done)
        base = count.dense if method == "dense" else count.base
        flops.append(shared * count.dense + done * base + row["pairs"] * count.pair)
        spent = done * seconds.get(method, 0.0)
        if method == "dts":
            spent, begin = shared * seconds["dense"] if shared else 0.0, 0
            for s in segments:
                spent += max(0, min(done, s.end) - begin) * seconds[f"dts-{s.budget}"]
                begin = s.end
        time.append(spent)
        valid.append(row["valid_nll"])
    for row in logged:
        if row["run"] == f"{method}-{seed}":
            lost += int(row.get("overflow", 0)) + int(row.get("dropped", 0))
    arrays = {"steps": steps, "flops": flops, "seconds": time, "valid": valid}
    return {**{k: np.array(v) for k, v in arrays.items()}, "lost": lost}


def utilisation(
    logged: list[dict[str, Any]], method: str, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """(steps [S], shares [L, E, S]) of the validation tokens' choices; None without experts."""
    rows = _rows(logged, f"{method}-{seed}")
    names = [n for n in (rows[0] if rows else {}) if n.startswith("valid_load_")]
    if not names:
        return None
    at = [tuple(map(int, n.split("_")[2:])) for n in names]
    layers, experts = (max(i) + 1 for i in zip(*at, strict=True))
    out = np.zeros((layers, experts, len(rows)))
    for s, row in enumerate(rows):
        for (layer, e), n in zip(at, names, strict=True):
            out[layer, e, s] = row[n]
    return np.array([r["step"] for r in rows]), out


def heat_map(path: pathlib.Path, steps: np.ndarray, shares: np.ndarray, *, title: str) -> None:
    """Experts x steps, one panel a layer; 1 is an even share."""
    from matplotlib.figure import Figure

    layers, experts, _ = shares.shape
    figure = Figure(figsize=(3.5 * layers, 3), layout="constrained")
    axes = figure.subplots(1, layers, squeeze=False)[0]
    for layer, ax in enumerate(axes):
        picture = ax.imshow(
            shares[layer] * experts,
            aspect="auto",
            vmin=0,
            vmax=3,
            cmap="viridis",
            extent=(steps[0], steps[-1], experts - 0.5, -0.5),
        )
        ax.set_title(f"{title}, layer {layer + 1}")
        ax.set_xlabel("step")
        ax.set_ylabel("expert")
    figure.colorbar(picture, ax=axes, label="share of choices, times experts")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _rows(logged: list[dict[str, Any]], run: str) -> list[dict[str, Any]]:
    return [r for r in logged if r["run"] == run and "valid_nll" in r]
