"""The base language model, what fine-tuning minimises, and the Fisher information that holds it back."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from experiments.e2wm.corpus import Corpus
from experiments.e2wm.systems import System
from jaxgen.config import Config
from jaxgen.data.root import expand
from jaxgen.losses.cross_entropy import cross_entropy
from jaxgen.models import gpt2, gpt_neo, hf
from jaxgen.nn.stacked import stack
from jaxgen.peft import ewc, lora
from jaxgen.train.runs import TrainTask
from jaxgen.train.state import run_key

FROZEN = (r"^(?!.*/[ab]$)",)  # all but the factors of low-rank updates
Batch = dict[str, Array]


def model_config(config: Config, vocab_size: int) -> Any:
    """The shape of the language model, by `model.kind`, or of the folder or file `model.path`."""
    m = config.model
    options = {"dtype": m.dtype, "remat": m.remat, "scan": m.scan}
    if m.path:
        return hf.read_config(expand(m.path), **options)
    shape = {"width": m.width, "depth": m.depth, "heads": m.heads, "max_positions": m.positions}
    if m.kind == "gpt_neo":
        windows = tuple(256 * (i % 2) for i in range(m.depth))  # every other layer sees 256 back
        return gpt_neo.config(vocab_size, windows=windows, **shape, **options)
    return gpt2.config(vocab_size, **shape, **options)


def base_task(config: Config, vocab_size: int) -> TrainTask:
    """A language model of general text; batches have `general` [B, T + 1]."""

    def loss(
        model: gpt2.GPT, extra: PyTree, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        value = language_loss(model, batch["general"])
        return value, ({"perplexity": jnp.exp(value)}, extra)

    spec = model_config(config, vocab_size)
    return TrainTask("base", lambda key: gpt2.GPT(spec, rngs=nnx.Rngs(key)), loss)


def pretrained(config: Config) -> gpt2.GPT:
    """The model of `model.path`."""
    m = config.model
    return cast(gpt2.GPT, hf.load(expand(m.path), dtype=m.dtype, remat=m.remat, scan=m.scan))


def adapted(config: Config, base: Any, seed: int) -> Any:
    """The base model with fresh low-rank updates; all systems of a seed begin from the same ones."""
    p = config.lora
    key = run_key(f"low-rank updates-{seed}")
    return lora.wrap(base, p.rank, p.alpha, tuple(p.targets), key, dropout=p.dropout)


def finetune_task(
    config: Config,
    name: str,
    system: System,
    base: Any,
    seed: int,
    extra: Callable[[], PyTree],
) -> TrainTask:
    """A system's run; batches have `tokens` and `weights` [B, T], and `general` [B, S + 1].

    Args:
      base: the model to begin from, or its shapes.
      extra: makes what `prepare` returns.
    """

    def start() -> Any:
        return adapted(config, base, seed) if system.trains == "lora" else base

    def build(key: Key[Array, ""]) -> Any:
        spec = base.config
        fresh = gpt2.GPT(spec, rngs=nnx.Rngs(key))
        return adapted(config, fresh, seed) if system.trains == "lora" else fresh

    share = max(1, round(config.replay.share * config.train.batch_size))

    def loss(
        model: Any, extra: PyTree, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        if system.general == "only":
            value = language_loss(model, batch["general"])
            return value, ({"general": value}, extra)
        # A key switches on all dropout that the model has, the base's own too.
        logits, _ = model(batch["tokens"][:, :-1], key=key if config.lora.dropout else None)
        value = answer_loss(logits, batch["tokens"][:, 1:], batch["weights"][:, 1:])
        aux = {"task": value}
        if system.penalty and system.strength:
            aux["penalty"] = ewc.penalty(moved(model, system, extra["start"]), extra["fisher"])
            value += system.strength * aux["penalty"]
        if system.general == "replay":
            aux["general"] = language_loss(model, batch["general"][:share])
            value += config.replay.weight * aux["general"]
        if system.general == "kl":
            aux["kl"] = kl_to_base(model, batch["general"][:share])
            value += config.replay.kl_weight * aux["kl"]
        return value, (aux, extra)

    return TrainTask(
        name,
        build,
        loss,
        extra=extra,
        # A copy, since the step takes over the buffers that it starts from.
        pretrained=lambda _: jax.tree.map(jnp.array, start()),
        frozen=FROZEN if system.trains == "lora" else (),
    )


def moved(model: Any, system: System, start: PyTree) -> dict[str, Array]:
    """What a system's penalty is of, by path."""
    if system.penalty == "separate":
        now = ewc.factors(model)
        return {p: now[p] - before for p, before in start.items()}
    return _kernels(lora.delta(model)) if system.trains == "lora" else ewc.shift(model, start)


def _kernels(of_layers: dict[str, Array]) -> dict[str, Array]:
    """By the paths of the layers' kernels: under such names a mesh splits them as it splits kernels."""
    return {f"{path}/kernel": a for path, a in of_layers.items()}


def prepare(config: Config, corpus: Corpus, system: System, base: Any, seed: int) -> PyTree:
    """What a system's loss reads beside the batch: the Fisher information, and where it pulls to."""
    if not system.penalty:
        return {}
    if system.penalty == "l2_sp":
        start = ewc.anchor(base)
        return {"start": _copied(start), "fisher": ewc.ones(start)}
    if system.trains == "all":
        return {"start": _copied(ewc.anchor(base)), "fisher": fisher(config, corpus, base, "all")}
    model = adapted(config, base, seed)
    if system.penalty == "separate":
        found = fisher(config, corpus, model, "factors")
        return {"start": _copied(ewc.factors(model)), "fisher": found}
    return {"start": {}, "fisher": _kernels(fisher(config, corpus, model, "wrapped"))}


def blank(config: Config, base: TrainTask, system: System) -> PyTree:
    """Zeros in the place of what `prepare` returns, for `--mode=compile`."""
    model = base.build(jax.random.key(0))
    if system.trains == "lora":
        model = adapted(config, model, 0)
    if not system.penalty:
        return {}
    if system.penalty == "separate":
        start = ewc.factors(model)
        return {"start": start, "fisher": ewc.ones(start, 0.0)}
    if system.trains == "all":
        start = ewc.anchor(model)
        return {"start": start, "fisher": ewc.ones(start, 0.0)}
    return {"start": {}, "fisher": _kernels(ewc.ones(lora.delta(model), 0.0))}


def _copied(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.array, tree)


def fisher(config: Config, corpus: Corpus, model: Any, where: str) -> dict[str, Array]:
    """The Fisher information of a model on its texts."""
    f = config.fisher
    logprob = functools.partial(_logprob, reduce=f.reduce, sampled=f.labels == "model")
    return ewc.fisher_diagonal(logprob, model, fisher_batches(config, corpus), where=where)


def fisher_batches(config: Config, corpus: Corpus, *, batch: int = 50) -> Iterator[Batch]:
    """Texts of the Fisher information, and a key for each."""
    texts = corpus.general["fisher"][: config.fisher.texts]
    keys = jax.random.split(run_key("labels of the Fisher information"), len(texts))
    for i in range(0, len(texts), batch):
        yield {"tokens": jnp.asarray(texts[i : i + batch]), "key": keys[i : i + batch]}


def _logprob(model: Any, row: Batch, *, reduce: str, sampled: bool) -> Float[Array, ""]:
    logits = model(row["tokens"][None, :-1])[0][0]
    targets = row["tokens"][1:]
    key = row["key"] if sampled else None
    weights = jnp.ones(targets.shape, jnp.float32)
    return ewc.log_likelihood(logits, targets, weights, reduce=reduce, key=key)


def answer_loss(
    logits: Float[Array, "B T V"], targets: Int[Array, "B T"], weights: Float[Array, "B T"]
) -> Float[Array, ""]:
    """sum w CE / #(w > 0): divided by the number of weighted tokens, not by the sum of weights."""
    counts = weights > 0
    each = cross_entropy(logits, targets, counts)
    return (weights * each).sum() / jnp.maximum(counts.sum(), 1)


def language_loss(model: Any, windows: Int[Array, "B S"]) -> Float[Array, ""]:
    """Mean nats of a token of running text; the first of each window is only read."""
    logits, _ = model(windows[:, :-1])
    return cross_entropy(logits, windows[:, 1:]).mean()


def kl_to_base(model: Any, windows: Int[Array, "B S"]) -> Float[Array, ""]:
    """KL(base || model), nats a token, where the base is the model without its low-rank updates."""
    ours = jax.nn.log_softmax(model(windows[:, :-1])[0])
    base = jax.lax.stop_gradient(jax.nn.log_softmax(ewc.without_updates(model)(windows[:, :-1])[0]))
    return (jnp.exp(base) * (base - ours)).sum(-1).mean()


def arrays(corpus: Corpus, system: System) -> dict[str, np.ndarray]:
    """What batches are made of; general text is that of the Fisher information, repeated to the rows' number."""
    rows = len(corpus.rows["tokens"])
    if system.general == "only":
        return {"general": corpus.general["train"]}
    text = np.resize(corpus.general["fisher"], (rows, corpus.general["fisher"].shape[1]))
    return {**corpus.rows, **({"general": text} if system.general else {})}


def merged(model: Any, system: System) -> Any:
    """A plain model that computes the same, for evaluation."""
    return stack(lora.unwrap(lora.merge(model))) if system.trains == "lora" else model
