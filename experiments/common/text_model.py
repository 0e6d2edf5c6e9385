"""The text autoencoder of a config."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from experiments.common.latent import denoiser_of
from experiments.common.text_fields import own_encoder
from jaxgen.config import Config
from jaxgen.data.tokens import TokenShape
from jaxgen.models import bert, gpt2, hf
from jaxgen.models.text_autoencoder import SequenceEncoder, TextAutoencoder, TextEncoder
from jaxgen.models.text_decoders import LatentGPT, NonAutoregressiveDecoder, TextDecoder
from jaxgen.nn.transformer_config import TransformerConfig
from jaxgen.peft import lora

M = TypeVar("M")


def token_shape(config: Config) -> TokenShape:
    """Sizes from the config alone, for `--mode=compile`."""
    d = config.data
    source = d.source_vocab_size or d.vocab_size
    return TokenShape(d.vocab_size, source, d.max_tokens, 0, 0, 0, 0)


def build_autoencoder(
    config: Config, shape: TokenShape, rngs: nnx.Rngs, *, predict_variance: bool
) -> TextAutoencoder:
    """The autoencoder of `config.model`, freshly initialised."""
    m = config.model
    encoder = _build_encoder(config, shape, rngs, predict_variance=predict_variance)
    eisl = {"eisl_share": m.eisl, "ngrams": tuple(m.eisl_ngrams)}
    decoder: TextDecoder
    if m.decoder == "non_autoregressive":
        stack = TransformerConfig(
            width=m.decoder_width,
            depth=m.decoder_depth,
            heads=m.decoder_heads,
            causal=False,
            **stack_options(config),
        )
        decoder = NonAutoregressiveDecoder(
            stack,
            m.latent_dim,
            vocab_size=shape.size,
            length=shape.length,
            pad=shape.end,
            pad_weight=m.pad_weight,
            rngs=rngs,
            **eisl,
        )
    else:
        decoder = written = LatentGPT(
            gpt_config(config, shape, depth=m.decoder_depth),
            m.latent_dim,
            length=shape.length,
            begin=shape.begin,
            end=shape.end,
            unknown=shape.unknown,
            word_dropout=m.word_dropout,
            rngs=rngs,
            **eisl,
        )
        if m.decoder_path:
            written.gpt = _undrawn(written.gpt)
        if m.lora_rank:
            written.gpt = _with_lora(config, written.gpt, rngs.params())
    return TextAutoencoder(
        shape.size,
        shape.length,
        m.latent_dim,
        encoder=encoder,
        decoder=decoder,
        regressor=m.regressor_weight > 0,
        rngs=rngs,
        **denoiser_of(config),
    )


def _build_encoder(
    config: Config, shape: TokenShape, rngs: nnx.Rngs, *, predict_variance: bool
) -> TextEncoder:
    m = config.model
    out_dim = m.latent_dim * (2 if predict_variance else 1)
    sizes = {"width": m.encoder_width, "depth": m.encoder_depth, "heads": m.encoder_heads}
    # Before standardisation a bias has no gradient but rounding, which Adam would amplify.
    bias = predict_variance or m.latent_norm == "none"
    if m.encoder != "bert":
        make = own_encoder(m.encoder)
        return make(
            shape.source_size,
            out_dim,
            max_len=shape.length,
            pad=shape.source_pad,
            out_bias=bias,
            rngs=rngs,
            **sizes,
        )
    if m.encoder_path:
        read = hf.read_config(m.encoder_path, **stack_options(config))
    else:
        read = bert.config(
            shape.source_size,
            max_positions=shape.length,
            pre_norm=m.pre_norm,
            **sizes,
            **stack_options(config),
        )
    encoder = SequenceEncoder(
        read,
        out_dim,
        pad=shape.source_pad,
        per_position=shape.length if m.decoder == "non_autoregressive" else 0,
        out_bias=bias,
        rngs=rngs,
    )
    if m.encoder_path:
        encoder.bert = _undrawn(encoder.bert)
    return encoder


def _undrawn(model: M) -> M:
    """Zeros, which weights from files replace: their random draws would take a compiler minutes."""
    return jax.tree.map(jnp.zeros_like, model)


def load_pretrained(config: Config) -> Callable[[TextAutoencoder], TextAutoencoder] | None:
    """Puts the weights of `model.encoder_path` and `model.decoder_path` into a fresh model; None without."""
    m = config.model
    if not (m.encoder_path or m.decoder_path):
        return None

    def load(model: TextAutoencoder) -> TextAutoencoder:
        if isinstance(model.encoder, SequenceEncoder) and m.encoder_path:
            model.encoder.bert = cast(bert.Bert, hf.load(m.encoder_path, **stack_options(config)))
        if isinstance(model.decoder, LatentGPT) and m.decoder_path:
            gpt = cast(gpt2.GPT, hf.load(m.decoder_path, **stack_options(config)))
            if m.lora_rank:
                adapters, _ = lora.split(model.decoder.gpt)
                gpt = lora.split(_with_lora(config, gpt, jax.random.key(0)))[1](adapters)
            model.decoder.gpt = gpt
        return model

    return load


def pretrained_rates(config: Config) -> dict[str, float]:
    """Factors of the learning rate, by pattern: `model.pretrained_rate` of what was read from files.

    What is new beside it (connectors, noise predictor, low-rank updates) learns at the full rate; weights that have
    learned already are tuned more slowly, as Howard & Ruder (2018) do layer by layer.
    """
    m = config.model
    read = {"^encoder/bert/": m.encoder_path, "^decoder/gpt/(?!.*/[ab]$)": m.decoder_path}
    rate = m.pretrained_rate
    return {pattern: rate for pattern, path in read.items() if path and rate != 1.0}


def _with_lora(config: Config, gpt: gpt2.GPT, key: Key[Array, ""]) -> gpt2.GPT:
    m = config.model
    return lora.wrap(gpt, m.lora_rank, m.lora_alpha, "/attention/", key)


def gpt_config(config: Config, shape: TokenShape, *, depth: int) -> gpt2.GPTConfig:
    """Of the autoregressive decoder, and of the language-model baseline."""
    m = config.model
    if m.decoder_path:
        return hf.read_config(m.decoder_path, **stack_options(config))
    return gpt2.config(
        shape.size,
        width=m.decoder_width,
        depth=depth,
        heads=m.decoder_heads,
        max_positions=shape.length + 1,
        **stack_options(config),
    )


def stack_options(config: Config) -> dict[str, Any]:
    """What the transformers of a config have in common."""
    m = config.model
    return {"dropout": m.dropout, "dtype": m.dtype, "remat": m.remat, "scan": m.scan}
