"""What training carries from step to step, as one pytree."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from jaxgen import mesh as mesh_lib
from jaxgen.train.frozen import masked, trained_part, whole


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a bit-for-bit resume needs, but for the data iterator.

    Attributes:
      step: how many updates were made, an int32 scalar.
      model: the trained module, a pytree of parameters.
      ema: exponential moving average of what is trained of `model`, or None.
      opt_state: of optax.
      extra: state of the loss itself that has no gradient (adaptive sampling of t), or None.
      key: base key of the run; the key of a step is `fold_in(key, step)`, so each is used once.
    """

    # Any: shapes and shardings stand in these places too.
    step: Any
    model: PyTree
    ema: PyTree
    opt_state: PyTree
    extra: PyTree
    key: Any


def run_key(name: str) -> Key[Array, ""]:
    """The key of what `name` stands for, a run with its seed, say: no two of them draw the same numbers."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    high, low = (int.from_bytes(half, "big") for half in (digest[:4], digest[4:]))
    return jax.random.fold_in(jax.random.key(np.uint32(high)), np.uint32(low))


def create(
    build: Callable[[Key[Array, ""]], PyTree],
    tx: optax.GradientTransformation,
    key: Key[Array, ""],
    *,
    use_ema: bool = True,
    frozen: Sequence[str] = (),
    extra: Callable[[], PyTree] = lambda: None,
) -> TrainState:
    """A fresh state; pure, so it can be jitted with output shardings or shape-evaluated.

    Args:
      frozen: see `jaxgen.train.frozen.trained_part`.
    """
    key_model, key_run = jax.random.split(key)
    model = build(key_model)
    part = trained_part(model, frozen)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        model=model,
        # A copy, since donated buffers must not be shared.
        ema=jax.tree.map(jnp.copy, part) if use_ema else None,
        opt_state=tx.init(part),
        extra=extra(),
        key=key_run,
    )


def create_sharded(
    init: Callable[[Key[Array, ""]], TrainState], key: Key[Array, ""], mesh: Mesh
) -> tuple[TrainState, Any]:
    """Runs `init` under jit so that each array is born in its place; returns also the shardings."""
    where = mesh_lib.shardings(jax.eval_shape(init, key), mesh)
    return jax.jit(init, out_shardings=where)(key), where


def replace_model(state: TrainState, model: PyTree, shardings: TrainState) -> TrainState:
    """The state with other parameters (and an EMA that starts at them), placed as before."""
    placed = jax.device_put(model, shardings.model)
    ema = state.ema
    if ema is not None:
        # Donated buffers must not be shared.
        ema = jax.tree.map(
            lambda old, new: old if masked(old) else jnp.copy(new), ema, placed, is_leaf=masked
        )
        ema = jax.device_put(ema, shardings.ema)
    return dataclasses.replace(state, model=placed, ema=ema)


def averaged(state: TrainState) -> PyTree:
    """The model with the moving average of what was trained; without an average as it is."""
    return state.model if state.ema is None else whole(state.ema, state.model)


def parameter_count(model: PyTree) -> int:
    """The number of scalars in all arrays of a module (or of its ShapeDtypeStructs)."""
    return sum(int(a.size) for a in jax.tree.leaves(model))
