"""FlexMoE: experts that follow the load, beside placements that do not or that follow it otherwise.

    python -m experiments.flexmoe --config=configs/moe/flexmoe.py --workdir=runs/flexmoe

One model (a GPT on text, or a vision transformer on digits) is trained under each policy on a mesh whose axis
`expert` is the group of G devices. Policies see the router's counts of the step before and place experts;
weights, optimiser state and routing follow while training goes on. All but `capacity` drop nothing, so they
all train the same model; their loss curves must be equal. What steps would take on real devices is modelled
(`jaxgen.moe.placement.simulator`): forced host devices share two cores. Router traffic and placements are written to
`traffic/`, and the report shows them.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments import flexmoe_report, moe_language, systems
from experiments.study import Study, mesh_shape, open_study
from jaxgen import config as config_lib
from jaxgen import launch
from jaxgen import mesh as mesh_lib
from jaxgen.config import Config
from jaxgen.data import images
from jaxgen.errors import ConfigError, RunError
from jaxgen.models import vit
from jaxgen.moe import gates
from jaxgen.moe.layer import MoEContext, RouterStats
from jaxgen.moe.placement import migrate, planner, policies, simulator, traffic
from jaxgen.train.state import TrainState

TASKS = ("text", "images")
DIGITS_SIDE = 8


NAMES = {
    **moe_language.NAMES,
    "": "seed seeds task policies capacity_factor",
    "model": moe_language.NAMES["model"] + " k patch",
    "placement": "slots threshold horizon slack every device width hidden tokens",
}


def validate(config: Config) -> None:
    """Raises ConfigError for any value that cannot run; touches no device and no data."""
    rules = {
        **moe_language.RULES,
        "task": config_lib.one_of(*TASKS),
        "policies": config_lib.some_of(*policies.POLICIES),
        "capacity_factor": config_lib.POSITIVE,
        "placement.device": config_lib.one_of(*simulator.DEVICES),
    }
    config_lib.check_fields(config, NAMES, rules)
    moe_language.check(config)
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


def load(config: Config, workdir: pathlib.Path) -> Any:
    """A `moe_language.Corpus`, or `images.Images` parts."""
    if config.task == "text":
        return moe_language.load(config, workdir)
    return images.load("digits", valid_fraction=0.1, test_fraction=0.2)


@dataclasses.dataclass(frozen=True)
class Task:
    """What a task brings.

    Attributes:
      build: (slots, capacity factor, rngs) -> the model.
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
            lambda slots, capacity, rngs: moe_language.build(
                with_capacity(capacity), corpus.vocab, m.experts, rngs, slots=slots
            ),
            lambda model, batch, route: moe_language.nll(model, batch["tokens"], route, None),
            {"tokens": corpus.parts["train"]},
            config.train.batch_size * config.data.context,
        )
    train = data["train"]

    def build_vit(slots: int, capacity: float, rngs: nnx.Rngs) -> vit.ViT:
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
            capacity_factor=capacity,
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


def system(study: Study, task: Task, policy: str) -> systems.System:
    """Training under a policy.

    The state carries the placement, so that checkpoints hold it and a resumed run goes on with it on any
    number of devices, and the counts of the last two steps, which the policy waits for.
    """
    config, mesh = study.config, study.mesh
    m, devices = config.model, mesh.shape["expert"]
    slots = config.placement.slots * devices if policy in policies.SPARE else m.experts
    layers = m.depth // m.expert_every
    capacity = config.capacity_factor if policy == "capacity" else 0.0
    begin = planner.initial(m.experts, devices, slots // devices)

    def gate(logits: Any, key: Any) -> gates.Routing:
        return gates.top_k(logits, m.k, normalise=m.k > 1)

    def loss(model, extra, batch, key, step):
        placed = extra["placement"]
        # Buffers of a static capacity are split by XLA; the other policies place experts themselves.
        route = (
            MoEContext(gate)
            if capacity
            else MoEContext(gate, mesh, placed, config.model.receive_capacity_factor)
        )
        value, loads = task.loss(model, batch, route)
        extra = {
            "placement": placed,
            "counts": jnp.stack([extra["counts"][1], loads.counts.astype(jnp.int32)]),
        }
        metrics = {"task": value, **moe_language.metrics_of(loads, task.tokens)}
        return value + moe_language.auxiliary(config, loads), (metrics, extra)

    def extra() -> dict[str, Any]:
        return {
            "placement": jnp.asarray(np.tile(begin.ravel(), (layers, 1)), jnp.int32),
            "counts": jnp.zeros((2, layers, m.experts), jnp.int32),
        }

    return systems.System(
        policy,
        lambda key: task.build(slots if policy in policies.SPARE else 0, capacity, nnx.Rngs(key)),
        loss,
        extra=extra,
        key="flexmoe",  # all policies train the same model on the same batches
    )


class Placer:
    """Watches counts, places experts, moves weights; and remembers both for the report (`loop.Adapt`).

    It works on the counts of the step before the last one dispatched, which are there already: the device
    is not waited for.
    """

    def __init__(self, study: Study, policy: str, run: str):
        c, self.policy = study.config, policy
        self.devices = study.mesh.shape["expert"]
        self.rules = rules_of(c)
        self.total = c.placement.tokens * self.devices * c.model.k
        self.path = study.workdir / "traffic" / f"{run}.npz"
        self.counts: list[np.ndarray] = []
        self.placements: list[np.ndarray] = []
        self.pending: Any = None
        self.slots = np.zeros((0, self.devices, 0), np.int32)  # known from the first step on
        self._move: Any = None

    def __call__(self, step: int, state: TrainState) -> TrainState:
        """After every step; see `loop.Adapt`."""
        if not self.slots.size:
            self._place(state)
        last = jnp.copy(state.extra["counts"][1])
        seen = np.asarray(self.pending) if self.pending is not None else None
        self.pending = last
        if seen is not None:
            self.counts.append(seen)
            self.placements.append(self.slots)
        if seen is not None and self.policy in policies.SPARE:
            # Whether a change pays off is asked for the machine and the batch that are modelled.
            recent = traffic.scaled(np.stack(self.counts[-self.rules.every :]), self.total)
            new = policies.following(self.policy, step, self.slots, list(recent), self.rules)
            if not np.array_equal(new, self.slots):
                state = self._apply(state, new)
        return state

    def history(self) -> dict[str, np.ndarray]:
        """`counts` [steps - 1, layers, experts] and `placements` [steps - 1, layers, devices, slots]."""
        return {
            name: np.stack(rows) if rows else np.zeros((0,), np.int32)
            for name, rows in (("counts", self.counts), ("placements", self.placements))
        }

    def resume(self, state: TrainState, history: Mapping[str, np.ndarray]) -> None:
        """What was known before this launch.

        Raises:
          RunError: a checkpoint of an earlier version, whose history beside it is not whole.
        """
        self._place(state)
        self.pending = jnp.copy(state.extra["counts"][1])
        known = history if "counts" in history else self._beside(int(state.step) - 1)
        self.counts, self.placements = (list(known[k]) for k in ("counts", "placements"))

    def _beside(self, rows: int) -> Mapping[str, np.ndarray]:
        """The history of a checkpoint of an earlier version, which kept it in `traffic/` alone."""
        try:
            with np.load(self.path) as file:
                known = {k: file[k][:rows] for k in ("counts", "placements")}
        except Exception as e:  # of many kinds, where it is damaged
            raise RunError(f"{self.path}, which the checkpoint needs, cannot be read ({e})") from e
        if min(map(len, known.values())) < rows:
            raise RunError(f"{self.path} has fewer than the {rows} steps that the checkpoint needs")
        return known

    def _place(self, state: TrainState) -> None:
        placed = np.asarray(state.extra["placement"])
        self.slots = placed.reshape(len(placed), self.devices, -1)

    def _apply(self, state: TrainState, new: np.ndarray) -> TrainState:
        if self._move is None:
            where = jax.tree.map(lambda a: a.sharding, state)
            self._move = migrate.make_move(where)
        source = migrate.sources(self.slots, new)
        self.slots = new
        state = self._move(state, jnp.asarray(source))
        placed = jax.device_put(
            new.reshape(len(new), -1).astype(np.int32), state.extra["placement"].sharding
        )
        return dataclasses.replace(state, extra={**state.extra, "placement": placed})

    def write(self) -> None:
        """Writes the history, for the report and for replay."""
        if jax.process_index() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_suffix(".tmp.npz")
            np.savez_compressed(temporary, **self.history())  # type: ignore[arg-type]
            temporary.replace(self.path)


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
    )


def run(config: Config, workdir: pathlib.Path, *, may_train: bool) -> None:
    """Trains what is not finished, and writes the report."""
    mesh = mesh_lib.make_mesh(mesh_shape(config))
    moe_language.check_experts(config, mesh)
    check_devices(config, mesh.shape["expert"])
    study = open_study(config, workdir, load, may_train=may_train)
    task = make_task(study)
    for seed in range(config.seed, config.seed + config.seeds):
        for policy in config.policies:
            made = system(study, task, policy)
            placer = Placer(study, policy, f"{policy}-{seed}")
            study.fit(made, seed, task.arrays, adapt=placer)
            placer.write()
    if jax.process_index() == 0:
        print(f"report: {flexmoe_report.write(study, shape_of(config), task.tokens)}")


train = functools.partial(run, may_train=True)
evaluate_again = functools.partial(run, may_train=False)


if __name__ == "__main__":
    launch.run({"train": train, "eval": evaluate_again}, validate)
