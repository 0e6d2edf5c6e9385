"""Tables and pictures of the DTS-Gate study."""

import math
import pathlib
from typing import Any

import numpy as np

from experiments.common import moe
from experiments.common.moe import Corpus
from experiments.common.runs import Study
from jaxgen.metrics import floors
from jaxgen.train import markup, report, writers

TITLES = {
    "dts": "DTS",
    "switch": "Switch",
    "gshard": "GShard top-2",
    "hash": "hash",
    "dense": "dense",
}


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
        final, reached = [], []
        for s in seeds:
            mine = curves[method, s]
            target = curves[goal, s]["valid"][-1]
            hit = np.flatnonzero(mine["valid"] <= target)
            final.append(float(np.exp(mine["valid"][-1])))
            if len(hit):
                reached.append([float(mine[k][hit[0]]) for k in ("steps", "flops", "seconds")])
            test = next(r["nll"] for r in rows if (r["system"], r["seed"]) == (method, s))
            results.append(
                {
                    "system": method,
                    "seed": s,
                    "valid_perplexity": final[-1],
                    "test_perplexity": float(np.exp(test)),
                    "to_target": reached[-1] if len(hit) else None,
                    "lost": mine["lost"],
                }
            )
        tests = [r["test_perplexity"] for r in results if r["system"] == method]
        cells = [str(len(reached))]
        for i, scale in enumerate((1.0, 1e-12, 1.0)):
            values = [r[i] * scale for r in reached]
            cells.append(report.format_value(*report.mean_and_spread(values)) if values else "–")
        table.append(
            [
                TITLES[method],
                report.format_value(*report.mean_and_spread(final)),
                report.format_value(*report.mean_and_spread(tests)),
                *cells,
                str(sum(r["lost"] for r in results if r["system"] == method)),
            ]
        )
    unigram = {
        "valid_perplexity": unigram_perplexity(
            config, corpus, corpus.parts["valid"][: config.train.eval_windows]
        ),
        "test_perplexity": unigram_perplexity(config, corpus, corpus.parts["test"]),
    }
    floor = [report.format_value(value, math.nan) for value in unigram.values()]
    table.append(["unigram", *floor, *["–"] * 5])
    body = [
        f"Text: {markup.literal(config.data.source)}, {len(corpus.parts['train']):,} windows of "
        f"{config.data.context} tokens, vocabulary {corpus.vocab}. GPT of width {config.model.width}, "
        f"depth {config.model.depth}, {config.model.experts} experts in each "
        f"{config.model.expert_every}. block; {config.train.steps:,} steps of batch "
        f"{config.train.batch_size}, {config.seeds} seed(s). The target is the validation perplexity that "
        f"{TITLES[goal]} ends at, seed by seed; FLOPs are those of matrix products, experts counted by the "
        "pairs of token and expert that were kept; seconds are steps times the measured time of a step of "
        "their kind, measured in turns on one machine. Lost: choices beyond a budget or a buffer in the "
        "logged steps. *Unigram* is no method but the token frequencies of the train part.\n",
        report.markdown_table(
            [
                "method",
                "valid perplexity",
                "test perplexity",
                "seeds at target",
                "steps",
                "TFLOPs",
                "seconds",
                "lost",
            ],
            table,
        ),
        "Seconds of a step: "
        + ", ".join(f"{markup.literal(name)} {value:.3f}" for name, value in seconds.items())
        + ".\n",
    ]
    body.append(corpus.about_cuts())
    folder = study.workdir / "samples"
    for axis, scale in (("steps", 1.0), ("flops", 1e-12), ("seconds", 1.0)):
        lines = {}
        for method in config.methods:
            mine = curves[method, config.seed]
            lines[TITLES[method]] = (mine[axis] * scale, np.exp(mine["valid"]))
        label = "TFLOPs" if axis == "flops" else axis
        report.plot_curves(
            folder / f"perplexity-{axis}.png", lines, x=label, y="valid perplexity", log_y=True
        )
        body.append(
            markup.image(f"Perplexity over {label}", f"samples/perplexity-{axis}.png") + "\n"
        )
    body.append("## Experts\n")
    for method in config.methods:
        loads = utilisation(logged, method, config.seed)
        if loads is not None:
            heat_map(folder / f"experts-{method}.png", *loads, title=TITLES[method])
            body.append(
                markup.image(f"Experts of {TITLES[method]}", f"samples/experts-{method}.png") + "\n"
            )
    return report.write(
        study.workdir,
        "DTS-Gate",
        "\n".join(body),
        {
            "systems": results,
            "floors": {"unigram": unigram},
            "seconds": seconds,
            "config": config.to_dict(),
        },
    )


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
