"""Re-placement while training goes on, against training with one copy of each expert."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgen import mesh as mesh_lib
from jaxgen.data import pipeline
from jaxgen.models import gpt2
from jaxgen.moe import gates
from jaxgen.moe.layer import MoEContext
from jaxgen.moe.placement import migrate, planner
from jaxgen.train import loop, step
from jaxgen.train.writers import read_jsonl

E, LAYERS, SLOTS, VOCAB, LENGTH = 8, 2, 16, 11, 8


def build(slots, key, sharded=False):
    spec = gpt2.config(
        VOCAB,
        width=8,
        depth=4,
        heads=2,
        max_positions=LENGTH,
        mlp_width=12,
        mlp_bias=False,
        experts=E,
        expert_slots=slots,
        expert_sharded=sharded,
    )
    return gpt2.GPT(spec, rngs=nnx.Rngs(key))


def loss(mesh, model, extra, batch, key, at):
    x = batch["tokens"]
    route = MoEContext(lambda logits, _: gates.top_k(logits, 2), mesh, extra["placement"])
    h, _, loads = model.hidden(x[:, :-1], route=route)
    each = optax.softmax_cross_entropy_with_integer_labels(model.logits(h), x[:, 1:])
    value = each.mean() + 0.01 * loads.balance.sum()
    return value, ({"dropped": loads.dropped.sum()}, extra)


def start(slots):
    return {"placement": jnp.asarray(np.tile(np.arange(slots) % E, (LAYERS, 1)), jnp.int32)}


class Shuffler:
    """A random placement after every step; counts what jax compiles after the first of them."""

    def __init__(self, devices, sharded, until=50):
        self.devices, self.sharded, self.until = devices, sharded, until
        self.moved, self.late, self.move = 0, 0, None
        jax.monitoring.register_event_duration_secs_listener(self._compiled)

    def _compiled(self, event, seconds, **_):
        # The last save, after the last of them, compiles copies of its own.
        watching = 1 < self.moved < self.until
        self.late += watching and event == "/jax/core/compile/backend_compile_duration"

    def history(self):
        return {}

    def resume(self, state, history):
        pass

    def __call__(self, at, state):
        if at > self.until:
            return state
        rng = np.random.default_rng(at)
        new = np.stack(
            [
                rng.permutation(np.concatenate([np.arange(E), rng.integers(0, E, SLOTS - E)]))
                for _ in range(LAYERS)
            ]
        ).reshape(LAYERS, self.devices, -1)
        old = np.asarray(state.extra["placement"]).reshape(new.shape)
        if self.move is None:
            self.move = migrate.make_move(jax.tree.map(lambda a: a.sharding, state))
        if not self.sharded:  # whose weights lie in no slots
            state = self.move(state, migrate.sources(old, new))
        placed = jax.device_put(
            new.reshape(LAYERS, -1).astype(np.int32), state.extra["placement"].sharding
        )
        self.moved += 1
        return dataclasses.replace(state, extra={"placement": placed})


def fit(workdir, shape, slots, steps, adapt=None, devices=8, save_every=25, sharded=False):
    mesh = mesh_lib.make_mesh(shape, jax.devices()[:devices])
    first = np.random.default_rng(0).integers(0, VOCAB, (96, 1))
    rows = ((first + 3 * np.arange(LENGTH + 1)) % VOCAB).astype(np.int32)
    final = loop.fit(
        "run",
        functools.partial(build, slots, sharded=sharded),
        functools.partial(loss, mesh),
        step.optimizer(optax.constant_schedule(3e-3), clip=0.0),
        pipeline.batches({"tokens": rows}, 16, seed=0),
        jax.random.key(0),
        loop.Options(steps=steps, save_every=save_every, log_every=1, ema_decay=0.9),
        workdir=workdir,
        mesh=mesh,
        extra=functools.partial(start, slots or E),
        adapt=adapt,
    )
    rows = read_jsonl(workdir / "metrics.jsonl")
    assert all(r["dropped"] == 0 for r in rows)
    return final, np.array([r["loss"] for r in rows])


def replicas_are_identical(state):
    placed = np.asarray(state.extra["placement"])
    model = [b.moe.experts for b in state.model.stack.blocks if b.moe is not None]
    moments = [b.moe.experts for b in state.opt_state[0].mu.stack.blocks if b.moe is not None]
    for layer, row in enumerate(placed):
        for part in (model[layer], moments[layer]):
            for name in ("up", "down"):
                a = np.asarray(getattr(part, name)[...])
                for e in range(E):
                    first, *others = a[row == e]
                    assert all(np.array_equal(first, o) for o in others)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_a_new_placement_in_each_of_fifty_steps(tmp_path, sharded):
    """Copies that move, and sharded masters: the loss curve is that of single copies, nothing is compiled anew;
    a run that goes on, in the middle, on half the devices has the same curve."""
    _, want = fit(tmp_path / "single", {"data": 1}, 0, 50, devices=1)
    run = functools.partial(fit, slots=SLOTS, sharded=sharded)
    adapt = Shuffler(8, sharded)
    final, got = run(tmp_path / "moved", {"expert": 8}, steps=50, adapt=adapt, save_every=50)
    assert adapt.moved == 50
    assert adapt.late == 0
    assert np.abs(got - want).max() < 1e-4
    assert want[-1] < want[0] - 0.1
    run(tmp_path / "half", {"expert": 8}, steps=25, adapt=Shuffler(8, sharded))
    half, rest = run(
        tmp_path / "half",
        {"data": 2, "expert": 2},
        steps=50,
        adapt=Shuffler(2, sharded),
        devices=4,
    )
    assert len(rest) == 50
    assert np.abs(rest - want).max() < 1e-4
    for state in (final, half):
        if not sharded:
            replicas_are_identical(state)
            continue
        for tree in (state.model, state.opt_state[0].mu, state.ema):
            up = tree.stack.blocks[1].moe.masters.up[...]
            assert up.shape[0] == E
            assert up.sharding.spec[1] == "expert"
            assert not up.sharding.is_fully_replicated


def test_sources_prefer_the_slot_then_the_device():
    old = np.array([[[0, 1], [2, 0]]])
    new = np.array([[[1, 1], [0, 2]]])
    assert migrate.sources(old, new).tolist() == [[1, 1, 3, 2]]
    with pytest.raises(ValueError, match="layer 0 has no replica of expert 3"):
        migrate.sources(old, np.array([[[3, 1], [0, 2]]]))


def test_expand_then_shrink_moves_everything_back():
    old = planner.initial(E, 4, 4)[None]
    slot = (1, 2)
    expert = int(old[0][slot])
    other = (expert + 3) % E
    new = planner.expand(old[0], other, slot)[None]
    model = build(SLOTS, jax.random.key(0))
    there = migrate.move(model, np.tile(migrate.sources(old, new), (LAYERS, 1)))
    back = planner.shrink(new[0], slot, expert)[None]
    assert np.array_equal(back, old)
    home = migrate.move(there, np.tile(migrate.sources(new, back), (LAYERS, 1)))
    changed = [
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(there), strict=True)
    ]
    assert sum(changed) == 2 * LAYERS  # up and down of each block with experts
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(home), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("scan", [False, True])
def test_gates_move_with_their_experts(scan):
    shape = {"width": 8, "depth": 4, "heads": 2, "max_positions": LENGTH, "mlp_width": 12}
    spec = gpt2.config(VOCAB, **shape, experts=E, gated=True, scan=scan)
    model = gpt2.GPT(spec, rngs=nnx.Rngs(0))
    source = np.stack([np.arange(E)[::-1], np.roll(np.arange(E), 1)])
    moved = migrate.move(model, source)
    for rows, block in zip(source, (1, 3), strict=True):
        old, new = model.stack.blocks[block].moe.experts, moved.stack.blocks[block].moe.experts
        for name in ("up", "down", "gate"):
            before = np.asarray(getattr(old, name)[...])
            assert np.array_equal(getattr(new, name)[...], before[rows])


def test_another_number_of_blocks():
    with pytest.raises(ValueError, match="source has 3 rows, allowed: 2"):
        migrate.move(build(SLOTS, jax.random.key(0)), np.zeros((3, SLOTS), np.int32))


def test_a_router_that_breaks_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    mesh = mesh_lib.make_mesh({"expert": 8})
    rows = np.zeros((16, LENGTH + 1), np.int32)

    def broken(model, extra, batch, key, at):
        bad = jnp.where(at == 7, jnp.nan, 0.0)
        for block in model.stack.blocks:
            if block.moe is not None:
                block.moe.router.kernel[...] = block.moe.router.kernel[...] + bad
        return loss(mesh, model, extra, batch, key, at)

    with pytest.raises(loop.NonFinite, match="the checkpoint of step 5 is kept"):
        loop.fit(
            "run",
            functools.partial(build, SLOTS),
            broken,
            step.optimizer(optax.constant_schedule(1e-3), clip=0.0),
            pipeline.batches({"tokens": rows}, 16, seed=0),
            jax.random.key(0),
            loop.Options(steps=20, save_every=5, log_every=1),
            workdir=tmp_path,
            mesh=mesh,
            extra=functools.partial(start, SLOTS),
        )
