"""What the log of a run says: validation loss over steps, FLOPs and seconds; the hard switch; what was lost."""

from typing import Any

import numpy as np

from experiments.common import moe
from experiments.common.moe import Corpus
from experiments.common.runs import Study
from experiments.dts_gate.gating import Segment, segments
from jaxgen.train import writers
from jaxgen.train.runs import Row

AXES = {"steps": 1.0, "flops": 1e-12, "seconds": 1.0}  # and their scale in reports


def of_run(study: Study[Corpus], corpus: Corpus, method: str, seed: int) -> Row:
    """Numbers of a finished run.

    `curve` has lists: steps, flops (matrix products of training so far), seconds (see `seconds`), valid (nats a
    token) and top1 (the same as a sparse model; None where it is one already). `switch` is the validation loss
    of the last soft step, under the soft gate and under the hard one. `experts`: pairs of token and expert over
    tokens, in all of training.
    """
    config = study.config
    names = [f"shared-{seed}", f"{method}-{seed}"]
    logged = writers.read_metrics(study.workdir, names if method == "dts" else names[1:])
    mine = [r for r in logged if r["run"] == names[1]]
    rows = [r for r in mine if "valid_nll" in r]
    before = [r for r in logged if r["run"] == names[0] and "valid_nll" in r]
    shared = config.dts.shared_steps if method == "dts" else 0
    count = moe.flops(config, corpus.vocab)
    parts = segments(config, method)
    each = seconds(parts, rows)
    dense = seconds([Segment(max(shared, 1))], before)[0] if shared else 0.0
    curve: dict[str, list[Any]] = {k: [] for k in (*AXES, "valid", "top1")}
    for row in before:
        _add(curve, row["step"], row["step"] * count.dense, _times(row["step"], dense), row)
    base = count.dense if method == "dense" else count.base
    for row in rows:
        done = row["step"]
        flops = shared * count.dense + done * base + row["pairs"] * count.pair
        _add(
            curve, shared + done, flops, _sum(_times(shared, dense), spent(parts, each, done)), row
        )
    soft = [r for r in rows if "valid_top1_nll" in r]
    hard = parts[-1].hard and bool(soft)
    tokens = config.train.batch_size * config.data.context
    layers = config.model.depth // config.model.expert_every
    steps = config.train.steps - shared
    return {
        "curve": curve,
        "switch": [soft[-1]["valid_nll"], soft[-1]["valid_top1_nll"]] if hard else None,
        "lost": int(sum(r.get("overflow", 0) + r.get("dropped", 0) for r in mine)),
        "experts": None if method == "dense" else rows[-1]["pairs"] / (tokens * layers * steps),
        "weight_sum": [[r["step"], r["weight_sum"]] for r in rows if "weight_sum" in r],
        "step_seconds": dict(zip((f"{p.budget}" + "h" * p.hard for p in parts), each, strict=True)),
        "loads": loads(rows),
    }


def seconds(parts: list[Segment], rows: list[Row]) -> list[float | None]:
    """Of a step in each segment: the median over spans between validations; None where there was no such span."""
    out: list[float | None] = []
    begin = 0
    for part in parts:
        inside = [
            r["step_seconds"] for r in rows if begin < r["step"] <= part.end and "step_seconds" in r
        ]
        out.append(float(np.median(inside)) if inside else None)
        begin = part.end
    return out


def spent(parts: list[Segment], each: list[float | None], done: int) -> float | None:
    """Seconds of the first `done` steps."""
    total: float | None = 0.0
    begin = 0
    for part, one in zip(parts, each, strict=True):
        total = _sum(total, _times(max(0, min(done, part.end) - begin), one))
        begin = part.end
    return total


def loads(rows: list[Row]) -> list[Any] | None:
    """[steps, L, E]: shares of the validation tokens' choices; None without experts."""
    names = [n for n in (rows[0] if rows else {}) if n.startswith("valid_load_")]
    if not names:
        return None
    at = [tuple(map(int, n.split("_")[2:])) for n in names]
    layers, experts = (max(i) + 1 for i in zip(*at, strict=True))
    out = np.zeros((len(rows), layers, experts))
    for s, row in enumerate(rows):
        for (layer, e), n in zip(at, names, strict=True):
            out[s, layer, e] = row[n]
    return out.round(5).tolist()


def bits(shares: list[Any]) -> float:
    """Mutual information of domain and expert, domains equally frequent, in bits; its mean over layers.

    Args:
      shares: [domains, L, E], each row of experts summing to 1.
    """
    p = np.asarray(shares)
    ratio = np.where(p > 0, p, 1.0) / np.maximum(p.mean(0), 1e-30)
    return float((p * np.log2(np.where(p > 0, ratio, 1.0))).sum(-1).mean())


def _add(curve: dict[str, list[Any]], steps: int, flops: float, time: Any, row: Row) -> None:
    values = (steps, float(flops), time, row["valid_nll"], row.get("valid_top1_nll"))
    for name, value in zip(curve, values, strict=True):
        curve[name].append(value)


def _times(count: int, one: float | None) -> float | None:
    return 0.0 if not count else None if one is None else count * one


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
