"""Modelled steps of expert-parallel training, 64 to 1,024 devices: FlexMoE beside what others do.

    python benchmarks/flexmoe_simulator.py [--device a100] [--plot speedup.png]

Router traffic: recorded (`jaxgen.moe.placement.traffic.recorded`, scaled to the batch), Zipf's law that stays, that
drifts, and with bursts. FlexMoE's horizon and EPLB's period are those that serve them best on this traffic.
Every assumption is printed. Speed-up is of kept pairs of token and expert a second, so that a policy gains
nothing by dropping; `bound` is perfect balance without an exchange.
"""

import argparse
import dataclasses
import pathlib
import statistics
from typing import Any

import numpy as np

from jaxgen.moe.placement import planner, policies, simulator, traffic
from jaxgen.moe.placement.simulator import DEVICES, Shape
from jaxgen.moe.placement.split import SPLITS

SHAPE = Shape(width=1024, hidden=4096, tokens=8192, k=2, dense=24.0 * 1024**2 + 4.0 * 1024 * 4096)
STEPS, LAYERS, EXPERTS, SLOTS, CAPACITY = 24, 2, 64, 4, 1.25


def kinds(tokens: int) -> dict[str, Any]:
    """Traffic of 64 experts by kind, [steps, layers, experts]."""
    size = {"steps": STEPS, "layers": LAYERS, "experts": EXPERTS, "tokens": tokens, "seed": 0}
    recorded = traffic.recorded()
    late = recorded[-STEPS:]
    return {
        "recorded": traffic.scaled(late, tokens),
        "zipf": traffic.zipf(**size, exponent=1.0),
        "drifting": traffic.drifting(**size, exponent=1.0, period=50),
        "bursty": traffic.bursty(**size, exponent=0.75, rate=0.1, size=8.0, length=4),
    }


def rates(
    counts: Any, devices: int, device: simulator.Device, horizon: int, every: int, split: str
) -> dict[str, tuple[float, float]]:
    """Of each policy: kept pairs a second, and the share of pairs dropped; the first steps are left out."""
    rules = policies.Rules(SHAPE.costs(device), planner.Policy(1.05, horizon), every, split)
    skip, out = 4, {}
    for name in policies.POLICIES:
        steps, _ = policies.replay(
            name, counts, devices, SLOTS, SHAPE, device, rules, capacity_factor=CAPACITY
        )
        seconds = sum(simulator.step_seconds(works, SHAPE, device) for works in steps[skip:])
        pairs = float(counts[skip:].sum())
        lost = sum(one.lost for works in steps[skip:] for one in works)
        out[name] = ((pairs - lost) / seconds, lost / pairs)
    best = sum(simulator.ideal(row, devices, SHAPE, device) for row in counts[skip:])
    out["bound"] = (float(counts[skip:].sum()) / best, 0.0)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="a100", choices=sorted(DEVICES))
    parser.add_argument("--devices", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--horizon", type=int, default=planner.Policy().horizon)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--split", choices=SPLITS, default="even")
    parser.add_argument("--plot", type=pathlib.Path, default=None)
    args = parser.parse_args()
    device = DEVICES[args.device]
    print(f"device {args.device}: {dataclasses.asdict(device)}")
    print(f"model: {dataclasses.asdict(SHAPE)}; {LAYERS} layers of {EXPERTS} experts")
    print(f"{SLOTS} slots a device; one copy of an expert for every {EXPERTS} devices otherwise")
    print(
        f"capacity factor {CAPACITY}; FlexMoE: threshold 1.05, horizon {args.horizon}; EPLB every {args.every} steps"
    )
    print(f"tokens of an expert over its replicas: {args.split}")
    print(f"{STEPS} steps, the first 4 left out; placements follow counts two steps old")
    table: dict[str, dict[int, dict[str, float]]] = {}
    for devices in args.devices:
        for kind, counts in kinds(SHAPE.tokens * SHAPE.k * devices).items():
            got = rates(counts, devices, device, args.horizon, args.every, args.split)
            flex = got["flexmoe"][0]
            row = {name: flex / rate for name, (rate, _) in got.items()}
            table.setdefault(kind, {})[devices] = row
            print(
                f"{devices} devices, {kind}: FlexMoE over static capacity {row['capacity']:.2f}x (which "
                f"drops {got['capacity'][1]:.1%}), static dropless {row['static']:.2f}x, shadowing "
                f"{row['shadowing']:.2f}x, EPLB {row['eplb']:.2f}x, Symi {row['symi']:.2f}x; of the bound {row['bound']:.2f}",
                flush=True,
            )
    for name in ("capacity", "static", "shadowing", "eplb", "symi"):
        values = [row[name] for rows in table.values() for row in rows.values()]
        print(f"over {name}: mean {statistics.mean(values):.2f}x, max {max(values):.2f}x")
    if args.plot:
        draw(args.plot, table)


def draw(path: pathlib.Path, table: dict[str, dict[int, dict[str, float]]]) -> None:
    """One panel a kind of traffic: each policy's kept pairs a second as a share of the bound."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(table), 3.2), layout="constrained")
    for axes, (kind, rows) in zip(
        figure.subplots(1, len(table), squeeze=False)[0], table.items(), strict=True
    ):
        devices = np.array(list(rows))
        for name in policies.POLICIES:
            share = [row["bound"] / row[name] for row in rows.values()]
            axes.plot(devices, share, marker="o", label=name)
        axes.axhline(1.0, color="black", linewidth=0.8, label="bound")
        axes.set_xscale("log", base=2)
        axes.set_title(kind)
        axes.set_xlabel("devices")
    figure.axes[0].set_ylabel("kept pairs a second, of the bound")
    figure.axes[0].legend(fontsize="x-small")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
