"""DTS-Gate: the task of a method, its validation, and its training segment by segment."""

import dataclasses
import functools
import time
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


class Tester:
    """Validation of a method under the gate of a segment, without noise."""

    def __init__(self, config: Config, method: str, segment: Segment):
        """A soft gate is tested as the sparse model that it will be (top-1), too."""
        self.config = config
        soft = method in SOFT and not segment.hard

        @jax.jit
        def run(model: Any, extra: Any, at: Any, batches: Any) -> Any:
            def one(x: Any) -> Any:
                route = make_context(config, method, segment, x[:, :-1], at, extra)
                value, loads = moe.nll(model, x, route, None)
                sparse = None
                if soft:
                    switch = MoEContext(lambda logits, key: gates.switch(logits))
                    sparse = moe.nll(model, x, switch, None)[0]
                return value, sparse, None if loads is None else loads.counts

            value, sparse, counts = jax.lax.map(one, batches)
            return value, sparse, None if counts is None else counts.sum(0)

        self.run = run

    def __call__(
        self, model: Any, extra: Any, at: Any, part: np.ndarray
    ) -> tuple[dict[str, float], np.ndarray | None]:
        """(scalars, tokens of each expert [L, E] or None) of the first `windows_read` windows."""
        size, chunk, read = windows_read(self.config, len(part))
        values, sparses, total = [], [], None
        for begin in range(0, read, chunk):
            batches = part[begin : begin + chunk].reshape(-1, size, part.shape[1])
            value, sparse, counts = jax.device_get(self.run(model, extra, at, batches))
            values.append(value.mean())
            if sparse is not None:
                sparses.append(sparse.mean())
            if counts is not None:
                total = counts if total is None else total + counts
        scalars = {"valid_nll": float(np.mean(values))}
        if sparses:
            scalars["valid_top1_nll"] = float(np.mean(sparses))
        return scalars, total


def windows_read(config: Config, windows: int) -> tuple[int, int, int]:
    """Of a part: windows of a batch, of one call (so that all calls have one shape), and in all."""
    size = min(config.train.batch_size, windows)
    chunk = min(max(config.train.eval_windows // size, 1), windows // size) * size
    return size, chunk, windows // chunk * chunk


class Watch:
    """Validation within a training run: its scalars, loads of experts, and seconds a step between two."""

    def __init__(self, test: Tester, part: np.ndarray):
        self.test, self.part = test, part
        self.before: tuple[int, float] | None = None

    def __call__(self, at: state.TrainState) -> dict[str, float]:
        now, step = time.perf_counter(), int(at.step)
        values, counts = self.test(at.model, at.extra, at.step, self.part)
        if self.before is not None and step > self.before[0]:
            values["step_seconds"] = (now - self.before[1]) / (step - self.before[0])
        if counts is not None:
            values |= {
                f"valid_load_{layer}_{e}": float(v)
                for (layer, e), v in np.ndenumerate(shares(counts))
            }
        self.before = step, time.perf_counter()
        return values


def shares(counts: np.ndarray) -> np.ndarray:
    """[..., E], each row summing to 1."""
    return counts / np.maximum(counts.sum(-1, keepdims=True), 1)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A method after training: its model, the state of its loss, and its last tester."""

    model: Any
    extra: Any
    test: Tester


def train_method(study: Study[Corpus], corpus: Corpus, method: str, seed: int) -> Trained:
    """Trains a method to the end, segment by segment."""
    config, train = study.config, {"tokens": corpus.parts["train"]}
    valid = corpus.parts["valid"][: config.train.eval_windows]

    def fit(
        run: str, kind: str, segment: Segment, start: Any, steps: int, until: int | None = None
    ) -> Trained:
        last: dict[str, Any] = {}
        test = Tester(config, kind, segment)
        model = study.runs.fit(
            task(config, corpus.vocab, kind, run, segment, start, seed, study.runs.mesh),
            seed,
            train,
            steps=steps,
            until=until,
            eval_every=config.train.eval_every,
            evaluate=Watch(test, valid),
            finished=lambda final: last.update(final.extra),
        )
        return Trained(model, last, test)

    start, steps = None, config.train.steps
    if method == "dts" and config.dts.shared_steps:
        shared = config.dts.shared_steps
        start = fit("shared", "dense", Segment(steps), None, steps, shared).model
        steps -= shared
    *soft, last = segments(config, method)
    for segment in soft:
        fit(method, method, segment, start, steps, segment.end)
    return fit(method, method, last, start, steps)


def specialisation(config: Config, corpus: Corpus, method: str, trained: Trained) -> Any:
    """[domains, L, E]: how the choices of a domain's validation tokens are shared out; None without domains."""
    if not corpus.domains or method == "dense":
        return None
    most = min(map(len, corpus.domains.values()))
    at = jnp.int32(config.train.steps)
    counts = [
        trained.test(trained.model, trained.extra, at, part[:most])[1]
        for part in corpus.domains.values()
    ]
    return shares(np.stack([c for c in counts if c is not None])).tolist()
