"""Tables and pictures of the DTS-Gate study."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.common.moe import Corpus
from experiments.common.runs import Study, seeds_of
from experiments.dts_gate import curves
from experiments.dts_gate.gating import TITLES
from experiments.dts_gate.training import windows_read
from jaxgen.metrics import floors
from jaxgen.train import markup, plots, report, tables
from jaxgen.train.runs import Row

COLUMNS = {"valid_perplexity": "valid perplexity ↓", "test_perplexity": "test perplexity ↓"}


def write(study: Study[Corpus], corpus: Corpus, rows: Sequence[Row]) -> pathlib.Path:
    """The report of `experiments.dts_gate`; returns its path.

    Args:
      rows: of `study.evaluate`, one a method and seed.
    """
    config = study.config
    seeds = list(seeds_of(config))
    by = {(r["system"], r["seed"]): r for r in rows}
    goal = "switch" if "switch" in config.methods else config.methods[0]
    table = []
    results: list[dict[str, Any]] = []
    for method in config.methods:
        mine = [_numbers(by[method, s], by[goal, s]["curve"]["valid"][-1]) for s in seeds]
        results += mine
        there = [r["to_target"] for r in mine if r["to_target"]]
        table.append(
            [
                TITLES[method],
                *(tables.number(r[m] for r in mine) for m in COLUMNS),
                _some(r["experts"] for r in mine),
                str(len(there)),
                *(
                    _some(None if r[i] is None else r[i] * scale for r in there)
                    for i, scale in enumerate(curves.AXES.values())
                ),
                _some(r["domain_bits"] for r in mine),
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
    seen = config.train.steps * config.train.batch_size / len(corpus.parts["train"])
    page.text(
        f"Text: {markup.literal(config.data.source)}, {len(corpus.parts['train']):,} windows of "
        f"{config.data.context} tokens, vocabulary {corpus.vocab}, seen {seen:.2f} times. GPT of width "
        f"{config.model.width}, depth {config.model.depth}, {config.model.experts} experts in each "
        f"{config.model.expert_every}. block; {config.train.steps:,} steps of batch "
        f"{config.train.batch_size}, {config.seeds} seed(s). The target is the validation perplexity that "
        f"{TITLES[goal]} ends at, seed by seed; FLOPs are those of matrix products, experts counted by the "
        "pairs of token and expert that were asked for, dense phases included; seconds are steps times the "
        "median time of a training step of their kind, compilation and validation left out. Experts a "
        "token: mean over all of training. Bits of domain: what an expert tells of a token's domain. Lost: "
        "choices beyond a budget or a buffer in the logged steps. *Unigram* is no method but the token "
        "frequencies of the train part.\n\n" + corpus.about_cuts()
    )
    page.section("Results")
    page.columns |= COLUMNS
    header = [
        *COLUMNS.values(),
        "experts a token",
        *("seeds at target", "steps ↓", "TFLOPs ↓", "seconds ↓"),
        *("bits of domain", "lost"),
    ]
    floor = ["unigram", *map(tables.Number, unigram.values()), *[tables.NONE] * 7]
    page.table(["method", *header], table, [floor])
    switches = [(r, r["switch"]) for r in rows if r["switch"]]
    if switches:
        page.text(
            "Nats a token of the validation part at the last soft step, under the soft gate and, with the same "
            "weights, as the sparse model that goes on from there: "
            + ", ".join(
                f"{TITLES[r['system']]}, seed {r['seed']}: {a:.3f} and {b:.3f} ({b / a - 1:+.2%})"
                for r, (a, b) in switches
            )
            + ".\n"
        )
    seconds = {
        f"{r['system']}-{r['seed']}": r["step_seconds"]
        for r in rows
        if any(r["step_seconds"].values())
    }
    if seconds:
        each = ", ".join(
            f"{markup.literal(name)} "
            + " ".join(f"{markup.literal(k)}: {v:.4f}" for k, v in parts.items() if v)
            for name, parts in seconds.items()
        )
        page.text(f"Seconds of a step (experts a token; h: hard): {each}.\n")
    page.grid(_pictures(study, by), plots=True)
    maps = _maps(study, corpus, by)
    if maps:
        page.section("Experts")
        page.grid(maps, plots=True)
    page.curves()
    floor_rows = {"unigram": unigram}
    return page.write({"systems": results, "floors": floor_rows, "seconds": seconds})


def unigram_perplexity(config: Any, corpus: Corpus, part: np.ndarray) -> float:
    """Of the windows [N, T + 1] that `training.Tester` reads, under the token frequencies of the train part."""
    read = part[: windows_read(config, len(part))[-1], 1:]
    train = corpus.parts["train"][:, 1:]
    return floors.unigram_perplexity(train.ravel(), read.ravel(), corpus.vocab)


def _numbers(row: Row, target: float) -> dict[str, Any]:
    """A row's numbers in results; `to_target`: steps, FLOPs and seconds to the first loss that is as low."""
    curve = row["curve"]
    hit = np.flatnonzero(np.asarray(curve["valid"]) <= target)
    return {
        "system": row["system"],
        "seed": row["seed"],
        "valid_perplexity": float(np.exp(curve["valid"][-1])),
        "test_perplexity": float(np.exp(row["nll"])),
        "experts": row["experts"],
        "to_target": [curve[k][hit[0]] for k in curves.AXES] if len(hit) else None,
        "domain_bits": None if row["domains"] is None else curves.bits(row["domains"]),
        "switch": row["switch"],
        "lost": row["lost"],
    }


def _some(values: Any) -> Any:
    known = [v for v in values if v is not None]
    return tables.number(known) if known else tables.NONE


def _pictures(study: Study[Corpus], by: dict[tuple[str, int], Row]) -> dict[str, str]:
    """Validation perplexity of the first seed over steps, FLOPs and seconds."""
    config, drawn = study.config, {}
    for axis, scale in curves.AXES.items():
        lines = {}
        for method in config.methods:
            curve = by[method, config.seed]["curve"]
            if None in curve[axis]:
                continue
            at = np.asarray(curve[axis]) * scale
            lines[TITLES[method]] = at, np.exp(curve["valid"])
            soft = [i for i, v in enumerate(curve["top1"]) if v is not None]
            if soft and axis == "steps":
                lines[f"{TITLES[method]}: top-1"] = (
                    at[soft],
                    np.exp([curve["top1"][i] for i in soft]),
                )
        if not lines:
            continue
        label = "TFLOPs" if axis == "flops" else axis
        drawn[f"Perplexity over {label}"] = path = f"samples/perplexity-{axis}.png"
        plots.plot_curves(study.workdir / path, lines, x=label, y="valid perplexity", log_y=True)
    return drawn


def _maps(study: Study[Corpus], corpus: Corpus, by: dict[tuple[str, int], Row]) -> dict[str, str]:
    """Who gets the tokens, over steps and by domain, of the first seed."""
    config, maps = study.config, {}
    for method in config.methods:
        row = by[method, config.seed]
        if row["loads"] is None:
            continue
        steps = row["curve"]["steps"][-len(row["loads"]) :]
        shares = np.moveaxis(np.asarray(row["loads"]), 0, -1)
        maps[f"Experts of {TITLES[method]}"] = path = f"samples/experts-{method}.png"
        extent = (steps[0], steps[-1], shares.shape[1] - 0.5, -0.5)
        heat_map(study.workdir / path, shares, title=TITLES[method], x="step", extent=extent)
        if row["domains"] is not None:
            maps[f"Domains of {TITLES[method]}"] = path = f"samples/domains-{method}.png"
            shares = np.moveaxis(np.asarray(row["domains"]), 0, -1)
            names = [name.split("/")[-1].split(":")[-1] or "python" for name in corpus.domains]
            heat_map(study.workdir / path, shares, title=TITLES[method], x="domain", ticks=names)
    return maps


def heat_map(
    path: pathlib.Path,
    shares: np.ndarray,
    *,
    title: str,
    x: str,
    extent: tuple[float, float, float, float] | None = None,
    ticks: Sequence[str] = (),
) -> None:
    """Experts x steps (or domains), one panel a layer of `shares` [L, E, X]; 1 is an even share."""
    from matplotlib.figure import Figure

    layers, experts, _ = shares.shape
    figure = Figure(figsize=(3.5 * layers, 3), layout="constrained")
    axes = figure.subplots(1, layers, squeeze=False)[0]
    for layer, ax in enumerate(axes):
        picture = ax.imshow(
            shares[layer] * experts, aspect="auto", vmin=0, vmax=3, cmap="viridis", extent=extent
        )
        ax.set_title(f"{title}, layer {layer + 1}", fontsize="small")
        ax.set_xlabel(x)
        ax.set_ylabel("expert")
        if ticks:
            ax.set_xticks(range(len(ticks)), ticks, rotation=60, fontsize="x-small")
    figure.colorbar(picture, ax=axes, label="share of choices, times experts")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
