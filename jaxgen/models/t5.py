"""T5 (Raffel et al., 2020): an encoder-decoder, and its Hugging Face table."""

import dataclasses
from collections.abc import Set
from typing import Any, TypeAlias

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen import fsdp
from jaxgen.errors import ConfigError
from jaxgen.models import hf_fields as hf
from jaxgen.models.hf_family import Family
from jaxgen.nn.attention import Cache, make_cache, rewind
from jaxgen.nn.embedding import embed
from jaxgen.nn.layers import dropout, linear, make_linear, split_key
from jaxgen.nn.prepack import thin_matmul
from jaxgen.nn.stacked import unstack
from jaxgen.nn.transformer import Transformer
from jaxgen.nn.transformer_config import TransformerConfig
from jaxgen.text import decoding

# What decoding carries: the cache, and which tokens of the source are real.
State: TypeAlias = tuple[Cache | None, Array]


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Encoder and decoder stacks.

    `scale_output`: the decoder's states are scaled by width ** -0.5 before the output layer, as the
    first T5 does and version 1.1 does not.
    """

    vocab_size: int
    encoder: TransformerConfig
    decoder: TransformerConfig
    tied: bool = True
    scale_output: bool = True


def config(
    vocab_size: int,
    *,
    width: int,
    depth: int,
    heads: int,
    head_dim: int = 0,
    mlp_width: int = 0,
    decoder_depth: int = 0,
    tied: bool = True,
    scale_output: bool = True,
    **options: object,
) -> T5Config:
    """T5's shape; `options` are further fields of `TransformerConfig`, for both stacks."""
    shape: dict[str, Any] = {
        "norm": "rms",
        "norm_eps": 1e-6,
        "activation": "relu",
        "qkv_bias": False,
        "out_bias": False,
        "mlp_bias": False,
        "scale": 1.0,
        "relative_buckets": 32,
    }
    shape |= options
    encoder = TransformerConfig(width, depth, heads, head_dim, mlp_width, causal=False, **shape)
    decoder = dataclasses.replace(encoder, causal=True, cross=True, depth=decoder_depth or depth)
    return T5Config(vocab_size, encoder, decoder, tied, scale_output)


def fresh_config(vocab_size: int, *, width: int, **sizes: Any) -> T5Config:
    """`config` for training from scratch: weights as large as those that T5 itself begins with.

    At GPT-2's 0.02 attention hardly reaches the residual stream, whose embeddings have unit variance.
    Attention is scaled as usual, since T5 has its scale in its first weights.
    """
    return config(vocab_size, width=width, scale=None, init_std=width**-0.5, **sizes)


class T5(nnx.Module):
    """`encode` the source, `decode` target tokens against it; the call does both."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
        self.config = config
        width = config.encoder.width
        self.tokens = nnx.Embed(
            config.vocab_size, width, embedding_init=nnx.initializers.normal(1.0), rngs=rngs
        )
        self.encoder = Transformer(config.encoder, rngs=rngs)
        self.decoder = Transformer(config.decoder, rngs=rngs)
        size, stack = config.vocab_size, config.decoder
        self.head = None if config.tied else make_linear(stack, width, size, False, rngs)

    def encode(
        self,
        tokens: Int[Array, "B M"] | Float[Array, "B M V"],
        *,
        mask: Bool[Array, "B M"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B M D"]:
        """The encoder's output for tokens, or for distributions over them (see `embed`).

        Raises:
          ValueError: distributions over another vocabulary; outside jit, tokens that the model does not
            have. Under jit their states are NaN.
        """
        key_embed, key_stack, key_out = split_key(key, 3)
        rate, table = self.config.encoder.dropout, self.tokens.embedding[...]
        h = dropout(fsdp.looked_up(embed(table, tokens, "tokens", mask)), rate, key_embed)
        return dropout(self.encoder(h, mask=mask, key=key_stack)[0], rate, key_out)

    def states(
        self,
        tokens: Int[Array, "B T"] | Float[Array, "B T V"],
        memory: Float[Array, "B M D"] | None = None,
        *,
        memory_mask: Bool[Array, "B M"] | None = None,
        mask: Bool[Array, "B T"] | None = None,
        cache: Cache | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """What the output layer reads, and the cache with these tokens in it; see `decode`.

        Logits are states @ `output_embedding`^T, which `jaxgen.losses.fused_linear` need not hold.

        Raises:
          ValueError: as `encode`.
        """
        key_embed, key_stack, key_out = split_key(key, 3)
        rate, table = self.config.decoder.dropout, self.tokens.embedding[...]
        h = dropout(fsdp.looked_up(embed(table, tokens, "tokens", mask)), rate, key_embed)
        h, cache, _ = self.decoder(
            h, mask=mask, memory=memory, memory_mask=memory_mask, cache=cache, key=key_stack
        )
        h = dropout(h, rate, key_out)
        return (h * self.config.decoder.width**-0.5 if self.config.scale_output else h), cache

    def output_embedding(self) -> Float[Array, "V D"]:
        """The output layer's weights, one row for each token."""
        table = self.tokens.embedding[...]
        return fsdp.gather_table(table) if self.head is None else self.head.kernel[...].T

    def decode(
        self,
        tokens: Int[Array, "B T"] | Float[Array, "B T V"],
        memory: Float[Array, "B M D"] | None = None,
        *,
        memory_mask: Bool[Array, "B M"] | None = None,
        mask: Bool[Array, "B T"] | None = None,
        cache: Cache | None = None,
        key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T V"], Cache | None]:
        """Logits, float32, and the cache with these tokens in it.

        Args:
          memory: from `encode`. With a cache it is needed in the first call only.
        """
        h, cache = self.states(
            tokens, memory, memory_mask=memory_mask, mask=mask, cache=cache, key=key
        )
        if self.head is not None:
            return linear(self.head, h).astype(jnp.float32), cache
        return thin_matmul(h, self.output_embedding().astype(h.dtype)).astype(jnp.float32), cache

    def __call__(
        self,
        source: Int[Array, "B M"] | Float[Array, "B M V"],
        target: Int[Array, "B T"] | Float[Array, "B T V"],
        *,
        source_mask: Bool[Array, "B M"] | None = None,
        target_mask: Bool[Array, "B T"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B T V"]:
        """Logits of the token after each of `target` (which starts with the start token)."""
        key_enc, key_dec = split_key(key, 2)
        memory = self.encode(source, mask=source_mask, key=key_enc)
        logits, _ = self.decode(
            target, memory, memory_mask=source_mask, mask=target_mask, key=key_dec
        )
        return logits

    def make_cache(self, batch: int, size: int) -> Cache:
        """An empty cache for `size` target tokens."""
        return make_cache(self.config.decoder, batch, size)

    def start(
        self,
        source: Int[Array, "B M"] | Float[Array, "B M V"],
        *,
        max_tokens: int,
        mask: Bool[Array, "B M"] | None = None,
        start: int = 0,
    ) -> decoding.Start:
        """Encodes a source and reads the decoder's start token; `jaxgen.text.decoding` goes on from there.

        Args:
          source: shorter ones are padded on the right.
          max_tokens: room in the cache for what will be decoded.
          mask: which tokens of the source are real.
          start: the token that targets begin with.
        """
        memory, model = self.encode(source, mask=mask), unstack(self)  # once, not at every token
        seen = jnp.ones(source.shape[:2], bool) if mask is None else mask
        first = jnp.full((source.shape[0], 1), start, jnp.int32)
        cache = self.make_cache(source.shape[0], 1 + max_tokens)
        logits, filled = model.decode(first, memory, memory_mask=seen, cache=cache)

        def step(state: State, token: decoding.Token) -> tuple[Float[Array, "N V"], State]:
            cache, seen = state
            logits, cache = model.decode(token[:, None], memory_mask=seen, cache=cache)
            return logits[:, 0], (cache, seen)

        again = decoding.Rewind(lambda _: None, lambda state, _, n: (rewind(state[0], n), state[1]))
        return decoding.Start(step, (filled, seen), logits[:, 0], max_tokens, again)


def _read_mlp(c: hf.Raw, _: Set[str]) -> hf.Arguments:
    name, value = "feed_forward_proj", c["feed_forward_proj"]
    parts = value.split("-") if isinstance(value, str) else []
    if len(parts) not in (1, 2) or (len(parts) == 2 and parts[0] != "gated"):
        raise ConfigError(name, value, "an activation, or gated- and an activation")
    act = hf.activation_of(name, value, "gelu_new" if value == "gated-gelu" else parts[-1])
    # The class writes these two beside the field that they follow from, and believes them.
    if c["dense_act_fn"] is not hf.UNSAID:
        act = hf.activation(c, "dense_act_fn")
    gated = len(parts) == 2 if c["is_gated_act"] is hf.UNSAID else hf.flag(c, "is_gated_act")
    return {"activation": act, "gated": gated}


def _write_mlp(a: hf.Arguments) -> hf.Arguments:
    act = a["activation"]
    # "gated-gelu" means the approximate one.
    gated = {"gelu_tanh": "gelu", "gelu": "gelu_python"}.get(act, hf.ACTIVATION_NAMES[act])
    return {"feed_forward_proj": f"gated-{gated}" if a["gated"] else hf.ACTIVATION_NAMES[act]}


def _read_output(c: hf.Raw, names: Set[str]) -> hf.Arguments:
    if not hf.flag(c, "is_encoder_decoder"):
        raise ConfigError("is_encoder_decoder", False, "true: the decoder reads the encoder")
    # Version 1.1 neither ties nor scales; the class tells the two apart by tie_word_embeddings, and
    # has an output layer of its own where the file has one.
    tie, scale = "tie_word_embeddings", "scale_decoder_outputs"
    scaled = c[tie] is None or hf.flag(c, tie)
    if c[scale] is not hf.UNSAID:
        scaled = hf.flag(c, scale)
    return {"tied": "lm_head.weight" not in names, "scale_output": scaled}


def _write_output(a: hf.Arguments) -> hf.Arguments:
    return {
        "is_encoder_decoder": True,
        "tie_word_embeddings": a["tied"],
        "scale_decoder_outputs": a["scale_output"],
    }


def _read_reach(c: hf.Raw, name: str) -> int:
    return hf.whole(c, name, c["relative_attention_num_buckets"] // 2 + 1)


def tensors(config: T5Config) -> dict[str, str]:
    """{module of ours: module in the file}."""
    gated = {"gate": "wi_0", "up": "wi_1", "down": "wo"}
    mlp = gated if config.encoder.gated else {"up": "wi", "down": "wo"}
    attention = {"query": "q", "key": "k", "value": "v", "out": "o"}
    names = {"tokens": "shared"} if config.tied else {"tokens": "shared", "head": "lm_head"}
    for stack in ("encoder", "decoder"):
        layers = [("attention", "norm1", "SelfAttention", attention)]
        if stack == "decoder":
            layers.append(("cross", "norm_cross", "EncDecAttention", attention))
        layers.append(("mlp", "norm2", "DenseReluDense", mlp))
        block = f"{stack}/blocks/{{}}"
        for i, (ours, norm, theirs, parts) in enumerate(layers):
            layer = f"{stack}.block.{{}}.layer.{i}"
            names[f"{block}/{norm}"] = f"{layer}.layer_norm"
            names |= {f"{block}/{ours}/{a}": f"{layer}.{theirs}.{b}" for a, b in parts.items()}
        names[f"{stack}/norm"] = f"{stack}.final_layer_norm"
        bias = "SelfAttention.relative_attention_bias"
        names[f"{stack}/relative"] = f"{stack}.block.0.layer.0.{bias}"
    return names


FAMILY = Family(
    model_type="t5",
    config_type=T5Config,
    config=config,
    module=T5,
    fields=(
        hf.field("vocab_size", "vocab_size", 32128, hf.whole),
        hf.field("d_model", "width", 512, hf.whole),
        hf.field("d_kv", "head_dim", 64, hf.whole),
        hf.field("d_ff", "mlp_width", 2048, hf.whole),
        hf.field("num_layers", "depth", 6, hf.whole),
        hf.Field(
            {"num_decoder_layers": None},
            lambda c, _: {"decoder_depth": hf.whole_or_none(c, "num_decoder_layers")},
            lambda a: {"num_decoder_layers": a["decoder"].depth},
        ),
        hf.field("num_heads", "heads", 8, hf.whole),
        hf.field(
            "relative_attention_num_buckets",
            "relative_buckets",
            32,
            lambda c, name: hf.whole(c, name, 4),
        ),
        hf.field("relative_attention_max_distance", "relative_distance", 128, _read_reach),
        hf.field("dropout_rate", "dropout", 0.1, hf.rate),
        hf.field("layer_norm_epsilon", "norm_eps", 1e-6, hf.real),
        hf.Field(
            {"feed_forward_proj": "relu", "dense_act_fn": hf.UNSAID, "is_gated_act": hf.UNSAID},
            _read_mlp,
            _write_mlp,
        ),
        hf.Field(
            {
                "is_encoder_decoder": True,
                "tie_word_embeddings": None,
                "scale_decoder_outputs": hf.UNSAID,
            },
            _read_output,
            _write_output,
        ),
    ),
    tensors=tensors,
    prefix="",
    anchor="encoder.final_layer_norm.weight",
    aliases={
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    },
    unused={"is_decoder", "n_positions"},
    extras=lambda _: {
        "architectures": ["T5ForConditionalGeneration"],
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    },
    copies=(
        ("encoder.embed_tokens.weight", "shared.weight"),
        ("decoder.embed_tokens.weight", "shared.weight"),
        ("lm_head.weight", "shared.weight"),
    ),
    # A bias that t5-small, t5-base and t5-large hold and no T5 uses.
    ignored=r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    stacks=("encoder", "decoder"),
)
