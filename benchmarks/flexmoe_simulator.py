"""Modelled steps of expert-parallel training, 64 to 1,024 devices: FlexMoE beside what others do.

    python benchmarks/flexmoe_simulator.py [--device a100_nodes] [--plot speedup.png]

Router traffic: recorded (`jaxgen.moe.placement.traffic.recorded`, scaled to the batch), Zipf's law that stays, that
drifts, and with bursts. FlexMoE's horizon and EPLB's period are those that serve them best on this traffic.
Every assumption is printed. A step's time is over the bound, perfect balance without an exchange, which no placement
can pass; where pairs of token and expert are dropped, for as many kept pairs, so that a policy gains nothing by
dropping. All policies have the same slots, the same age of counts and the same splits.
"""

import argparse
import dataclasses
import pathlib
import statistics
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np

from jaxgen.moe.placement import modes, planner, policies, simulator, traffic
from jaxgen.moe.placement.simulator import DEVICES, Device, Shape
from jaxgen.moe.placement.split import SPLITS

STEPS, SKIP, LAYERS, CAPACITY, PIECES = 14, 4, 2, 1.25, 4

KINDS = ("recorded", "zipf", "drifting", "bursty")


class Cell(NamedTuple):
    """Means over steps and layers: balance, and seconds over the bound in one piece and in several."""

    balance: float
    plain: float
    overlapped: float


def kinds(experts: int, tokens: int) -> dict[str, Any]:
    """Traffic by kind, [steps, layers, experts]."""
    size = {"steps": STEPS, "layers": LAYERS, "experts": experts, "tokens": tokens, "seed": 0}
    recorded = traffic.recorded()
    out = {"recorded": traffic.scaled(recorded[-STEPS:], tokens)}
    if recorded.shape[2] != experts:
        out = {}
    return out | {
        "zipf": traffic.zipf(**size, exponent=1.0),
        "drifting": traffic.drifting(**size, exponent=1.0, period=50),
        "bursty": traffic.bursty(**size, exponent=0.75, rate=0.1, size=8.0, length=4),
    }


def splits_of(policy: str, device: Device) -> tuple[str, ...]:
    """What of a policy's tokens may go where: nowhere else, where it has no replicas or moves none to them."""
    if policy in ("capacity", "static", "shadowing"):
        return SPLITS[:1]
    return (*SPLITS, "nodes") if policy == "laer" and device.node else SPLITS


def measure(
    policy: str, split: str, places: list[Any], counts: Any, shape: Shape, device: Device
) -> Cell:
    """Of a policy's placements, the first steps left out."""
    balance, seconds, lost = [], {1: 0.0, PIECES: 0.0}, 0.0
    for t in range(SKIP, len(counts)):
        layers = []
        for here, old, row in zip(places[t], places[t - 1], counts[t], strict=True):
            options = {"capacity_factor": CAPACITY, "before": old, "split": split}
            layers.append(policies.work(policy, here, row, shape, device, **options))
        balance += [w.tokens.max() / w.tokens.mean() for w in layers]
        lost += sum(w.lost for w in layers)
        for pieces in seconds:
            seconds[pieces] += simulator.step_seconds(layers, shape, device, pieces=pieces)
    late = counts[SKIP:]
    best = sum(simulator.ideal(row, len(places[0][0]), shape, device) for row in late)
    kept = 1.0 - lost / late.sum()
    return Cell(float(np.mean(balance)), *(s / kept / best for s in seconds.values()))


def compare_modes(places: list[Any], counts: Any, shape: Shape, device: Device) -> str:
    """FlexMoE's own placements in both modes: by formula and by simulation."""
    experts, late = counts.shape[2], range(SKIP, len(counts))
    hidden = shape.tokens * shape.dense / (device.flops * device.utilisation)
    formula = {"moving": 0.0, "sharded": 0.0}
    changed, even = [], []
    for layer in range(counts.shape[1]):
        own = [places[t][layer] for t in range(SKIP - 1, len(counts))]
        changed.append(modes.changes(own))
        even.append(modes.break_even(own[-1], experts, shape, device))
        found = modes.link_seconds(
            own[-1], experts, shape, device, changed=changed[-1], hidden=hidden
        )
        formula = {mode: seconds + found[mode] for mode, seconds in formula.items()}
    cells = {}
    for mode, policy in (("moving", "flexmoe"), ("sharded", "symi")):
        got = [
            simulator.step_seconds(
                [
                    policies.work(policy, here, row, shape, device, before=old, split="scheduled")
                    for here, old, row in zip(places[t], places[t - 1], counts[t], strict=True)
                ],
                shape,
                device,
            )
            for t in late
        ]
        cells[mode] = float(np.mean(got))
    parts = [f"{statistics.mean(changed):.2f} | {statistics.mean(even):.2f}"]
    parts += [
        f"{formula[m] * 1e3:.1f} / {formula[n] * 1e3:.1f}" for m, n in [("moving", "sharded")]
    ]
    parts.append(f"{cells['moving'] * 1e3:.1f} / {cells['sharded'] * 1e3:.1f}")
    agree = min(formula, key=lambda m: formula[m]) == min(cells, key=lambda m: cells[m])
    return " | ".join([*parts, "yes" if agree else "no"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="a100_nodes", choices=sorted(DEVICES))
    parser.add_argument("--devices", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--policies", nargs="+", default=policies.POLICIES)
    parser.add_argument("--traffic", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--horizon", type=int, default=planner.Policy().horizon)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--average", type=float, default=0.0)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=8192, help="of a device")
    parser.add_argument("--plot", type=pathlib.Path, default=None)
    args = parser.parse_args()
    device = DEVICES[args.device]
    dense = 24.0 * args.width**2 + 4.0 * args.width * args.hidden
    shape = Shape(args.width, args.hidden, args.tokens, k=2, dense=dense)
    print(f"device {args.device}: {dataclasses.asdict(device)}")
    print(f"model: {dataclasses.asdict(shape)}; {LAYERS} layers of {args.experts} experts")
    print(f"{args.slots} slots a device; capacity and static: one copy of an expert, or as fits")
    print(
        f"capacity factor {CAPACITY}; FlexMoE: threshold 1.05, horizon {args.horizon}; EPLB every {args.every} steps"
    )
    print(f"{STEPS} steps, the first {SKIP} left out; placements follow counts two steps old")
    print(f"moving average of counts: each step keeps {args.average:g} of it")
    table: dict[tuple[str, str], dict[tuple[str, int], Cell]] = defaultdict(dict)
    lines = []
    for devices in args.devices:
        for kind, counts in kinds(args.experts, args.tokens * 2 * devices).items():
            if kind not in args.traffic:
                continue
            rules = policies.Rules(
                shape.costs(device),
                planner.Policy(1.05, args.horizon),
                args.every,
                average=args.average,
            )
            for policy in args.policies:
                _, places = policies.replay(
                    policy, counts, devices, args.slots, shape, device, rules
                )
                for split in splits_of(policy, device):
                    cell = measure(policy, split, places, counts, shape, device)
                    table[policy, split][kind, devices] = cell
                if policy == "flexmoe":
                    row = compare_modes(places, counts, shape, device)
                    lines.append(f"| {devices:,}, {kind} | {row} |")
            print(f"{devices} devices, {kind}: done", flush=True)
    write(table, args.devices)
    print("\nMoving copies or sharded masters, FlexMoE's placements, scheduled split\n")
    print(
        "| devices, traffic | slots that change | break-even | formula: link, moving / sharded (ms) | "
        "simulated step (ms) | agree |\n| --- | --- | --- | --- | --- | --- |"
    )
    print("\n".join(lines))
    if args.plot:
        draw(args.plot, table, args.devices)


def write(table: dict[tuple[str, str], dict[tuple[str, int], Cell]], devices: list[int]) -> None:
    """One table a kind of traffic, and one of all."""
    found = list(dict.fromkeys(kind for cells in table.values() for kind, _ in cells))
    for kind in found:
        print(f"\n{kind}: step over the bound (largest load over the mean)\n")
        print("| policy, split | " + " | ".join(f"{n:,}" for n in devices) + " |")
        print("| --- |" + " --- |" * len(devices))
        for (policy, split), cells in table.items():
            row = [cells[kind, n] for n in devices]
            print(
                f"| {policy}, {split} | "
                + " | ".join(f"{c.plain:.2f} ({c.balance:.2f})" for c in row)
                + " |"
            )
    best = {
        at: [min(cells[at][i] for cells in table.values()) for i in (1, 2)]
        for at in next(iter(table.values()))
    }
    print(f"\nall: mean (largest); first or level: within 2 % of the least of {len(best)} cells\n")
    print(
        f"| policy, split | balance | step over the bound | first or level | {PIECES} pieces | first or level |"
    )
    print("| --- |" + " --- |" * 5)
    for (policy, split), cells in table.items():
        row = [f"{policy}, {split}"]
        for i in range(3):
            values = [c[i] for c in cells.values()]
            row.append(f"{statistics.mean(values):.2f} ({max(values):.2f})")
            if i:
                row.append(str(sum(c[i] <= 1.02 * best[at][i - 1] for at, c in cells.items())))
        print("| " + " | ".join(row) + " |")


def draw(
    path: pathlib.Path,
    table: dict[tuple[str, str], dict[tuple[str, int], Cell]],
    devices: list[int],
) -> None:
    """One panel a kind of traffic: the bound's time as a share of each policy's, splits scheduled where there are some."""
    from matplotlib.figure import Figure

    found = list(dict.fromkeys(kind for cells in table.values() for kind, _ in cells))
    figure = Figure(figsize=(3.4 * len(found), 3.2), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        for policy, split in table:
            if split == "scheduled" or (policy, "scheduled") not in table:
                share = [1.0 / table[policy, split][kind, n].plain for n in devices]
                axes.plot(np.array(devices), share, marker="o", label=policy)
        axes.axhline(1.0, color="black", linewidth=0.8, label="bound")
        axes.set_xscale("log", base=2)
        axes.set_title(kind)
        axes.set_xlabel("devices")
    figure.axes[0].set_ylabel("kept pairs a second, of the bound")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize="x-small")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
