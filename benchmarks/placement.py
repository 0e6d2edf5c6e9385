"""FlexMoE's policy maker: how even the load gets, and how long planning takes, on one core.

    python benchmarks/placement.py

64 experts, 256 slots on 32 devices of 8 and on 64 of 4; tokens by Zipf's law with exponents from 0.5 to 1.5,
and recorded from a router in training (`jaxgen.moe.placement.traffic.recorded`).
Plans start from the static placement. The bound is what no placement with evenly split experts can pass
(`jaxgen.moe.placement.bound`). Then LAER's planner as its authors time theirs, in C++: 32 experts, counts of each device
uniform below 1,000, nodes of 8, here 4 slots a device.
"""

import statistics
import time

import numpy as np
import records

from jaxgen.moe.placement import cost, laer, planner, simulator
from jaxgen.moe.placement import traffic as traffic_lib

EXPERTS, TOKENS = 64, 262_144


def traffic(exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Counts of each expert, in random order."""
    weight = rng.permutation(1.0 / np.arange(1, EXPERTS + 1) ** exponent)
    return rng.multinomial(TOKENS, weight / weight.sum())


def compare(
    devices: int, slots: int, name: str, cases: list[np.ndarray], out: records.Recorder
) -> list[float]:
    """Excess over the bound of each case."""
    start = planner.initial(EXPERTS, devices, slots)
    ratios: dict[str, list[float]] = {"bound": [], "plan": [], "packed": [], "static": []}
    times, excess = [], []
    for tokens in cases:
        begin = time.perf_counter()
        new = planner.plan(start, tokens)
        times.append((time.perf_counter() - begin) * 1e3)
        found = {
            "plan": new,
            "packed": planner.eplb(tokens, devices, slots),
            "static": start,
        }
        for kind, where in found.items():
            ratios[kind].append(cost.balance_ratio(where, tokens))
        ratios["bound"].append(planner.bound(tokens, devices, slots))
        excess.append(ratios["plan"][-1] / ratios["bound"][-1] - 1)
    sizes = {"devices": devices, "slots": slots}
    extra = {kind: statistics.median(r) for kind, r in ratios.items()} | over(excess)
    out.add(records.alone(name, times, sizes=sizes, part="plans", extra=extra))
    return excess


def over(excess: list[float]) -> dict[str, float]:
    """As columns, in per cent."""
    return {
        "over the bound, %": 100 * statistics.median(excess),
        "worst, %": 100 * max(excess),
    }


def laer_times(devices: int, cases: int) -> records.Record:
    """Milliseconds of a core for a plan."""
    costs = simulator.Shape(4096, 14_336, 4096).costs(simulator.DEVICES["laer"])
    rng, times, ratios = np.random.default_rng(0), [], []
    for _ in range(cases):
        tokens = rng.integers(0, 1000, (devices, 32)).sum(0)
        begin = time.process_time()
        slots = laer.place(tokens, devices, 4, costs)
        times.append((time.process_time() - begin) * 1e3)
        ratios.append(cost.balance_ratio(slots, tokens))
    sizes, extra = {"devices": devices, "slots": 4}, {"balance": statistics.median(ratios)}
    return records.alone("LAER's planner", times, sizes=sizes, part="laer", extra=extra)


def main() -> None:
    parser = records.parser(__doc__, option="--cases", rounds=40)
    args = parser.parse_args()
    out = records.Recorder(args.json)
    excess = []
    for devices, slots in ((32, 8), (64, 4)):
        for exponent in (0.5, 0.75, 1.0, 1.25, 1.5):
            rng = np.random.default_rng(0)
            cases = [traffic(exponent, rng) for _ in range(args.cases)]
            excess += compare(devices, slots, f"Zipf {exponent}", cases, out)
        seen = traffic_lib.scaled(traffic_lib.recorded(), TOKENS)
        excess += compare(devices, slots, "recorded", [c for step in seen for c in step], out)
    for devices in (64, 256, 1024):
        out.add(laer_times(devices, min(args.cases, 10)))
    out.add(records.Record("all of the plans above", part="plans", extra=over(excess)))


if __name__ == "__main__":
    main()
