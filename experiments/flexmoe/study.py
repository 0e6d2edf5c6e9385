"""FlexMoE: fields, tasks, re-placement, and the loop over seeds and policies."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from experiments.common import fields, moe
from experiments.common.runs import Study, mesh_of, open_study, seeds_of
from experiments.flexmoe import report
from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.data import images
from jaxgen.errors import ConfigError
from jaxgen.launch import Mode
from jaxgen.models import vit
from jaxgen.moe import gates
from jaxgen.moe.layer import MoEContext, RouterStats
from jaxgen.moe.placement import planner, policies, simulator, split
from jaxgen.moe.placement.adaptive import AdaptivePlacement
from jaxgen.train.runs import TrainTask

TASKS = ("text", "images")
RUNTIME = fields.RUNTIME
DIGITS_SIDE = 8


NAMES = {
    **moe.NAMES,
    "": "seed seeds task policies capacity_factor",
    "model": moe.NAMES["model"] + " k patch",
    "placement": "slots threshold horizon slack every average split device width hidden tokens",
}


def validate(config: Config) -> None:
    """Raises ConfigError for any value that cannot run; touches no device and no data."""
    rules = {
        **moe.RULES,
        "task": config_lib.one_of(*TASKS),
        "policies": config_lib.some_of(*policies.POLICIES),
        "capacity_factor": config_lib.POSITIVE,
        "placement.device": config_lib.one_of(*simulator.DEVICES),
        "placement.split": config_lib.one_of(*split.SPLITS),
    }
    config_lib.check_fields(config, NAMES, rules)
    moe.check(config)
    m = config.model
    if m.capacity_factor:
        raise ConfigError("model.capacity_factor", m.capacity_factor, "0; see capacity_factor")
    if m.k > m.experts:
        raise ConfigError("model.k", m.k, f"1 to {m.experts}, the experts")
    if config.task == "images" and DIGITS_SIDE % m.patch:
        raise ConfigError("model.patch", m.patch, f"a divisor of the digits' side, {DIGITS_SIDE}")


def check_devices(config: Config, devices: int) -> None:
    """Experts and slots must divide over the devices, and there must be room for all experts."""
    experts, slots = config.model.experts, config.placement.slots * devices
    if experts % devices:
        raise ConfigError("model.experts", experts, f"a multiple of {devices}, the expert axis")
    if slots < experts:
        raise ConfigError(
            "placement.slots", config.placement.slots, f"at least {-(-experts // devices)}"
        )
    node = simulator.DEVICES[config.placement.device].node
    if node and devices % node:
        allowed = f"one with nodes that divide {devices}, the expert axis, or without"
        raise ConfigError("placement.device", config.placement.device, allowed)


def load(config: Config, workdir: pathlib.Path) -> Any:
    """A `moe.Corpus`, or `images.Images` parts."""
    if config.task == "text":
        return moe.load(config, workdir)
    return images.load("digits", valid_fraction=0.1, test_fraction=0.2)


@dataclasses.dataclass(frozen=True)
class Task:
    """What a task brings.

    Attributes:
      build: (slots, capacity factor, whether experts are sharded, rngs) -> the model.
      loss: (model, batch, route) -> mean loss and loads.
      arrays: to train on.
      tokens: of a batch.
    """

    build: Any
    loss: Any
    arrays: dict[str, Any]
    tokens: int


def make_task(study: Study) -> Task:
    """The task of a study."""
    config, data = study.config, study.data
    m = config.model

    def with_capacity(capacity: float) -> Config:
        changed = config.copy_and_resolve_references()
        changed.model.capacity_factor = capacity
        return changed

    if config.task == "text":
        corpus: Any = data
        return Task(
            lambda slots, capacity, sharded, rngs: moe.build(
                with_capacity(capacity), corpus.vocab, m.experts, rngs, slots=slots, sharded=sharded
            ),
            lambda model, batch, route: moe.nll(model, batch["tokens"], route, None),
            {"tokens": corpus.parts["train"]},
            config.train.batch_size * config.data.context,
        )
    train = data["train"]

    def build_vit(slots: int, capacity: float, sharded: bool, rngs: nnx.Rngs) -> vit.ViT:
        shape = vit.config(
            train.image.shape[1],
            patch=m.patch,
            channels=1,
            classes=10,
            width=m.width,
            depth=m.depth,
            heads=m.heads,
            mlp_width=m.hidden,
            mlp_bias=False,
            experts=m.experts,
            expert_every=m.expert_every,
            expert_slots=slots,
            expert_sharded=sharded,
            capacity_factor=capacity,
            dropout=m.dropout,
            dtype=m.dtype,
        )
        return vit.ViT(shape, rngs=rngs)

    def loss(model: Any, batch: Any, route: MoEContext) -> tuple[Any, RouterStats]:
        logits, loads = model(batch["image"], route=route)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return each.mean(), loads

    return Task(
        build_vit,
        loss,
        {"image": train.image, "label": train.label},
        config.train.batch_size * (train.image.shape[1] // m.patch) ** 2,
    )


def task(study: Study, kind: Task, policy: str) -> TrainTask:
    """Training under a policy.

    The state carries the placement, so that checkpoints hold it and a resumed run goes on with it on any
    number of devices, and the counts of the last step, which the policy waits for.
    """
    config, mesh = study.config, study.runs.mesh
    m, place = config.model, make_placement(study, policy)
    capacity = config.capacity_factor if policy == "capacity" else 0.0

    def gate(logits: Any, key: Any) -> gates.Routing:
        return gates.top_k(logits, m.k, normalise=m.k > 1)

    def loss(model, extra, batch, key, step):
        placed = extra["placement"]
        # Buffers of a static capacity are split by XLA; the other policies place experts themselves.
        route = (
            MoEContext(gate)
            if capacity
            else MoEContext(
                gate, mesh, placed, config.model.receive_capacity_factor, config.placement.split
            )
        )
        value, loads = kind.loss(model, batch, route)
        metrics = {"task": value, **moe.metrics_of(loads, kind.tokens)}
        return value + moe.auxiliary(config, loads), (metrics, place.with_counts(extra, loads))

    return TrainTask(
        policy,
        lambda key: kind.build(
            place.slots_of(m.experts), capacity, policy in policies.SHARDED, nnx.Rngs(key)
        ),
        loss,
        extra=lambda: place.init_extra(m.experts, m.depth // m.expert_every),
        key="flexmoe",  # all policies train the same model on the same batches
    )


def make_placement(study: Study, policy: str) -> AdaptivePlacement:
    """Decides whether a change pays off for the machine and the batch that are modelled."""
    config, rules = study.config, rules_of(study.config)
    p, devices = config.placement, study.runs.mesh.shape["expert"]
    return AdaptivePlacement(
        policy,
        slots=p.slots,
        costs=rules.costs,
        devices=devices,
        policy=rules.policy,
        every=rules.every,
        tokens=p.tokens * devices * config.model.k,
        average=rules.average,
    )


def write_traffic(study: Study, run: str, history: Mapping[str, np.ndarray]) -> None:
    """Writes counts and placements of a run, for the report and for replay."""
    if jax.process_index() == 0:
        path = study.workdir / "traffic" / f"{run}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npz")
        np.savez_compressed(temporary, allow_pickle=False, **history)
        temporary.replace(path)


def shape_of(config: Config) -> simulator.Shape:
    """The model whose step time is modelled: as routed here, as large as `config.placement` says."""
    p = config.placement
    dense = 24.0 * p.width**2 + 4.0 * p.width * p.hidden  # attention, and the dense blocks between
    return simulator.Shape(p.width, p.hidden, p.tokens, config.model.k, dense)


def rules_of(config: Config) -> policies.Rules:
    """The policies' settings."""
    p = config.placement
    return policies.Rules(
        shape_of(config).costs(simulator.DEVICES[p.device]),
        planner.Policy(p.threshold, p.horizon, p.slack),
        p.every,
        p.split,
        p.average,
    )


def run(config: Config, workdir: pathlib.Path, *, may_train: bool) -> None:
    """Trains what is not finished, and writes the report."""
    mesh = mesh_of(config)
    moe.check_experts(config, mesh)
    check_devices(config, mesh.shape["expert"])
    study = open_study(config, workdir, load, may_train=may_train)
    kind = make_task(study)
    for seed in seeds_of(config):
        for policy in config.policies:
            place = make_placement(study, policy)
            study.runs.fit(task(study, kind, policy), seed, kind.arrays, adapt=place)
            write_traffic(study, f"{policy}-{seed}", place.history())
    if jax.process_index() == 0:
        print(f"report: {report.write(study, shape_of(config), kind.tokens)}")


train = functools.partial(run, may_train=True)
evaluate_again = functools.partial(run, may_train=False)


MODES: dict[str, Mode] = {"train": train, "eval": evaluate_again}
