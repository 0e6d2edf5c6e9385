"""Translation models and the tasks that train them, from a config."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PyTree

from experiments.eisl.corpus import Corpus
from jaxgen.config import Config
from jaxgen.models import t5
from jaxgen.models.translation_losses import (
    best_of_candidates,
    free_running_eisl,
    policy_gradient,
    teacher_forced_loss,
)
from jaxgen.models.translator import NonAutoregressiveT5, TranslationModel, Translator
from jaxgen.train.latent_tasks import Batch
from jaxgen.train.runs import TrainTask

LOSSES = ("ce", "smoothing", "pg", "best_of", "eisl", "eisl12")
# A decoder that writes all tokens at once has no distribution to draw prefixes from.
NON_AUTOREGRESSIVE_LOSSES = ("ce", "smoothing", "eisl", "eisl12")
AUTHORS = {"ngrams": (1, 2), "weights": (0.8, 0.2)}  # of "eisl12", whatever the config has


def build(config: Config, corpus: Corpus, rngs: nnx.Rngs) -> TranslationModel:
    """A translator; with `model.non_autoregressive`, one that writes all tokens at once."""
    m = config.model
    options = {"dropout": m.dropout, "dtype": m.dtype, "remat": m.remat, "scan": m.scan}
    sizes = t5.fresh_config(corpus.vocab, width=m.width, depth=m.depth, heads=m.heads, **options)
    ends = {"end": corpus.end, "pad": corpus.pad, "max_length": corpus.length}
    if m.non_autoregressive:
        return NonAutoregressiveT5(sizes, rngs=rngs, **ends)
    return Translator(sizes, begin=corpus.begin, rngs=rngs, **ends)


def weighted(config: Config) -> dict[str, Any]:
    """The n-grams of `eisl` and what each weighs; none given weigh the same."""
    e = config.eisl
    return {"ngrams": tuple(e.ngrams), "weights": tuple(e.weights) or None}


def make_loss(
    config: Config, name: str, mesh: Mesh | None = None
) -> Callable[..., Float[Array, ""]]:
    """The loss of that name: (model, source, target, key) -> mean over rows.

    Args:
      mesh: needed by the fused loss (`eisl.fused_bytes`) where its `model` axis splits the vocabulary.
    """
    e, m = config.eisl, config.model
    forced = functools.partial(teacher_forced_loss, length_weight=m.length_weight)
    if name == "ce":
        return forced
    if name == "smoothing":
        return functools.partial(forced, label_smoothing=config.smoothing)
    if name == "pg":
        return policy_gradient
    if name == "best_of":
        return best_of_candidates
    sizes = AUTHORS if name == "eisl12" else weighted(config)
    matching = {"ngram_factor": e.ngram_factor, "ce_factor": e.ce_factor, **sizes}
    if m.non_autoregressive:
        return functools.partial(forced, **matching)
    return functools.partial(free_running_eisl, fused_bytes=e.fused_bytes, mesh=mesh, **matching)


def task(
    config: Config,
    corpus: Corpus,
    name: str,
    run: str,
    start: Any = None,
    *,
    mesh: Mesh | None = None,
) -> TrainTask:
    """One training run under the loss of that name.

    Args:
      run: names the run.
      start: a trained model to begin from; a fresh one by default.
      mesh: see `make_loss`.
    """
    mean_loss = make_loss(config, name, mesh)

    def loss(
        model: TranslationModel, extra: PyTree, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        return mean_loss(model, batch["source"], batch["target"], key), ({}, extra)

    return TrainTask(
        run,
        lambda key: build(config, corpus, nnx.Rngs(key)),
        loss,
        # A copy, since the step takes over the buffers that it starts from.
        pretrained=None if start is None else lambda _: jax.tree.map(jnp.array, start),
    )
