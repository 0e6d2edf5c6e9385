"""A constraint on sentences made from templates: what the blanks hold stands somewhere in the sentence.

    f(x; t, a) = mean_k log(delta + sum_j pi_kj [x_j = a_k]),     pi_k = softmax_j(u(a_k) . h(x, t)_j)

for the words a_1, a_2, .. of the blanks, in order. Known: they have to be copied. Learned: where each one sits.
The words are needed in training alone. Source: after the template application of Hu et al. (2018), section 4.2.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxgen.errors import require
from jaxgen.nn.embedding import embed
from jaxgen.nn.transformer import Transformer
from jaxgen.nn.transformer_config import TransformerConfig
from jaxgen.numerics import Number, wide


class PointerMatch(nnx.Module):
    """f with its pointer: h reads template and sentence in one small transformer, u is an embedding."""

    def __init__(
        self,
        vocab: int,
        *,
        length: int,
        width: int,
        depth: int,
        heads: int,
        delta: float = 1e-3,
        rngs: nnx.Rngs,
    ):
        """Args:
        vocab: of templates, sentences and words.
        length: of a template, a sentence or a blanks' words in tokens at most.
        width: of the transformer; `depth` blocks of `heads` heads.
        delta: f is at least log delta.

        Raises:
          ValueError: a delta outside (0, 1).
        """
        require("delta", 0 < delta < 1, delta, "above 0 and below 1")
        self.delta = delta
        normal = nnx.initializers.normal(0.5)
        self.tokens = nnx.Embed(vocab, width, embedding_init=normal, rngs=rngs)
        self.places = nnx.Embed(2 * length, width, embedding_init=normal, rngs=rngs)
        config = TransformerConfig(width, depth, heads, causal=False, init_std=width**-0.5)
        self.stack = Transformer(config, rngs=rngs)
        self.words = nnx.Embed(vocab, width, embedding_init=normal, rngs=rngs)
        self.order = nnx.Embed(length, width, embedding_init=normal, rngs=rngs)

    def point(
        self,
        x: Int[Array, "B T"] | Float[Array, "B T V"],
        template: Int[Array, "B M"],
        content: Int[Array, "B A"],
        *,
        mask: Bool[Array, "B T"],
        template_mask: Bool[Array, "B M"],
    ) -> Float[Array, "B A T"]:
        """pi: of each word of the blanks, a distribution over the sentence's positions."""
        table, length = self.tokens.embedding[...], self.order.num_embeddings
        read = embed(table, template, "template", template_mask)
        seen = embed(table, x, "sentence", mask)
        at = self.places.embedding[...]
        h = jnp.concatenate(
            [read + at[: read.shape[1]], seen + at[length : length + seen.shape[1]]], 1
        )
        h, _, _ = self.stack(h, mask=jnp.concatenate([template_mask, mask], 1))
        h = h[:, read.shape[1] :]
        u = self.words(content) + self.order.embedding[...][: content.shape[1]]
        scores = jnp.einsum("bad,btd->bat", u, h).astype(wide(h)) * h.shape[-1] ** -0.5
        lowest = jnp.finfo(scores.dtype).min
        return jax.nn.softmax(jnp.where(mask[:, None], scores, lowest))

    def __call__(
        self,
        x: Int[Array, "B T"] | Float[Array, "B T V"],
        template: Int[Array, "B M"],
        content: Int[Array, "B A"],
        *,
        mask: Bool[Array, "B T"],
        template_mask: Bool[Array, "B M"],
        content_mask: Bool[Array, "B A"],
    ) -> Float[Array, " B"]:
        """f of each sentence, in float32 or wider.

        Args:
          x: tokens, or a distribution over them at each position, through which gradients flow.
          mask: which positions of x are real; the others may hold anything. Likewise of the others.
        """
        pi = self.point(x, template, content, mask=mask, template_mask=template_mask)
        return match(pi, x, content, content_mask, delta=self.delta)


def match(
    pi: Float[Array, "B A T"],
    x: Int[Array, "B T"] | Float[Array, "B T V"],
    content: Int[Array, "B A"],
    content_mask: Bool[Array, "B A"],
    *,
    delta: Number = 1e-3,
) -> Float[Array, " B"]:
    """f of given pointers: log delta where no word is where it points to, log(1 + delta) where all are.

    Of a distribution, [x_j = a] is its probability of a. A row without words has f = 0.
    """
    require("delta", (delta > 0) & (delta < 1), delta, "above 0 and below 1")
    if x.ndim == 2:
        same = (content[:, :, None] == x[:, None, :]).astype(pi.dtype)
    else:
        rows = jnp.arange(x.shape[0])[:, None]
        same = x[rows, :, content].astype(pi.dtype)
    each = jnp.log(jnp.asarray(delta, pi.dtype) + (pi * same).sum(-1))
    total = jnp.where(content_mask, each, 0).sum(-1)
    return total / jnp.maximum(content_mask.sum(-1), 1)
