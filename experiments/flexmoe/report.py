"""Tables and pictures of the FlexMoE study: loads, placements, balance, modelled step time."""

import math
import pathlib
from typing import Any

import numpy as np

from experiments.common.runs import Study
from jaxgen.metrics import floors
from jaxgen.moe.placement import cost, planner, policies, simulator
from jaxgen.moe.placement import traffic as traffic_lib
from jaxgen.train import markup, plots, report, tables, writers

TITLES = {
    "capacity": "static, capacity",
    "static": "static, dropless",
    "shadowing": "shadowing (FasterMoE)",
    "eplb": "EPLB-like",
    "eplb_nodes": "EPLB, hierarchical",
    "flexmoe": "FlexMoE",
    "symi": "Symi-like",
    "laer": "LAER-like",
    "sharded": "LAER's placement, dealt out once",
}
COLUMNS = {
    "loss": "loss ↓",
    "loss_difference": "loss difference",
    "balance": "balance ↓",
    "balance_scheduled": "balance, scheduled ↓",
    "bound": "bound",
    "dropped": "dropped % ↓",
    "placements": "placements",
    "step_seconds": "step (ms) ↓",
    "ideal_seconds": "ideal (ms)",
}
SCALES = {
    "dropped": 100.0,
    "step_seconds": 1e3,
    "ideal_seconds": 1e3,
}  # of results.json in the table


def write(study: Study, shape: simulator.Shape, tokens: int) -> pathlib.Path:
    """The report of `experiments.flexmoe`; returns its path.

    Args:
      shape: of the model whose step is modelled.
      tokens: of a batch.
    """
    config, devices = study.config, study.runs.mesh.shape["expert"]
    device = simulator.DEVICES[config.placement.device]
    seeds = range(config.seed, config.seed + config.seeds)
    logged = writers.read_metrics(
        study.workdir, [f"{p}-{s}" for p in config.policies for s in seeds]
    )
    rows: list[dict[str, Any]] = []
    drawn: dict[str, dict[str, Any]] = {}
    for seed in seeds:
        losses = {p: _losses(logged, f"{p}-{seed}") for p in config.policies}
        for policy in config.policies:
            with np.load(study.workdir / "traffic" / f"{policy}-{seed}.npz") as file:
                counts, places = file["counts"], file["placements"]
            found = measure(policy, counts, places, shape, device, config, devices)
            if seed == config.seed:
                drawn[policy] = {**found, "counts": counts, "places": places}
            mine = [r for r in logged if r["run"] == f"{policy}-{seed}"]
            dropped = [r["dropped"] for r in mine if "dropped" in r]
            pairs = tokens * config.model.k * counts.shape[1]
            row = {
                "system": policy,
                "seed": seed,
                "loss": losses[policy][max(losses[policy])],
                "balance": float(found["balance"].mean()),
                "balance_scheduled": float(found["balance_scheduled"].mean()),
                "bound": float(found["bound"].mean()),
                "dropped": float(np.mean(dropped)) / pairs,
                "placements": int((places[1:] != places[:-1]).any((1, 2, 3)).sum()),
                "step_seconds": float(found["seconds"].mean()),
                "ideal_seconds": float(found["ideal"].mean()),
            }
            if "static" in config.policies:
                static = losses["static"]
                both = static.keys() & losses[policy].keys()
                gap = max((abs(losses[policy][i] - static[i]) for i in both), default=np.nan)
                row["loss_difference"] = float(gap)
            rows.append(row)
    rule, loss = frequencies(study)
    p = config.placement
    page = report.Report("FlexMoE", study.workdir, config)
    page.text(
        f"Task: {markup.literal(config.task)}; {config.model.experts} experts in {config.model.depth // config.model.expert_every} "
        f"layers on {devices} devices, top {config.model.k}, {p.slots} slots a device where a policy has "
        f"spare ones; {config.train.steps:,} steps of batch {config.train.batch_size}, {config.seeds} "
        "seed(s). Balance is the largest load of a device over the mean, over layers and steps, of the counts "
        "that the router gave, if an expert's tokens are split evenly over its replicas, and if they are "
        f"split for the step's own counts (here they were {p.split}); its bound is what no placement with these slots can pass. Loss differences are "
        "the largest over the logged steps, against one copy of each expert. The last row is no policy: "
        f"{rule} of the train split, the same for every prediction. Milliseconds are modelled, not "
        f"measured: {markup.literal(p.device)} ({device.flops:.3g} FLOP/s at {device.utilisation:.0%}, "
        f"{device.bandwidth:.3g} B/s, {device.latency:.1g} s{_inside(device)}), width {p.width}, hidden {p.hidden}, "
        f"{p.tokens:,} tokens a device.\n"
    )
    if config.task == "text":
        page.text(study.data.about_cuts())  # type: ignore[attr-defined]
    page.section("Results")
    table = []
    for policy in config.policies:
        mine = [r for r in rows if r["system"] == policy]
        cells: dict[str, tables.Number | str] = {
            m: tables.number(r[m] * SCALES.get(m, 1.0) for r in mine if m in r) for m in COLUMNS
        }
        cells["loss_difference"] = f"{max(r.get('loss_difference', 0.0) for r in mine):.1e}"
        table.append([TITLES[policy], *cells.values()])
    no_policy = [rule, tables.Number(loss), *[tables.NONE] * (len(COLUMNS) - 1)]
    page.table(["policy", *COLUMNS.values()], table, [no_policy])
    page.columns |= {
        m: f"{m} ↓" for m in ("loss", "balance", "balance_scheduled", "dropped", "step_seconds")
    }
    folder = study.workdir / "samples"
    shown = {}
    for name, label in (("balance", "balance ratio"), ("seconds", "modelled step (s)")):
        lines = {TITLES[q]: (np.arange(len(d[name])), _smooth(d[name])) for q, d in drawn.items()}
        best = next(iter(drawn.values()))
        floor = "bound" if name == "balance" else "ideal"
        low = min(drawn.values(), key=lambda d: d[floor].mean()) if name == "balance" else best
        lines["bound"] = (np.arange(len(low[floor])), _smooth(low[floor]))
        plots.plot_curves(folder / f"{name}.png", lines, x="step", y=label)
        shown[label] = f"samples/{name}.png"
    page.grid(shown, plots=True)
    page.section("Loads and placements")
    for policy, found in drawn.items():
        picture(folder / f"traffic-{policy}.png", found["counts"], found["places"], TITLES[policy])
    page.grid({TITLES[q]: f"samples/traffic-{q}.png" for q in drawn}, plots=True)
    page.curves()
    return page.write({"systems": rows, "floors": {rule: {"loss": loss}}})


def frequencies(study: Study) -> tuple[str, float]:
    """A rule without a model, and its mean loss on the train split in nats."""
    data: Any = study.data
    if study.config.task == "text":
        ids = data.parts["train"][:, 1:].ravel()
        return "unigram frequencies", math.log(floors.unigram_perplexity(ids, ids, data.vocab))
    label = data["train"].label
    classes = int(label.max()) + 1
    return "class frequencies", math.log(floors.unigram_perplexity(label, label, classes))


def measure(
    policy: str,
    counts: np.ndarray,
    places: np.ndarray,
    shape: simulator.Shape,
    device: simulator.Device,
    config: Any,
    devices: int,
) -> dict[str, np.ndarray]:
    """Balance, its bound, modelled seconds and their bound, of every step."""
    wide = traffic_lib.scaled(counts, shape.tokens * devices * shape.k)
    slots = places.shape[3]
    names = ("balance", "balance_scheduled", "bound", "seconds", "ideal")
    out: dict[str, list[float]] = {name: [] for name in names}
    static = planner.initial(counts.shape[2], devices, counts.shape[2] // devices)
    for t, (row, where) in enumerate(zip(wide, places, strict=True)):
        for name, split in (("balance", "even"), ("balance_scheduled", "scheduled")):
            ratios = [cost.balance_ratio(s, c, split) for s, c in zip(where, row, strict=True)]
            out[name].append(float(np.mean(ratios)))
        bounds = [planner.bound(c, devices, slots) for c in row]
        out["bound"].append(float(np.mean(bounds)))
        works, old = [], places[max(t - 1, 0)]
        for layer, c in enumerate(row):
            # FasterMoE fetches shadows in every step, as many as pay off; slots are our stand-in.
            here, before = (where[layer], old[layer]) if policy != "shadowing" else (static, static)
            works.append(
                policies.work(
                    policy,
                    here,
                    c,
                    shape,
                    device,
                    capacity_factor=config.capacity_factor,
                    before=before,
                    split=config.placement.split,
                )
            )
        out["seconds"].append(simulator.step_seconds(works, shape, device))
        out["ideal"].append(simulator.ideal(row, devices, shape, device))
    return {k: np.array(v) for k, v in out.items()}


def picture(path: pathlib.Path, counts: np.ndarray, places: np.ndarray, title: str) -> None:
    """One row a layer: load (experts x steps), and the expert in each slot (slots x steps)."""
    from matplotlib.figure import Figure

    steps, layers, experts = counts.shape
    figure = Figure(figsize=(9, 2.6 * layers), layout="constrained")
    axes = figure.subplots(layers, 2, squeeze=False)
    for layer in range(layers):
        share = counts[:, layer] / counts[:, layer].mean(1, keepdims=True)
        left = axes[layer, 0].imshow(
            share.T, aspect="auto", vmin=0, vmax=4, interpolation="nearest"
        )
        flat = places[:, layer].reshape(steps, -1)
        right = axes[layer, 1].imshow(
            flat.T,
            aspect="auto",
            cmap="nipy_spectral",
            vmin=0,
            vmax=experts - 1,
            interpolation="nearest",
        )
        for edge in range(1, places.shape[2]):
            axes[layer, 1].axhline(edge * places.shape[3] - 0.5, color="white", linewidth=0.4)
        axes[layer, 0].set_ylabel(f"layer {layer + 1}: expert")
        axes[layer, 1].set_ylabel("slot, by device")
    axes[0, 0].set_title(f"{title}: load, times the mean")
    axes[0, 1].set_title("expert in each slot")
    axes[-1, 0].set_xlabel("step")
    axes[-1, 1].set_xlabel("step")
    figure.colorbar(left, ax=axes[:, 0])
    figure.colorbar(right, ax=axes[:, 1])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _inside(device: simulator.Device) -> str:
    return f"; in nodes of {device.node} {device.near:.3g} B/s" if device.node else ""


def _losses(logged: list[dict[str, Any]], run: str) -> dict[int, float]:
    return {r["step"]: r["loss"] for r in logged if r["run"] == run and "loss" in r}


def _smooth(values: np.ndarray, width: int = 10) -> np.ndarray:
    width = max(1, min(width, len(values)))
    padded = np.concatenate([np.full(width - 1, values[0]), values])
    return np.convolve(padded, np.ones(width) / width, "valid")
