"""One optimisation step: gradient, accumulation, clipping, update, EMA, all in one jit."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, Num, PyTree

from jaxgen import fsdp
from jaxgen import mesh as mesh_lib
from jaxgen.train.frozen import trained_part, whole
from jaxgen.train.state import TrainState

# (model, extra, batch, key, step) -> (loss, (scalar metrics, new extra)); the step counts from 0.
Loss = Callable[
    [PyTree, PyTree, PyTree, Key[Array, ""], Int[Array, ""]],
    tuple[Float[Array, ""], tuple[dict[str, Array], PyTree]],
]

SCHEDULES = ("constant", "cosine", "rsqrt")
OPTIMIZERS = ("adamw", "adafactor")


def learning_rate(
    kind: str, peak: float, *, steps: int, warmup: int, final: float = 0.0
) -> optax.Schedule:
    """Linear warm-up to `peak`, then constant, cosine to `final` x peak, or peak sqrt(warmup/step).

    Raises:
      ValueError: for an unknown kind.
    """
    if kind == "cosine":
        warmup = min(warmup, max(steps - 1, 0))
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, 1), peak * final)
    if kind == "constant":
        after: optax.Schedule = optax.constant_schedule(peak)
    elif kind == "rsqrt":

        def after(count: Num[ArrayLike, ""]) -> Float[Array, ""]:
            return peak * jnp.sqrt(max(warmup, 1) / jnp.maximum(count + max(warmup, 1), 1))
    else:
        raise ValueError(f"schedule is {kind!r}, allowed: {', '.join(SCHEDULES)}")
    return optax.join_schedules([optax.linear_schedule(0.0, peak, max(warmup, 1)), after], [warmup])


def optimizer(
    schedule: optax.Schedule,
    *,
    kind: str = "adamw",
    clip: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.99,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """AdamW or Adafactor behind clipping by global norm; `clip` = 0 turns clipping off.

    Adafactor (Shazeer & Stern, 2018) steps in proportion to the size of each parameter, which embeddings
    of unit variance, as T5's, need: AdamW moves them by the rate itself, a small part of their size.

    Raises:
      ValueError: for an unknown kind.
    """
    if kind == "adamw":
        tx = optax.adamw(schedule, b1=b1, b2=b2, weight_decay=weight_decay)
    elif kind == "adafactor":
        tx = optax.adafactor(schedule, weight_decay_rate=weight_decay or None)
    else:
        raise ValueError(f"optimizer is {kind!r}, allowed: {', '.join(OPTIMIZERS)}")
    return optax.chain(optax.clip_by_global_norm(clip), tx) if clip else tx


def by_rate(
    rates: Mapping[str, float], make: Callable[[float], optax.GradientTransformation]
) -> optax.GradientTransformation:
    """An optimiser of its own, clipping included, for parameters that learn at another rate.

    Args:
      rates: regular expression -> factor of the learning rate, of parameters whose path
        (`constraint/convs/0/kernel`) has a match; the first one counts, others have 1.
      make: factor -> optimiser.
    """
    patterns = [(re.compile(pattern), f"{factor:g}") for pattern, factor in rates.items()]

    def label(path: jax.tree_util.KeyPath, _: PyTree) -> str:
        name = mesh_lib.path_name(path)
        return next((factor for pattern, factor in patterns if pattern.search(name)), "1")

    made = {f"{factor:g}": make(factor) for factor in (1.0, *rates.values())}
    return optax.multi_transform(made, lambda part: jax.tree_util.tree_map_with_path(label, part))


def make_step(
    loss: Loss,
    tx: optax.GradientTransformation,
    *,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    shardings: TrainState | None = None,
    frozen: Sequence[str] = (),
) -> jax.stages.Wrapped:
    """The jitted step `(state, batch) -> (state, metrics)`; the state's buffers are donated.

    Args:
      ema_decay: 0 for none. Early on the decay is (1 + step) / (10 + step) where that is smaller.
      accumulate: the batch is cut into that many parts, worked off one after another; the update
        uses the mean gradient, so memory falls and the result keeps its meaning.
      shardings: of the state, as `create_sharded` returns them.
      frozen: as it was for the state's `create`.
    """
    of_model = loss if shardings is None else fsdp.gathering(loss, shardings.step.mesh)

    def forward(part: PyTree, model: PyTree, *args: PyTree) -> PyTree:
        return of_model(whole(part, model), *args)

    grad = jax.value_and_grad(forward, has_aux=True)

    def gradients(
        trained: PyTree, state: TrainState, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[PyTree, PyTree, PyTree]:
        if accumulate == 1:
            (value, (metrics, extra)), g = grad(
                trained, state.model, state.extra, batch, key, state.step
            )
            return {"loss": value, **metrics}, extra, g

        def part(carry: PyTree, inputs: PyTree) -> PyTree:
            extra, total = carry
            piece, key_part = inputs
            (value, (metrics, extra)), g = grad(
                trained, state.model, extra, piece, key_part, state.step
            )
            total = jax.tree.map(lambda a, b: a + b / accumulate, total, g)
            return (extra, total), {"loss": value, **metrics}

        # Row i goes to part i % accumulate, so that each part stays spread over all devices.
        pieces = jax.tree.map(
            lambda a: a.reshape(-1, accumulate, *a.shape[1:]).swapaxes(0, 1), batch
        )
        zeros = jax.tree.map(jnp.zeros_like, trained)
        (extra, g), metrics = jax.lax.scan(
            part, (state.extra, zeros), (pieces, jax.random.split(key, accumulate))
        )
        return jax.tree.map(lambda m: m.mean(0), metrics), extra, g

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)
        trained = trained_part(state.model, frozen)
        metrics, extra, g = gradients(trained, state, batch, key)
        metrics["grad_norm"] = optax.global_norm(g)
        updates, opt_state = tx.update(g, state.opt_state, trained)
        trained = optax.apply_updates(trained, updates)
        ema = state.ema
        if ema is not None:
            count = state.step.astype(jnp.float32)
            decay = jnp.minimum(ema_decay, (1.0 + count) / (10.0 + count))
            ema = jax.tree.map(lambda a, b: decay * a + (1.0 - decay) * b, ema, trained)
        model = whole(trained, state.model)
        return TrainState(state.step + 1, model, ema, opt_state, extra, state.key), metrics

    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


class Stepper:
    """A step run over and over on one state, which it holds as the tuple of its leaves.

    A jitted call flattens and rebuilds what it is given. Of a tree of modules that is milliseconds of Python a
    call on any device, of a tuple it is not. The program is the same.
    """

    def __init__(self, step: jax.stages.Wrapped, state: TrainState):
        """Args:
        step: of `make_step`; the state's buffers are its own from the first call on.
        """
        tree: Any  # a PyTreeDef, of which type checkers know nothing
        self._leaves, tree = jax.tree.flatten(state)
        self._tree = tree

        def run(leaves: list[Array], batch: PyTree) -> tuple[list[Array], dict[str, Array]]:
            after, metrics = step(jax.tree.unflatten(tree, leaves), batch)
            leaves, same = jax.tree.flatten(after)
            if same != tree:
                raise TypeError(
                    f"a step's state is {same}, allowed: the same tree as before, {tree}"
                )
            return leaves, metrics

        where = [leaf.sharding for leaf in self._leaves]
        self._run = jax.jit(run, donate_argnums=0, out_shardings=(where, None))

    def __call__(self, batch: PyTree) -> dict[str, Array]:
        """One step; its metrics."""
        self._leaves, metrics = self._run(self._leaves, batch)
        return metrics

    def lower(self, batch: PyTree) -> jax.stages.Lowered:
        """The program that a call runs, to look at: its memory, its operations."""
        return self._run.lower(self._leaves, batch)

    @property
    def state(self) -> TrainState:
        """After the last step; its buffers are gone after the next."""
        return jax.tree.unflatten(self._tree, self._leaves)

    @state.setter
    def state(self, state: TrainState) -> None:
        self._leaves = self._tree.flatten_up_to(state)
