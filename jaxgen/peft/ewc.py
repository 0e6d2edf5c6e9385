"""Elastic weight consolidation: change least what the old task leans on (Kirkpatrick et al., 2017).

    loss = new task + lambda sum_ij F_ij (W_ij - W*_ij)^2,    F = E_x[ (d log p(x) / d W)^2 ]

Of a model with low-rank updates W - W* is the product s a b, and so is what is penalised (Xiang et al., 2023,
eq. 3): F has the kernel's form, not that of a and b. There is no factor 1/2. With F = 1 the penalty is L2-SP (Li et
al., 2018). lambda and F have one scale between them: report `total` beside lambda.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.errors import require
from jaxgen.losses.cross_entropy import cross_entropy
from jaxgen.mesh import path_name
from jaxgen.numerics import Number, wide
from jaxgen.peft import lora

M = TypeVar("M")
Weights = Mapping[
    str, Float[Array, "..."]
]  # {path of a parameter: its value, or one for each entry}
LogProb = Callable[
    [M, PyTree], Float[Array, ""]
]  # (model, one example without batch axis) -> log p
REDUCE = ("sum", "mean")
LABELS = ("data", "model")


def log_likelihood(
    logits: Float[Array, "T V"],
    targets: Int[Array, " T"],
    weights: Float[Array, " T"],
    *,
    reduce: str = "sum",
    key: Key[Array, ""] | None = None,
) -> Float[Array, ""]:
    """log p of one text, for `fisher_diagonal`.

    Args:
      weights: of each token; 0 for what does not count, as padding.
      reduce: "sum", the definition, or "mean" over tokens of weight above 0, as the reference of Xiang et al.
        has it: its F is smaller by the square of a text's length.
      key: draws the tokens from the model itself, given those before in the data: the true Fisher information
        (van de Ven, 2025). Without it they are the data's (the empirical one).

    Raises:
      ValueError: another `reduce`.
    """
    require("reduce", reduce in REDUCE, reduce, "one of " + ", ".join(REDUCE))
    if key is not None:
        targets = jax.random.categorical(key, jax.lax.stop_gradient(logits))
    counts = weights > 0
    total = -(weights * cross_entropy(logits, targets, counts)).sum()
    return total / jnp.maximum(counts.sum(), 1) if reduce == "mean" else total


def fisher_diagonal(
    logprob: LogProb[M], model: M, batches: Iterable[PyTree], *, where: str = "all"
) -> dict[str, Float[Array, "..."]]:
    """The diagonal of the Fisher information: the mean over examples of the squared gradient of log p.

    Every example has a gradient of its own; the square of a batch's gradient would be another number. Not for
    `jax.jit`: batches are read one after the other, each in one jitted call.

    Args:
      logprob: (model, example) -> log p(example), of examples without a batch axis.
      batches: pytrees whose arrays have the examples along their first axis; they may differ in size.
      where: "all" parameters, by their paths; the kernels of "wrapped" layers (`jaxgen.peft.lora.wrap`) alone,
        by the paths of `lora.delta`; or the "factors" a and b of these, by the paths of `factors`.

    Returns:
      float32 or wider, in the parameters' form; {} of no batches.

    Raises:
      ValueError: another `where`, or a model without wrapped layers.
    """
    require("where", where in _PARTS, where, "one of " + ", ".join(_PARTS))
    require("model", bool(_PARTS[where](model)), type(model).__name__, "one with wrapped layers")
    squares: dict[str, Array] = {}
    count = 0
    for batch in batches:
        new = _squares(logprob, model, batch, where)
        squares = jax.tree.map(jnp.add, squares, new) if squares else new
        count += len(jax.tree.leaves(batch)[0])
    return {path: value / count for path, value in squares.items()}


@partial(jax.jit, static_argnums=(0, 3))
def _squares(logprob: LogProb[M], model: M, batch: PyTree, where: str) -> dict[str, Array]:
    chosen = _PARTS[where](model)

    def one(example: PyTree) -> dict[str, Array]:
        grad = jax.grad(lambda part: logprob(_replace(model, part, where), example))(chosen)
        return {p: jnp.square(g.astype(wide(g))) for p, g in grad.items()}

    def add(total: dict[str, Array], example: PyTree) -> tuple[dict[str, Array], None]:
        return jax.tree.map(jnp.add, total, one(example)), None

    # One example at a time: a gradient for each at once would be as many copies of the model.
    zeros = {p: jnp.zeros(a.shape, wide(a)) for p, a in chosen.items()}
    return jax.lax.scan(add, zeros, batch)[0]


def penalty(change: Weights, fisher: Weights) -> Float[Array, ""]:
    """sum F change^2, over all that `fisher` has.

    Args:
      change: by path, such as `lora.delta(model)`, or `shift` of a model that is trained as a whole.
      fisher: of the same paths and shapes; they may be traced.

    Raises:
      ValueError: a path that `change` does not have, or one of another shape.
    """
    value = jnp.zeros(())
    for path, f in fisher.items():
        require("fisher", path in change, path, f"one of {', '.join(list(change)[:4])}, ..")
        shape = change[path].shape
        require(f"fisher of {path}", f.shape == shape, f.shape, f"the shape {shape}")
        value += (f * jnp.square(change[path].astype(wide(change[path])))).sum()
    return value


def anchor(model: PyTree) -> dict[str, Float[Array, "..."]]:
    """{path: value} of all parameters, a tied one once: where a penalty pulls to."""
    leaves = jax.tree_util.tree_leaves_with_path(model)
    return {path_name(path): a for path, a in leaves if jnp.issubdtype(a.dtype, jnp.floating)}


def shift(model: PyTree, start: Weights) -> dict[str, Float[Array, "..."]]:
    """{path: how far it is from its value in `start`}, for dense EWC; paths of `anchor` or of `factors`."""
    now = anchor(model)
    return {p: now[p] - before for p, before in start.items()}


def ones(start: Weights, scale: Number = 1.0) -> dict[str, Float[Array, "..."]]:
    """A Fisher information that makes no difference between parameters: the penalty is L2-SP."""
    return {p: jnp.full(a.shape, scale, wide(a)) for p, a in start.items()}


def total(fisher: Weights) -> Float[Array, ""]:
    """The sum of all entries, which gives lambda its scale."""
    return jnp.asarray(sum((f.sum() for f in fisher.values()), start=jnp.zeros(())))


def factors(model: PyTree) -> dict[str, Float[Array, "..."]]:
    """{path: a or b of a wrapped layer}: for the ablation that penalises the two apart.

    A penalty on a and b apart is another one: it also holds what leaves the product as it is.
    """
    found: dict[str, Array] = {}
    for path, _, _, layer in lora.layers(model, lora.LoRALinear):
        found |= {f"{path}/a": layer.a[...], f"{path}/b": layer.b[...]}
    return found


def without_updates(model: M) -> M:
    """A copy that computes what the base model does: its low-rank updates are left out."""
    model = nnx.clone(model)
    for _, _, _, wrapped in lora.layers(model, lora.LoRALinear):
        for layer in wrapped.updates():
            layer.merged = True  # as if the kernel, which is the base model's, held the update
    return model


def _kernels(model: PyTree) -> dict[str, Array]:
    return {p: layer.kernel[...] for p, _, _, layer in lora.layers(model, lora.LoRALinear)}


_PARTS: dict[str, Callable[[PyTree], dict[str, Array]]] = {
    "all": anchor,
    "wrapped": _kernels,
    "factors": factors,
}


def _replace(model: M, part: Weights, where: str) -> M:
    if where == "all":
        put = lambda path, a: part.get(path_name(path), a)  # noqa: E731
        return jax.tree_util.tree_map_with_path(put, model)
    model = nnx.clone(model)
    for path, _, _, layer in lora.layers(model, lora.LoRALinear):
        if where == "wrapped":
            layer.kernel[...] = part[path]
        else:
            layer.a[...], layer.b[...] = part[f"{path}/a"], part[f"{path}/b"]
    return model
