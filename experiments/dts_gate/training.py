"""DTS-Gate: the task of a method, its validation, and its training segment by segment."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.common import moe
from experiments.common.moe import Corpus
from experiments.common.runs import Study
from experiments.dts_gate.gating import SOFT, Segment, make_context, segments
from jaxgen.config import Config
from jaxgen.moe import gates
from jaxgen.moe.init_experts import init_experts
from jaxgen.moe.layer import MoEContext
from jaxgen.moe.loss_free import update_bias
from jaxgen.moe.remoe import update_coefficient
from jaxgen.nn import stacked
from jaxgen.train import state
from jaxgen.train.runs import TrainTask

# (model, state of the loss, step) -> (scalars, tokens of each expert [L, E] or None)
Test = Callable[[Any, Any, Any], tuple[dict[str, float], np.ndarray | None]]


def task(
    config: Config,
    vocab: int,
    method: str,
    run: str,
    segment: Segment,
    start: Any = None,
    seed: int = 0,
    mesh: Any = None,
) -> TrainTask:
    """One segment of a run of a method.

    Args:
      start: a trained dense model whose feed-forward layers become the experts.
      seed: of the masks that set them apart.
      mesh: spreads experts over its axis `expert`.
    """
    m = config.model
    experts = 0 if method == "dense" else m.experts
    tokens = config.train.batch_size * config.data.context
    over = mesh if mesh is not None and mesh.shape["expert"] > 1 else None

    def fresh() -> dict[str, Any]:
        extra = {"pairs": jnp.zeros(())}
        if method == "loss_free":
            extra["bias"] = jnp.zeros((m.depth // m.expert_every, m.experts))
        if method == "relu":
            extra["coefficient"] = jnp.full((), config.relu.coefficient)
        return extra

    def loss(model, extra, batch, key, at):
        x = batch["tokens"]
        route = make_context(
            config, method, segment, x[:, :-1], at, extra, training=True, mesh=over
        )
        value, loads = moe.nll(model, x, route, key)
        new = dict(extra)
        metrics = {"nll": value, **moe.metrics_of(loads, tokens)}
        total = value
        if loads is not None:
            new["pairs"] = extra["pairs"] + loads.counts.sum().astype(jnp.float32)
            balance = segment.balance * loads.balance.sum()
            if method == "relu":
                balance = extra["coefficient"] * loads.balance.mean()
                new["coefficient"] = update_coefficient(
                    extra["coefficient"],
                    loads.counts,
                    tokens // config.train.accumulate,
                    target=config.relu.target,
                    factor=config.relu.factor,
                )
                metrics["coefficient"] = extra["coefficient"]
            if method == "loss_free":
                new["bias"] = update_bias(extra["bias"], loads.counts, rate=config.loss_free.rate)
            total = value + balance + config.train.z_weight * loads.z.sum()
        metrics["pairs"] = new["pairs"]
        return total, (metrics, new)

    return TrainTask(
        run,
        lambda key: moe.build(config, vocab, experts, nnx.Rngs(key)),
        loss,
        extra=fresh,
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


def tester(config: Config, method: str, part: np.ndarray, segment: Segment) -> Test:
    """Of windows of a part, without noise; of a soft gate also as the sparse model that it will be (top-1)."""
    size = min(config.train.batch_size, len(part))
    batches = part[: len(part) // size * size].reshape(-1, size, part.shape[1])
    soft = method in SOFT and not segment.hard

    @jax.jit
    def run(model: Any, extra: Any, at: Any) -> Any:
        def one(x: Any) -> Any:
            route = make_context(config, method, segment, x[:, :-1], at, extra)
            value, loads = moe.nll(model, x, route, None)
            sparse = None
            if soft:
                switch = MoEContext(lambda logits, key: gates.switch(logits))
                sparse = moe.nll(model, x, switch, None)[0]
            return value, sparse, None if loads is None else loads.counts

        return jax.lax.map(one, batches)

    def test(model: Any, extra: Any, at: Any) -> tuple[dict[str, float], np.ndarray | None]:
        value, sparse, counts = jax.device_get(run(model, extra, at))
        values = {"valid_nll": float(value.mean())}
        if sparse is not None:
            values["valid_top1_nll"] = float(sparse.mean())
        return values, None if counts is None else counts.sum(0)

    return test


class Watch:
    """Validation within a training run: its scalars, loads of experts, and seconds a step between two."""

    def __init__(self, test: Test):
        self.test = test
        self.before: tuple[int, float] | None = None

    def __call__(self, at: state.TrainState) -> dict[str, float]:
        now, step = time.perf_counter(), int(at.step)
        values, counts = self.test(at.model, at.extra, at.step)
        if self.before is not None and step > self.before[0]:
            values["step_seconds"] = (now - self.before[1]) / (step - self.before[0])
        if counts is not None:
            share = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
            values |= {
                f"valid_load_{layer}_{e}": float(v) for (layer, e), v in np.ndenumerate(share)
            }
        self.before = step, time.perf_counter()
        return values


def train_method(
    study: Study[Corpus], corpus: Corpus, method: str, seed: int
) -> tuple[Any, dict[str, Any]]:
    """Trains a method to the end, segment by segment; returns the model and the state of its loss."""
    config, train = study.config, {"tokens": corpus.parts["train"]}
    valid = corpus.parts["valid"][: config.train.eval_windows]
    last: dict[str, Any] = {}

    def fit(
        run: str, kind: str, segment: Segment, start: Any, steps: int, until: int | None = None
    ) -> Any:
        return study.runs.fit(
            task(config, corpus.vocab, kind, run, segment, start, seed, study.runs.mesh),
            seed,
            train,
            steps=steps,
            until=until,
            eval_every=config.train.eval_every,
            evaluate=Watch(tester(config, kind, valid, segment)),
            finished=lambda final: last.update(jax.device_get(final.extra)),
        )

    start, steps = None, config.train.steps
    if method == "dts" and config.dts.shared_steps:
        shared = config.dts.shared_steps
        start = fit("shared", "dense", Segment(steps), None, steps, shared)
        steps -= shared
    model = None
    for segment in segments(config, method):
        model = fit(method, method, segment, start, steps, segment.end)
    return model, last


def specialisation(
    config: Config, corpus: Corpus, method: str, segment: Segment, model: Any, extra: Any
) -> list[Any] | None:
    """[domains, L, E]: how the choices of a domain's validation tokens are shared out; None without domains."""
    if not corpus.domains or method == "dense":
        return None
    size = config.train.batch_size
    most = min(*map(len, corpus.domains.values()), config.train.eval_windows)
    if most < size:
        return None
    test = functools.partial(_counts, config, method, segment, most // size * size)
    run = jax.jit(test)
    counts = np.stack(
        [
            jax.device_get(run(model, extra, windows[: most // size * size]))
            for windows in corpus.domains.values()
        ]
    )
    return (counts / np.maximum(counts.sum(-1, keepdims=True), 1)).tolist()


def _counts(
    config: Config, method: str, segment: Segment, rows: int, model: Any, extra: Any, part: Any
) -> Any:
    batches = part.reshape(rows // config.train.batch_size, config.train.batch_size, -1)

    def one(x: Any) -> Any:
        at = jnp.int32(config.train.steps)
        route = make_context(config, method, segment, x[:, :-1], at, extra)
        loads = moe.nll(model, x, route, None)[1]
        return None if loads is None else loads.counts

    return jax.lax.map(one, batches).sum(0)
