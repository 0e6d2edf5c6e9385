"""FlexMoE in a train loop that knows nothing of it."""

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
from jaxgen.losses.cross_entropy import cross_entropy
from jaxgen.models import gpt2
from jaxgen.moe import gates
from jaxgen.moe.layer import MoEContext
from jaxgen.moe.placement import policies, simulator
from jaxgen.moe.placement.adaptive import AdaptivePlacement
from jaxgen.moe.placement.planner import Policy
from jaxgen.train import loop, state, step

E, LAYERS, SLOTS, VOCAB, LENGTH, STEPS = 8, 1, 2, 11, 8, 10
COSTS = simulator.Shape(512, 2048, 4096).costs(simulator.DEVICES["v5e"])
TX = optax.adam(3e-3)


def placer(name, **options):
    eager = Policy(threshold=1.0, horizon=100_000)
    return AdaptivePlacement(name, slots=SLOTS, costs=COSTS, policy=eager, **options)


def build(place, key):
    spec = gpt2.config(
        VOCAB,
        width=8,
        depth=2,
        heads=2,
        max_positions=LENGTH,
        mlp_width=12,
        mlp_bias=False,
        experts=E,
        expert_slots=place.slots_of(E),
        expert_sharded=place.name in policies.SHARDED,
    )
    return gpt2.GPT(spec, rngs=nnx.Rngs(key))


def loss(mesh, model, extra, batch, key, at):
    x = batch["tokens"]
    context = MoEContext(lambda logits, _: gates.top_k(logits, 1), mesh, extra["placement"])
    h, _, stats = model.hidden(x[:, :-1], route=context)
    value = cross_entropy(model.logits(h), x[:, 1:]).mean()
    return value, ({}, AdaptivePlacement.with_counts(extra, stats))


def rows():
    first = np.random.default_rng(0).integers(0, VOCAB, (48, 1))
    return {"tokens": ((first + 3 * np.arange(LENGTH + 1)) % VOCAB).astype(np.int32)}


@functools.cache
def programs(name):
    """Mesh, jitted step and a fresh state of a policy."""
    mesh = mesh_lib.make_mesh({"expert": 8})
    place = placer(name)
    init = functools.partial(
        state.create,
        functools.partial(build, place),
        TX,
        extra=functools.partial(place.init_extra, E, LAYERS),
    )
    where = jax.eval_shape(init, jax.random.key(0))
    where = mesh_lib.shardings(where, mesh)
    fresh = jax.jit(init, out_shardings=where)
    train_step = step.make_step(
        functools.partial(loss, mesh), TX, ema_decay=0.9, accumulate=1, shardings=where
    )
    return mesh, train_step, fresh


def train(name, place, at=None, begin=0, end=STEPS):
    """The whole loop: five lines."""
    mesh, train_step, fresh = programs(name)
    now, losses, batch = fresh(jax.random.key(0)) if at is None else at, [], rows()["tokens"][:16]
    batch = mesh_lib.put_batch({"tokens": batch}, mesh)
    for i in range(begin + 1, end + 1):
        now, metrics = train_step(now, batch)
        now = place(i, now)
        losses.append(float(metrics["loss"]))
    return now, np.array(losses)


def test_flexmoe_trains_the_model_of_single_copies_in_a_plain_loop():
    still, place = placer("static"), placer("flexmoe")
    _, want = train("static", still)
    final, got = train("flexmoe", place)
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert want[-1] < want[0] - 0.05
    seen, old = place.history(), still.history()
    assert seen["counts"].shape == (STEPS - 1, LAYERS, E)
    assert np.array_equal(seen["counts"], old["counts"])
    assert (seen["counts"].sum(-1) == 16 * LENGTH).all()
    assert seen["placements"].shape == (STEPS - 1, LAYERS, 8, SLOTS)
    assert old["placements"].shape == (STEPS - 1, LAYERS, 8, 1)
    assert len({p.tobytes() for p in seen["placements"]}) >= 2
    assert len({p.tobytes() for p in old["placements"]}) == 1
    # Replicas are equal, and so are their moments and averages.
    placed = np.asarray(final.extra["placement"])[0]
    for part in (final.model, final.ema, final.opt_state[0].mu):
        for weights in (part.stack.blocks[1].moe.experts.up, part.stack.blocks[1].moe.experts.down):
            a = np.asarray(weights[...])
            for e in range(E):
                first, *others = a[placed == e]
                assert all(np.array_equal(first, o) for o in others)


@pytest.mark.parametrize("name", ["symi", "laer"])
def test_sharded_experts_train_as_single_copies_while_placements_change_every_step(name):
    """Losses of one copy; a new placement in most steps; no program but the first, and no weight moved."""
    _, want = train("static", placer("static"))
    place = placer(name)
    final, got = train(name, place)
    np.testing.assert_allclose(got, want, atol=1e-4)
    places = place.history()["placements"]
    assert len({p.tobytes() for p in places}) >= 3
    assert programs(name)[1]._cache_size() == programs("static")[1]._cache_size()
    assert place._move is None
    assert final.model.stack.blocks[1].moe.masters.up[...].shape[0] == E


def test_it_goes_on_from_what_it_remembers():
    whole = placer("flexmoe")
    final, losses = train("flexmoe", whole)
    first, second = placer("flexmoe"), placer("flexmoe")
    middle, before = train("flexmoe", first, end=4)
    second.resume(middle, first.history())
    resumed, after = train("flexmoe", second, middle, begin=4)
    assert np.array_equal(losses, np.concatenate([before, after]))
    for name, value in whole.history().items():
        assert np.array_equal(second.history()[name], value)
    assert np.array_equal(final.extra["placement"], resumed.extra["placement"])


@pytest.mark.slow
def test_it_is_an_adapt_of_the_train_loop(tmp_path):
    mesh, place = mesh_lib.make_mesh({"expert": 8}), placer("eplb", devices=8, every=3)
    assert isinstance(place, loop.Adapt)
    arguments = (
        "run",
        functools.partial(build, place),
        functools.partial(loss, mesh),
        TX,
    )
    for last in (4, 8):
        place = placer("eplb", devices=mesh, every=3)
        final = loop.fit(
            *arguments,
            pipeline.batches(rows(), 16, seed=0),
            jax.random.key(0),
            loop.Options(steps=last, save_every=2, log_every=1),
            workdir=tmp_path,
            mesh=mesh,
            extra=functools.partial(place.init_extra, E, LAYERS),
            adapt=place,
        )
    history = place.history()
    assert history["counts"].shape == (7, LAYERS, E)
    # After steps 3 and 6, the placement of the step after.
    changed = np.flatnonzero((np.diff(history["placements"], axis=0) != 0).any((1, 2, 3)))
    assert set(changed) <= {1, 4}
    assert len(changed)
    assert int(final.step) == 8


def test_what_it_weighs_may_be_a_larger_run():
    """A change that pays off for many tokens does not for few: moving costs the same."""
    few, many = (
        AdaptivePlacement("flexmoe", slots=2, costs=COSTS, devices=2, tokens=n) for n in (8, 10**7)
    )
    for place, moves in ((few, False), (many, True)):
        extra = place.init_extra(4, 1)
        begin = np.asarray(extra["placement"]).reshape(1, 2, 2)
        counts = jnp.asarray([[4, 2, 1, 1]], jnp.int32)
        calls = []
        place._apply = lambda state, old, new, calls=calls: calls.append(new) or state
        for i in (1, 2):
            holder = state.TrainState(i, None, None, None, extra | {"counts": counts}, None)
            place(i, holder)
        assert bool(calls) == moves
        assert np.array_equal(place.history()["placements"][0], begin)
        assert np.array_equal(place.history()["counts"][0], counts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "best"}, "name is 'best', allowed: capacity, static"),
        ({"slots": 0}, "slots is 0"),
        ({"devices": 0}, "devices is 0"),
        (
            {"costs": dataclasses.replace(COSTS, node=3, near=1e9), "devices": 8},
            "costs.node is 3, allowed: 0, or a divisor of 8",
        ),
        ({"average": 1.0}, "average is 1.0"),
        ({"every": 0}, "every is 0"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        AdaptivePlacement(**({"name": "flexmoe", "slots": 2, "costs": COSTS} | options))


def test_experts_that_do_not_fit():
    with pytest.raises(ValueError, match="experts is 9, allowed: at most 8"):
        placer("flexmoe", devices=4).init_extra(9, 1)
    extra = {"placement": jnp.zeros((1, 6), jnp.int32), "counts": jnp.zeros((1, 6), jnp.int32)}
    holder = state.TrainState(1, None, None, None, extra, None)
    with pytest.raises(ValueError, match="slots is 6, allowed: a multiple of 4 devices"):
        placer("flexmoe", devices=4)(1, holder)
