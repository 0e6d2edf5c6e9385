"""Vectors of a text that is either tokens or distributions over them."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgen.errors import require
from jaxgen.nn.rows import on_one_axis
from jaxgen.numerics import lookup


def embed(
    table: Float[Array, "V D"],
    text: Int[Array, "*N"] | Float[Array, "*N W"],
    name: str = "tokens",
    real: Bool[Array, "*N"] | None = None,
) -> Float[Array, "*N D"]:
    """Rows of a table for token ids; for distributions over the vocabulary, the expected row.

    A distribution is what a model wrote through `jaxgen.text.gumbel_softmax`: gradients reach it, and a
    one-hot one is its token. Whoever reads it does so under a table of its own.

    Args:
      text: ids, or rows that sum to 1 over the table's V rows, W = V.
      name: of the text, for errors.
      real: where text counts. Elsewhere an unknown id gives row 0, a distribution 0, be it NaN.

    Raises:
      ValueError: distributions over another vocabulary; outside jit, ids that the table does not have.
        Under jit those give NaN.
    """
    if jnp.issubdtype(text.dtype, jnp.integer):
        return lookup(table, text, name, real)
    size, width = table.shape[0], text.shape[-1]
    require(f"vocabulary of {name}", width == size, width, f"{size}, as the embedding has rows")
    if real is not None:
        text = jnp.where(real[..., None], text, 0)
    return on_one_axis(lambda rows: rows @ table, text.astype(table.dtype))
