"""BERT (Devlin et al., 2019): a bidirectional encoder with its heads, and its Hugging Face table."""

import dataclasses
from collections.abc import Set
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen import fsdp
from jaxgen.errors import ConfigError, require
from jaxgen.models import hf_fields as hf
from jaxgen.models.hf_family import Family
from jaxgen.nn.embedding import embed
from jaxgen.nn.layers import dropout, linear, make_linear, make_norm, split_key
from jaxgen.nn.prepack import thin_matmul
from jaxgen.nn.transformer import Transformer
from jaxgen.nn.transformer_config import ACTIVATIONS, TransformerConfig
from jaxgen.numerics import lookup, wide


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The shape of a model.

    Attributes:
      vocab_size: V.
      max_positions: the most tokens of a text.
      stack: the blocks.
      types: number of segments.
      pooler: whether there is a layer on the first position.
      mlm: whether there is the head of masked language modelling.
    """

    vocab_size: int
    max_positions: int
    stack: TransformerConfig
    types: int = 2
    pooler: bool = True
    mlm: bool = False


def config(
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
    **options: object,
) -> BertConfig:
    """BERT's shape; `options` are further fields of `TransformerConfig`.

    Raises:
      ValueError: if the heads do not divide the width.
    """
    shape: dict[str, Any] = {"causal": False, "pre_norm": False, "norm_eps": 1e-12}
    shape |= {"activation": "gelu", **options}
    stack = TransformerConfig(width, depth, heads, mlp_width=mlp_width, **shape)
    return BertConfig(vocab_size, max_positions, stack, types, pooler, mlm)


class Bert(nnx.Module):
    """Tokens to hidden states; `pooled` and `mlm_logits` where the config has those heads."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.config = config
        s = config.stack
        init = nnx.initializers.normal(s.init_std)
        self.tokens = nnx.Embed(config.vocab_size, s.width, embedding_init=init, rngs=rngs)
        self.positions = nnx.Embed(config.max_positions, s.width, embedding_init=init, rngs=rngs)
        self.types = nnx.Embed(config.types, s.width, embedding_init=init, rngs=rngs)
        self.norm = make_norm(s, rngs)
        self.stack = Transformer(s, rngs=rngs)
        self.pooler = make_linear(s, s.width, s.width, True, rngs) if config.pooler else None
        self.mlm = MLMHead(config, rngs=rngs) if config.mlm else None

    def __call__(
        self,
        tokens: Int[Array, "B T"] | Float[Array, "B T V"],
        *,
        mask: Bool[Array, "B T"] | None = None,
        types: Int[Array, "B T"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T D"]:
        """Last hidden states of tokens, or of distributions over them (see `embed`).

        `mask`: which tokens are real. `key` switches dropout on.

        Raises:
          ValueError: more tokens than the model has positions, distributions over another vocabulary, or
            (outside jit) tokens or types that it does not have; under jit their states are NaN.
        """
        key_embed, key_stack = split_key(key, 2)
        length, most = tokens.shape[1], self.config.max_positions
        require("tokens' length", length <= most, length, f"at most {most}")
        h = fsdp.looked_up(embed(self.tokens.embedding[...], tokens, "tokens", mask))
        h = h + self.positions.embedding[...][:length]
        kinds = jnp.zeros(tokens.shape[:2], jnp.int32) if types is None else types
        h = h + lookup(self.types.embedding[...], kinds, "types", mask)
        h = dropout(self.norm(h), self.config.stack.dropout, key_embed)
        return self.stack(h, mask=mask, key=key_stack)[0]

    def pooled(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        """tanh of a linear layer on the first position.

        Raises:
          ValueError: for a model without a pooler.
        """
        if self.pooler is None:
            raise ValueError("this model has no pooler, allowed: a config with pooler=True")
        return jnp.tanh(self.pooler(hidden[:, 0]))

    def mlm_logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Logits of every token, by the tied embedding.

        Raises:
          ValueError: for a model without the head.
        """
        if self.mlm is None:
            raise ValueError("this model has no MLM head, allowed: a config with mlm=True")
        return self.mlm(hidden, fsdp.gather_table(self.tokens.embedding[...]))


class MLMHead(nnx.Module):
    """Transform, norm, and the transposed embedding with a bias."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        s = config.stack
        self.activation = s.activation
        self.transform = make_linear(s, s.width, s.width, True, rngs)
        self.norm = make_norm(s, rngs)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size, jnp.float32))

    def __call__(
        self, h: Float[Array, "B T D"], embedding: Float[Array, "V D"]
    ) -> Float[Array, "B T V"]:
        h = self.norm(ACTIVATIONS[self.activation](linear(self.transform, h)))
        logits = thin_matmul(h, embedding.astype(h.dtype))
        return logits.astype(jnp.float32) + self.bias[...]


def mean_pool(hidden: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B D"]:
    """Mean of the real positions, 0 without any; the others may hold anything."""
    total = jnp.where(mask[..., None], hidden, 0).astype(wide(hidden)).sum(1)
    return (total / jnp.maximum(mask.sum(1), 1)[:, None].astype(total.dtype)).astype(hidden.dtype)


def sentence_embedding(
    model: Bert, tokens: Int[Array, "B T"] | Float[Array, "B T V"], mask: Bool[Array, "B T"]
) -> Float[Array, "B D"]:
    """Mean-pooled states of unit length, as Sentence-BERT has them (Reimers and Gurevych, 2019)."""
    pooled = mean_pool(model(tokens, mask=mask), mask)
    # Before the root: at 0, where no position is real, its gradient is infinite.
    square = jnp.maximum((pooled**2).sum(-1, keepdims=True), 1e-24)
    return pooled / jnp.sqrt(square)


def _read_heads(c: hf.Raw, names: Set[str]) -> hf.Arguments:
    mlm = any(name.startswith("cls.predictions.") for name in names)
    if mlm and not hf.flag(c, "tie_word_embeddings"):
        raise ConfigError("tie_word_embeddings", False, "true, for BERT's language-model head")
    return {"pooler": any(name.startswith("bert.pooler.") for name in names), "mlm": mlm}


def tensors(config: BertConfig) -> dict[str, str]:
    """{module of ours: module in the file}."""
    ours, theirs = "stack/blocks/{}", "bert.encoder.layer.{}"
    names = {
        "tokens": "bert.embeddings.word_embeddings",
        "positions": "bert.embeddings.position_embeddings",
        "types": "bert.embeddings.token_type_embeddings",
        "norm": "bert.embeddings.LayerNorm",
        f"{ours}/attention/query": f"{theirs}.attention.self.query",
        f"{ours}/attention/key": f"{theirs}.attention.self.key",
        f"{ours}/attention/value": f"{theirs}.attention.self.value",
        f"{ours}/attention/out": f"{theirs}.attention.output.dense",
        f"{ours}/norm1": f"{theirs}.attention.output.LayerNorm",
        f"{ours}/mlp/up": f"{theirs}.intermediate.dense",
        f"{ours}/mlp/down": f"{theirs}.output.dense",
        f"{ours}/norm2": f"{theirs}.output.LayerNorm",
    }
    if config.pooler:
        names["pooler"] = "bert.pooler.dense"
    if config.mlm:
        names |= {
            "mlm": "cls.predictions",
            "mlm/transform": "cls.predictions.transform.dense",
            "mlm/norm": "cls.predictions.transform.LayerNorm",
        }
    return names


FAMILY = Family(
    model_type="bert",
    config_type=BertConfig,
    config=config,
    module=Bert,
    fields=(
        hf.field("vocab_size", "vocab_size", 30522, hf.whole),
        hf.field("hidden_size", "width", 768, hf.whole),
        hf.field("num_hidden_layers", "depth", 12, hf.whole),
        hf.field("num_attention_heads", "heads", 12, hf.whole),
        hf.field("intermediate_size", "mlp_width", 3072, hf.whole),
        hf.field("max_position_embeddings", "max_positions", 512, hf.whole),
        hf.field("type_vocab_size", "types", 2, hf.whole),
        hf.field("layer_norm_eps", "norm_eps", 1e-12, hf.real),
        hf.field("is_decoder", "causal", False, hf.flag),
        # Our stacks have one dropout rate: that of the residual stream.
        hf.field(
            "hidden_dropout_prob", "dropout", 0.1, hf.rate, copies=("attention_probs_dropout_prob",)
        ),
        hf.activation_field("hidden_act", "gelu"),
        hf.Field({"tie_word_embeddings": True}, _read_heads, lambda _: {}),
    ),
    tensors=tensors,
    prefix="bert.",
    anchor="embeddings.position_embeddings.weight",
    extras=lambda a: {"architectures": ["BertForMaskedLM" if a["mlm"] else "BertModel"]},
    copies=(
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ),
    ignored=r"bert\.embeddings\.(position_ids|token_type_ids)",
)
