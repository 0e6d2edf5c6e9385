"""DTS-Gate: fields, gates, segments, and the loop over seeds and methods."""

import dataclasses
import functools
import itertools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.common import fields, moe
from experiments.common.moe import Corpus
from experiments.common.runs import (
    Study,
    compile_task,
    mesh_of,
    open_study,
    seeds_of,
)
from experiments.dts_gate import report
from jaxgen import config as config_lib
from jaxgen import mesh as mesh_lib
from jaxgen.config import Config
from jaxgen.errors import ConfigError
from jaxgen.launch import Mode
from jaxgen.moe import gates
from jaxgen.moe.init_experts import init_experts
from jaxgen.moe.layer import Gate, MoEContext
from jaxgen.nn import stacked
from jaxgen.train import aot, state, step
from jaxgen.train.runs import TrainTask

METHODS = ("dts", "switch", "gshard", "hash", "dense")
NAMES = {
    **moe.NAMES,
    "": "seed seeds methods",
    "train": moe.NAMES["train"] + " eval_every eval_windows",
    "dts": "start end decay decay_steps threshold noise_free_weights budgets shared_steps mask_rate",
}
RUNTIME = fields.RUNTIME
# (first step, experts a token)
BUDGET = config_lib.many(config_lib.integer(0, 10**9), "a pair of whole numbers", least=2, most=2)
BUDGETS = config_lib.many(BUDGET, "(first step, experts a token) pairs, such as ((0, 8), (60, 1))")


def validate(config: Config) -> None:
    """Raises ConfigError for any value that cannot run; touches no device and no data."""
    methods = config_lib.some_of(*METHODS)
    rules = {**moe.RULES, "methods": methods, "dts.budgets": BUDGETS}
    config_lib.check_fields(config, NAMES, rules)
    moe.check(config)
    d, experts = config.dts, config.model.experts
    starts, sizes = zip(*d.budgets, strict=True)
    falling = all(a > b for a, b in itertools.pairwise(sizes))
    rising = all(a < b for a, b in itertools.pairwise(starts))
    if starts[0] or not rising or not falling or not 1 <= sizes[-1] <= sizes[0] <= experts:
        raise ConfigError(
            "dts.budgets",
            d.budgets,
            f"(first step, experts a token) pairs from step 0 on, experts falling from {experts} at most",
        )
    if d.shared_steps >= config.train.steps:
        raise ConfigError("dts.shared_steps", d.shared_steps, "below train.steps")


@dataclasses.dataclass(frozen=True)
class Segment:
    """Steps under one gate; `experts` = 0 is the shared expert of a dense model.

    Attributes:
      end: the step after its last one.
      budget: experts that a token may have.
      threshold: so high that no more than the budget can be above it, so that nothing overflows.
    """

    end: int
    budget: int
    threshold: float


def segments(config: Config) -> list[Segment]:
    """DTS's, clipped to the run's length (without the steps of the shared expert)."""
    d, steps = config.dts, config.train.steps - config.dts.shared_steps
    starts = [*(s for s, _ in d.budgets[1:]), steps]
    out = []
    for (begin, budget), end in zip(d.budgets, starts, strict=True):
        if begin < steps:
            # Shares above 1 / (k + 1) are k at most.
            floor = 0.0 if budget == config.model.experts else 1.0 / (budget + 1)
            out.append(Segment(min(end, steps), budget, max(d.threshold, floor)))
    return out


def make_gate(config: Config, method: str, tokens: Any, at: Any, segment: Segment | None) -> Gate:
    """The gate of a method at a step; noise-free where it gets no key.

    Args:
      tokens: [B, T] that the model reads, for `hash`.
    """
    d = config.dts

    def gate(logits: Any, key: Any) -> gates.Routing:
        if method == "gshard":
            return gates.gshard(logits, key=key)
        if method == "hash":
            return gates.hash_gate(tokens.reshape(-1), config.model.experts)
        if segment is None:
            return gates.switch(logits)
        return gates.dts(
            logits,
            temperature=gates.temperature_at(
                at, start=d.start, end=d.end, decay_steps=d.decay_steps, kind=d.decay
            ),
            threshold=segment.threshold,
            budget=segment.budget,
            hard=segment.budget == 1,
            noise_free_weights=d.noise_free_weights,
            # Straight top-1 at the end: noise there would send tokens elsewhere than in evaluation.
            key=None if segment.budget == 1 else key,
        )

    return gate


def task(
    config: Config,
    vocab: int,
    method: str,
    run: str,
    segment: Segment | None = None,
    start: Any = None,
    seed: int = 0,
    mesh: Any = None,
) -> TrainTask:
    """One run (or a segment of one) of a method.

    Args:
      start: a trained dense model whose feed-forward layers become the experts.
      seed: of the masks that set them apart.
      mesh: spreads experts over its axis `expert`.
    """
    experts = 0 if method == "dense" else config.model.experts
    tokens = config.train.batch_size * config.data.context
    over = mesh if mesh is not None and mesh.shape["expert"] > 1 else None

    def loss(model, extra, batch, key, at):
        x = batch["tokens"]
        gate = make_gate(config, method, x[:, :-1], at, segment)
        route = MoEContext(gate, over, receive_capacity_factor=config.model.receive_capacity_factor)
        value, loads = moe.nll(model, x, route, key)
        pairs = extra["pairs"]
        if loads is not None:
            pairs = pairs + loads.counts.sum().astype(jnp.float32)
        metrics = {"nll": value, "pairs": pairs, **moe.metrics_of(loads, tokens)}
        return value + moe.auxiliary(config, loads), (metrics, {"pairs": pairs})

    return TrainTask(
        run,
        lambda key: moe.build(config, vocab, experts, nnx.Rngs(key)),
        loss,
        extra=lambda: {"pairs": jnp.zeros(())},
        pretrained=None if start is None else functools.partial(from_dense, config, start, seed),
    )


def from_dense(config: Config, dense: Any, seed: int, model: Any) -> Any:
    """`model` with the weights of a dense one, its feed-forward layers in every expert, masked."""
    model, dense = stacked.unstack(jax.tree.map(jnp.array, model)), stacked.unstack(dense)
    for part in ("tokens", "positions"):
        nnx.update(getattr(model, part), nnx.state(getattr(dense, part)))
    nnx.update(model.stack.norm, nnx.state(dense.stack.norm))
    key = state.run_key(f"masks-{seed}")
    for i, (new, old) in enumerate(zip(model.stack.blocks, dense.stack.blocks, strict=True)):
        for part in ("norm1", "attention", "norm2"):
            nnx.update(getattr(new, part), nnx.state(getattr(old, part)))
        if new.moe is None:
            nnx.update(new.mlp, nnx.state(old.mlp))
            continue
        for j, name in enumerate(("up", "down")):
            masked = init_experts(
                getattr(old.mlp, name).kernel[...],
                config.model.experts,
                config.dts.mask_rate,
                jax.random.fold_in(key, 2 * i + j),
            )
            getattr(new.moe.experts, name)[...] = masked
    return jax.tree.map(jnp.array, stacked.stack(model))


def tester(config: Config, method: str, part: Any, segment: Segment | None) -> Any:
    """(model, step) -> scalars on windows of a part, without noise."""
    size = min(config.train.batch_size, len(part))
    batches = part[: len(part) // size * size].reshape(-1, size, part.shape[1])

    @jax.jit
    def run(model: Any, at: Any) -> Any:
        def one(x: Any) -> Any:
            route = MoEContext(make_gate(config, method, x[:, :-1], at, segment))
            value, loads = moe.nll(model, x, route, None)
            return value, None if loads is None else loads.counts

        return jax.lax.map(one, batches)

    def test(model: Any, at: Any) -> dict[str, float]:
        each, counts = jax.device_get(run(model, at))
        values = {"valid_nll": float(each.mean())}
        if counts is not None:
            share = counts.sum(0) / counts.sum((0, 2))[:, None]
            values |= {
                f"valid_load_{layer}_{e}": float(v) for (layer, e), v in np.ndenumerate(share)
            }
        return values

    return test


def train_method(study: Study[Corpus], corpus: Corpus, method: str, seed: int) -> Any:
    """Trains a method to the end, segment by segment; returns the model."""
    config, train = study.config, {"tokens": corpus.parts["train"]}
    valid = corpus.parts["valid"][: config.train.eval_windows]
    shared, start = config.dts.shared_steps, None

    def fit(run, kind, segment=None, steps=config.train.steps, until=None):
        test = tester(config, kind, valid, segment)
        return study.runs.fit(
            task(config, corpus.vocab, kind, run, segment, start, seed, study.runs.mesh),
            seed,
            train,
            steps=steps,
            until=until,
            eval_every=config.train.eval_every,
            evaluate=lambda s: test(s.model, s.step),
        )

    if method != "dts":
        return fit(method, method)
    if shared:
        start = fit("shared", "dense", until=shared)
    model = None
    for segment in segments(config):
        model = fit("dts", "dts", segment, config.train.steps - shared, segment.end)
    return model


def step_seconds(
    study: Study[Corpus], corpus: Corpus, models: dict[str, Any], repeats: int = 5
) -> Any:
    """Seconds of a training step of each method (of DTS, in each segment), taken in turns.

    Models are trained ones, since a router that has learned sends tokens elsewhere than a fresh one.
    """
    config = study.config
    tx = study.runs.options.make_optimizer(optax.constant_schedule(1e-5))
    batch = mesh_lib.put_batch(
        {"tokens": corpus.parts["train"][: config.train.batch_size]}, study.runs.mesh
    )
    kinds: list[tuple[str, str, Segment | None]] = [(m, m, None) for m in models if m != "dts"]
    if "dts" in models:
        kinds += [(f"dts-{s.budget}", "dts", s) for s in segments(config)]
        if config.dts.shared_steps and "dense" not in models:
            kinds.append(("dense", "dense", None))
    runs = {}
    for name, method, segment in kinds:
        made = task(config, corpus.vocab, method, name, segment, mesh=study.runs.mesh)
        init = functools.partial(state.create, made.build, tx, use_ema=False, extra=made.extra)
        begin, where = state.create_sharded(init, jax.random.key(0), study.runs.mesh)
        if method in models:
            begin = state.replace_model(begin, jax.tree.map(jnp.array, models[method]), where)
        at = jnp.int32(0 if segment is None else segment.end - 1)
        begin = dataclasses.replace(begin, step=jax.device_put(at, where.step))
        run = step.make_step(made.loss, tx, shardings=where)
        runs[name] = step.Stepper(run, begin)
        jax.block_until_ready(runs[name](batch))
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, one in runs.items():
            began = time.perf_counter()
            one(batch)
            jax.block_until_ready(one.state)
            taken[name].append(time.perf_counter() - began)
    return {name: float(np.median(seconds)) for name, seconds in taken.items()}


def run(config: Config, workdir: pathlib.Path, *, may_train: bool) -> None:
    """Trains what is not finished, tests, and writes the report."""
    moe.check_experts(config, mesh_of(config))
    study = open_study(config, workdir, moe.load, may_train=may_train)
    corpus = study.data
    rows, models = [], {}
    for seed in seeds_of(config):
        for method in config.methods:
            model = models[method] = train_method(study, corpus, method, seed)
            last = segments(config)[-1] if method == "dts" else None
            test = tester(config, method, corpus.parts["test"], last)
            at = jnp.int32(config.train.steps)
            rows.append({"system": method, "seed": seed, "nll": test(model, at)["valid_nll"]})
    seconds = step_seconds(study, corpus, models)
    if jax.process_index() == 0:
        print(f"report: {report.write(study, corpus, rows, seconds, segments(config))}")


train = functools.partial(run, may_train=True)
evaluate_again = functools.partial(run, may_train=False)


def compile_moe(config: Config, _: pathlib.Path) -> None:
    """Compiles the train step of Switch, its experts over the mesh, for `mesh.topology`."""
    shape = (config.train.batch_size, config.data.context + 1)

    def make(mesh: Any) -> TrainTask:
        moe.check_experts(config, mesh)
        return task(config, config.data.vocab_size, "switch", "switch", mesh=mesh)

    compile_task(
        config,
        make,
        {"tokens": jax.ShapeDtypeStruct(shape, jnp.int32)},
    )
    m, experts = config.model, max(config.mesh.expert, 1)
    chips = len(aot.topology_devices(config.mesh.topology)) // max(config.mesh.model, 1)
    pairs = config.train.batch_size * config.data.context // chips
    # There and back; forward, again where blocks are recomputed, and backward.
    size = pairs * m.width * jnp.dtype(m.dtype).itemsize * (3 if m.remat else 2)
    size *= m.depth // m.expert_every
    print(
        f"exchange of rows by formula: buffers of {size * ((m.receive_capacity_factor or experts) + 1) / 2**20:,.1f} MiB per "
        f"chip; evenly routed, {2 * size * (experts - 1) / experts / 2**20:,.1f} MiB travel"
    )


MODES: dict[str, Mode] = {"train": train, "eval": evaluate_again, "compile": compile_moe}
