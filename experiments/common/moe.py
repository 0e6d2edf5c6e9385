"""Language models with mixtures of experts, and their text; from a config."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key
from numpy import ndarray

from experiments.common import fields
from experiments.common.tokenizers import check_kind, kept_tokenizer
from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.data import domains, kept, language_model
from jaxgen.errors import ConfigError
from jaxgen.losses.cross_entropy import cross_entropy
from jaxgen.models import gpt2
from jaxgen.moe.layer import MoEContext, RouterStats
from jaxgen.text import tokenizers
from jaxgen.train import aot

NAMES = {
    **fields.NAMES,
    "train": fields.NAMES["train"] + " balance_weight z_weight",
    "data": "source path files valid_fraction test_fraction tokenizer vocab_size context "
    "max_megabytes",
    "model": "width depth heads hidden experts expert_every capacity_factor receive_capacity_factor dropout "
    "dtype remat scan",
}
_TOKENIZER_CHARACTERS = 1_500_000  # of a text of several domains, evenly spread
_SHARE: config_lib.Rule = (lambda v: 0 < v < 0.5, "above 0 and below 0.5")
RULES: dict[str, config_lib.Rule] = {
    "data.source": config_lib.one_of(*language_model.SOURCES, "domains"),
    "data.tokenizer": config_lib.one_of(*tokenizers.KINDS),
    "data.valid_fraction": _SHARE,
    "data.test_fraction": _SHARE,
}


def check(config: Config) -> None:
    """Fields that depend on each other."""
    fields.check_divides(config, "model.heads", "model.width")
    fields.check_divides(config, "model.expert_every", "model.depth")
    if config.data.source in ("files", "domains") and not config.data.files:
        raise ConfigError("data.files", config.data.files, "at least one file name")
    fields.check_run(config)


def check_experts(config: Config, mesh: Mesh) -> None:
    """Experts and their hidden units must divide over the mesh.

    Raises:
      ConfigError: where they do not.
    """
    m = config.model
    for field, axis in (("experts", "expert"), ("hidden", "model")):
        parts = mesh.shape[axis]
        if mesh.shape["expert"] > 1 and m[field] % parts:
            raise ConfigError(f"model.{field}", m[field], f"a multiple of {parts}, the {axis} axis")


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Windows of running text, [N, T + 1] token ids of train, valid and test parts.

    Attributes:
      kept: how many windows and tokens there are of each part.
      left_out: what was lost on the way, by reason.
      domains: of text of several domains, each one's windows of the valid part.
    """

    parts: dict[str, Int[ndarray, "N T"]]
    vocab: int
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    domains: Mapping[str, Int[ndarray, "_ T"]] = dataclasses.field(default_factory=dict)

    def about_cuts(self) -> str:
        """How much was cut and left out, for a report."""
        whole = {name: kept.Kept(len(part)) for name, part in self.parts.items()}
        return kept.line(whole, self.left_out, of="windows")


def load(config: Config, workdir: pathlib.Path) -> Corpus:
    """Reads the text; its BPE is trained on the train part and kept in the workdir."""
    check_kind(config)
    d = config.data
    fractions = {"valid_fraction": d.valid_fraction, "test_fraction": d.test_fraction}
    with kept.tally() as left_out:
        if d.source == "domains":
            each = domains.load(d.path, d.files, max_megabytes=d.max_megabytes, **fractions)
        else:
            each = {"": language_model.load(d.source, path=d.path, files=d.files, **fractions)}
    texts = [line for lines in each.values() for line in lines["train"]]
    if d.source == "domains":
        texts = texts[:: max(1, sum(map(len, texts)) // _TOKENIZER_CHARACTERS)]
    tokenizer = kept_tokenizer(config, workdir, texts)
    parts: dict[str, ndarray] = {}
    valid: dict[str, ndarray] = {}
    for name in ("train", "valid", "test"):
        with kept.tally() as tail:
            cut = {
                domain: language_model.windows(tokenizer, lines[name], d.context)
                for domain, lines in each.items()
            }
        left_out.update({f"{name} {reason}": n for reason, n in tail.items()})
        parts[name] = np.concatenate(list(cut.values()))
        if d.source == "domains":
            # Of a part's beginning, as validation reads it, all domains have their share.
            parts[name] = parts[name][np.random.default_rng(0).permutation(len(parts[name]))]
            valid = cut if name == "valid" else valid
    return Corpus(parts, len(tokenizer), left_out, valid)


def build(
    config: Config,
    vocab: int,
    experts: int,
    rngs: nnx.Rngs,
    *,
    slots: int = 0,
    sharded: bool = False,
) -> gpt2.GPT:
    """A GPT, dense with `experts` = 0. Feed-forward layers have no biases, as experts have none."""
    m = config.model
    spec = gpt2.config(
        vocab,
        width=m.width,
        depth=m.depth,
        heads=m.heads,
        max_positions=config.data.context,
        mlp_width=m.hidden,
        mlp_bias=False,
        experts=experts,
        expert_every=m.expert_every,
        expert_slots=slots,
        expert_sharded=sharded,
        capacity_factor=m.capacity_factor,
        dropout=m.dropout,
        dtype=m.dtype,
        remat=m.remat,
        scan=m.scan,
    )
    return gpt2.GPT(spec, rngs=rngs)


def nll(
    model: gpt2.GPT, tokens: Int[Array, "B T"], route: MoEContext, key: Key[Array, ""] | None
) -> tuple[Float[Array, ""], RouterStats | None]:
    """Nats a token of tokens 1 to T - 1, and the loads of the mixtures."""
    h, _, loads = model.hidden(tokens[:, :-1], route=route, key=key)
    return cross_entropy(model.logits(h), tokens[:, 1:]).mean(), loads


def auxiliary(config: Config, loads: RouterStats | None) -> Float[Array, ""]:
    """Weighted balance and z losses, summed over layers."""
    if loads is None:
        return jnp.zeros(())
    t = config.train
    return t.balance_weight * loads.balance.sum() + t.z_weight * loads.z.sum()


@dataclasses.dataclass(frozen=True)
class Flops:
    """FLOPs of the matrix products of a training step (forward and backward).

    Attributes:
      dense: of the model with one feed-forward layer everywhere.
      base: of the model with mixtures, their experts left out.
      pair: of one token at one expert.
    """

    dense: float
    base: float
    pair: float


def flops(config: Config, vocab: int) -> Flops:
    """Counted from the traced gradient of the dense model; what experts do is known per pair."""
    m, batch, context = config.model, config.train.batch_size, config.data.context
    model = jax.eval_shape(lambda: build(config, vocab, 0, nnx.Rngs(0)))
    tokens = jax.ShapeDtypeStruct((batch, context + 1), jnp.int32)
    grad = jax.grad(lambda model, x: nll(model, x, MoEContext(), None)[0])
    dense = aot.matmul_flops(grad, model, tokens)
    layers, count = m.depth // m.expert_every, batch * context
    pair = 12.0 * m.width * m.hidden  # two products, three times over, 2 FLOPs a multiply-add
    router = 6.0 * count * m.width * m.experts
    return Flops(dense, dense - layers * (count * pair - router), pair)


def metrics_of(loads: RouterStats | None, tokens: int) -> dict[str, Any]:
    """Scalars for the log: auxiliary losses, experts a token, what was lost, the heaviest expert."""
    if loads is None:
        return {}
    counts = loads.counts.astype(jnp.float32)
    return {
        "balance": loads.balance.mean(),
        "router_z": loads.z.mean(),
        "experts_per_token": counts.sum(-1).mean() / tokens,
        "overflow": loads.overflow.sum(),
        "dropped": loads.dropped.sum(),
        "weight_sum": loads.weight_sum.mean(),
        "heaviest": (counts.max(-1) / jnp.maximum(counts.mean(-1), 1e-9)).mean(),
    }
