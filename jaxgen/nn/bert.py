"""BERT (Devlin et al., 2019): a bidirectional encoder, with its masked-language-model head."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.errors import require
from jaxgen.nn import transformer
from jaxgen.nn.transformer import Transformer, TransformerConfig
from jaxgen.numerics import lookup, wide


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """`pooler` and `mlm` say which heads there are; `types` is the number of segments."""

    vocab_size: int
    max_positions: int
    stack: TransformerConfig
    types: int = 2
    pooler: bool = True
    mlm: bool = False


def spec(
    vocab_size: int,
    *,
    width: int,
    depth: int,
    heads: int,
    max_positions: int,
    mlp_width: int = 0,
    types: int = 2,
    pooler: bool = False,
    mlm: bool = False,
    **options: Any,
) -> BertConfig:
    """BERT's shape; `options` are further fields of `transformer.TransformerConfig`.

    Raises:
      ValueError: if the heads do not divide the width.
    """
    if width % heads:
        raise ValueError(f"heads is {heads}, allowed: a divisor of the width {width}")
    shape = {"causal": False, "pre_norm": False, "norm_eps": 1e-12, "activation": "gelu"}
    stack = TransformerConfig(
        width=width,
        depth=depth,
        heads=heads,
        head_dim=width // heads,
        mlp_width=mlp_width or 4 * width,
        **{**shape, **options},
    )
    return BertConfig(vocab_size, max_positions, stack, types, pooler, mlm)


class Bert(nnx.Module):
    """Tokens to hidden states; `pooled` and `mlm_logits` where the spec has those heads."""

    def __init__(self, spec: BertConfig, *, rngs: nnx.Rngs):
        self.spec = spec
        s = spec.stack
        init = nnx.initializers.normal(s.init_std)
        self.tokens = nnx.Embed(spec.vocab_size, s.width, embedding_init=init, rngs=rngs)
        self.positions = nnx.Embed(spec.max_positions, s.width, embedding_init=init, rngs=rngs)
        self.types = nnx.Embed(spec.types, s.width, embedding_init=init, rngs=rngs)
        self.norm = transformer.make_norm(s, rngs)
        self.stack = Transformer(s, rngs=rngs)
        self.pooler = (
            transformer.make_linear(s, s.width, s.width, True, rngs) if spec.pooler else None
        )
        self.mlm = MLMHead(spec, rngs=rngs) if spec.mlm else None

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        mask: Bool[Array, "B T"] | None = None,
        types: Int[Array, "B T"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T D"]:
        """Last hidden states. `mask`: which tokens are real. `key` switches dropout on.

        Raises:
          ValueError: more tokens than the model has positions, or (outside jit) tokens or types that it does
            not have; under jit their states are NaN.
        """
        key_embed, key_stack = transformer.split_key(key, 2)
        length, most = tokens.shape[1], self.spec.max_positions
        require("tokens' length", length <= most, length, f"at most {most}")
        h = lookup(self.tokens.embedding[...], tokens, "tokens", mask)
        h = h + self.positions.embedding[...][:length]
        kinds = jnp.zeros_like(tokens) if types is None else types
        h = h + lookup(self.types.embedding[...], kinds, "types", mask)
        h = transformer.dropout(self.norm(h), self.spec.stack.dropout, key_embed)
        return self.stack(h, mask=mask, key=key_stack)[0]

    def pooled(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        """tanh of a linear layer on the first position.

        Raises:
          ValueError: for a model without a pooler.
        """
        if self.pooler is None:
            raise ValueError("this model has no pooler, allowed: a spec with pooler=True")
        return jnp.tanh(self.pooler(hidden[:, 0]))

    def mlm_logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Logits of every token, by the tied embedding.

        Raises:
          ValueError: for a model without the head.
        """
        if self.mlm is None:
            raise ValueError("this model has no MLM head, allowed: a spec with mlm=True")
        return self.mlm(hidden, self.tokens.embedding[...])


class MLMHead(nnx.Module):
    """Transform, norm, and the transposed embedding with a bias."""

    def __init__(self, spec: BertConfig, *, rngs: nnx.Rngs):
        s = spec.stack
        self.activation = s.activation
        self.transform = transformer.make_linear(s, s.width, s.width, True, rngs)
        self.norm = transformer.make_norm(s, rngs)
        self.bias = nnx.Param(jnp.zeros(spec.vocab_size, jnp.float32))

    def __call__(self, h: Float[Array, "B T D"], embedding: Float[Array, "V D"]) -> Array:
        h = self.norm(transformer.ACTIVATIONS[self.activation](self.transform(h)))
        return (h @ embedding.T.astype(h.dtype)).astype(jnp.float32) + self.bias[...]


def mean_pool(hidden: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
    """Mean of the real positions, 0 without any; the others may hold anything."""
    total = jnp.where(mask[..., None], hidden, 0).astype(wide(hidden)).sum(1)
    return (total / jnp.maximum(mask.sum(1), 1)[:, None].astype(total.dtype)).astype(hidden.dtype)


def sentence_embedding(
    model: Bert, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"]
) -> Float[Array, "B D"]:
    """Mean-pooled states of unit length, as Sentence-BERT has them (Reimers and Gurevych, 2019)."""
    pooled = mean_pool(model(tokens, mask=mask), mask)
    # Before the root: at 0, where no position is real, its gradient is infinite.
    square = jnp.maximum((pooled**2).sum(-1, keepdims=True), 1e-24)
    return pooled / jnp.sqrt(square)
