"""What training carries from step to step, as one pytree."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from jaxgen import mesh as mesh_lib


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a bit-for-bit resume needs, but for the data iterator.

    Attributes:
      step: how many updates were made, an int32 scalar.
      model: the trained module, a pytree of parameters.
      ema: exponential moving average of `model`, or None.
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
    extra: Callable[[], PyTree] = lambda: None,
) -> TrainState:
    """A fresh state; pure, so it can be jitted with output shardings or shape-evaluated."""
    key_model, key_run = jax.random.split(key)
    model = build(key_model)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        model=model,
        # A copy, since donated buffers must not be shared.
        ema=jax.tree.map(jnp.copy, model) if use_ema else None,
        opt_state=tx.init(model),
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
    ema = None if state.ema is None else jax.device_put(model, shardings.ema)
    # Donated buffers must not be shared.
    return dataclasses.replace(state, model=placed, ema=jax.tree.map(jnp.copy, ema))


def parameter_count(model: PyTree) -> int:
    """The number of scalars in all arrays of a module (or of its ShapeDtypeStructs)."""
    return sum(int(a.size) for a in jax.tree.leaves(model))
