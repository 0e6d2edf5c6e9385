"""The study on text and on proteins: networks, likelihood, and the language-model baseline."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from experiments import checks, sequence_report, systems
from experiments.sequence_data import Part, Vocabulary, load
from experiments.sequence_judge import (
    Judge,
    evaluate,
    floor_rows,
    lm_system,
    real_numbers,
    real_tokens,
)
from experiments.study import Study
from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.data import proteins, text
from jaxgen.errors import ConfigError
from jaxgen.losses import eisl
from jaxgen.metrics import text as text_metrics
from jaxgen.models import bert, gpt2, hf
from jaxgen.nn import sequence
from jaxgen.nn.transformer import TransformerConfig
from jaxgen.text import decoding, masking

__all__ = ["Judge", "evaluate", "load"]  # parts of what `experiments.eddpm` asks of a kind of data

SYSTEMS = ("eddpm", "two_stage", "vae", "lm")

# Of data, networks and judges: what any study on sequences reads.
MODEL_NAMES = {
    **checks.NAMES,
    "data": "kind source path name train test text_field label_field valid_fraction test_fraction "
    "limit max_words seed max_tokens tokenizer vocab_size source_vocab_size alphabet",
    "model": "latent_dim latent_norm encoder_width encoder_depth encoder_heads encoder_path pre_norm "
    "decoder decoder_width decoder_depth decoder_heads decoder_path word_dropout pad_weight eisl "
    "eisl_ngrams regressor_weight denoiser_width denoiser_depth dropout dtype remat scan",
    "judge": "width depth heads steps reverse_steps learning_rate test_rows probe_rows",
}
NAMES = {
    **MODEL_NAMES,
    "": "seed seeds systems",
    **systems.NAMES,
    "vae": "betas anneal_steps free_bits",
    "two_stage": "beta",
    "ascent": "count stages steps rate penalty keep noise width depth train_steps batch_size "
    "learning_rate",
}
MODEL_RULES: dict[str, config_lib.Rule] = {
    "data.kind": config_lib.one_of("text", "proteins"),
    "data.source": config_lib.one_of(*text.SOURCES, "csv", *proteins.SETS),
    "model.decoder": config_lib.one_of("gpt2", "parallel"),
    "model.eisl": config_lib.number(0.0, 1.0),
}


def check(config: Config) -> None:
    """Raises ConfigError for fields that cannot be, or not together."""
    rules = {**MODEL_RULES, "systems": config_lib.some_of(*SYSTEMS)}
    config_lib.check_fields(config, NAMES, rules)
    check_sequences(config)


def check_sequences(config: Config) -> None:
    """What data, networks and judges of any study on sequences have to be together."""
    d, m = config.data, config.model
    for network in ("model.encoder", "model.decoder"):
        checks.check_divides(config, f"{network}_heads", f"{network}_width")
    checks.check_divides(config, "judge.heads", "judge.width")
    checks.check_fractions(config, test=d.source == "grammar" or not d.test)
    checks.check_tokenizer(config)
    (check_text if d.kind == "text" else check_proteins)(config)
    if m.decoder_path and m.decoder != "gpt2":
        raise ConfigError("model.decoder_path", m.decoder_path, "'' for a parallel decoder")
    checks.check_pretrained(config, "model.encoder_path", ("bert",), d.max_tokens)
    gpts = ("gpt2", "gpt_neo")
    checks.check_pretrained(config, "model.decoder_path", gpts, d.max_tokens + 1)


def check_text(config: Config) -> None:
    """Where sentences come from, and what has to be said of a source."""
    d = config.data
    config_lib.check(config, {"data.source": config_lib.one_of(*text.SOURCES)})
    checks.check_ngrams(config, "model.eisl_ngrams", d.max_tokens)
    if config.model.regressor_weight:
        raise ConfigError("model.regressor_weight", config.model.regressor_weight, "0 for text")
    if d.source in ("files", "table") and not d.train:
        raise ConfigError("data.train", d.train, f"at least one file name, for source {d.source}")
    if d.source in ("hf", "tfds") and not d.name:
        raise ConfigError("data.name", d.name, f"the name of a data set, for source {d.source}")
    if d.source in ("table", "hf", "tfds") and not d.text_field:
        raise ConfigError("data.text_field", d.text_field, "the column of the sentences")
    if d.source == "grammar" and d.limit > 10**7:
        raise ConfigError("data.limit", d.limit, "at most 10000000 sentences of the grammar")


def check_proteins(config: Config) -> None:
    """Where proteins come from."""
    d = config.data
    config_lib.check(config, {"data.source": config_lib.one_of("csv", *proteins.SETS)})
    if d.source == "csv" and len(d.train) != 1:
        raise ConfigError("data.train", d.train, "one file name")
    if len(d.test) > 1:
        raise ConfigError("data.test", d.test, "one file name, or none")
    for field in ("encoder_path", "decoder_path"):
        if config.model[field]:
            raise ConfigError(f"model.{field}", config.model[field], "'' for proteins")


def x_of(part: Part) -> Any:
    """What encoders and likelihoods see of a split."""
    return part.x


def train_arrays(study: Study) -> dict[str, Any]:
    """What batches are made of."""
    train = study.data["train"]
    return train.x | ({} if train.value is None else {"value": train.value})


def domain(study: Study) -> systems.Domain:
    """See `make_domain`."""
    return make_domain(study.config, study.data["train"].vocabulary)


def abstract_domain(config: Config) -> tuple[systems.Domain, dict[str, Any]]:
    """The domain and the shapes of a batch, from the config alone, for `--mode=compile`."""
    d, rows = config.data, config.train.batch_size
    source = d.source_vocab_size or d.vocab_size
    vocabulary = Vocabulary(d.vocab_size, source, d.max_tokens, 0, 0, 0, 0)
    ids = jax.ShapeDtypeStruct((rows, d.max_tokens), jnp.int32)
    return make_domain(config, vocabulary), {"source": ids, "target": ids}


def _options(config: Config) -> dict[str, Any]:
    """Fields of both stacks' specs."""
    m = config.model
    return {"dropout": m.dropout, "dtype": m.dtype, "remat": m.remat, "scan": m.scan}


class Autoencoder(nnx.Module):
    """Encoder, decoder, the MLP of `systems`, and a regressor on latents where one is wanted."""

    def __init__(
        self, config: Config, vocabulary: Vocabulary, *, predict_variance: bool, rngs: nnx.Rngs
    ):
        m, v = config.model, vocabulary
        options = _options(config)
        read = (
            hf.read_config(m.encoder_path, **options)
            if m.encoder_path
            else bert.config(
                v.source_size,
                width=m.encoder_width,
                depth=m.encoder_depth,
                heads=m.encoder_heads,
                max_positions=v.length,
                pre_norm=m.pre_norm,
                **options,
            )
        )
        self.encoder = sequence.SequenceEncoder(
            read,
            m.latent_dim * (2 if predict_variance else 1),
            pad=v.source_pad,
            per_position=v.length if m.decoder == "parallel" else 0,
            out_bias=systems.encoder_bias(config, predict_variance),
            rngs=rngs,
        )
        self.decoder: Any
        if m.decoder == "parallel":
            stack = TransformerConfig(
                width=m.decoder_width,
                depth=m.decoder_depth,
                heads=m.decoder_heads,
                causal=False,
                **options,
            )
            self.decoder = sequence.ParallelDecoder(
                stack, v.size, v.length, m.latent_dim, rngs=rngs
            )
        else:
            spec = gpt_spec(config, v, depth=m.decoder_depth)
            self.decoder = sequence.LatentGPT(spec, m.latent_dim, rngs=rngs)
        self.mlp = systems.build_mlp(config, rngs)
        self.regressor = (
            nnx.Sequential(
                nnx.Linear(m.latent_dim, 64, rngs=rngs), jax.nn.silu, nnx.Linear(64, 1, rngs=rngs)
            )
            if m.regressor_weight
            else None
        )


def gpt_spec(config: Config, v: Vocabulary, *, depth: int) -> Any:
    """Of the autoregressive decoder, and of the language-model baseline."""
    m = config.model
    if m.decoder_path:
        return hf.read_config(m.decoder_path, **_options(config))
    return gpt2.config(
        v.size,
        width=m.decoder_width,
        depth=depth,
        heads=m.decoder_heads,
        max_positions=v.length + 1,
        **_options(config),
    )


def make_domain(config: Config, vocabulary: Vocabulary) -> systems.Domain:
    """Transformers from tokens to z and back."""
    m, v = config.model, vocabulary

    def logprob(model: Autoencoder, key: Key[Array, ""]) -> systems.Logprob:
        def parallel(x: Any, z: Array) -> Array:
            logits, pad = model.decoder(z), x["target"] == v.end
            if m.eisl:
                share = {"ngram_factor": m.eisl, "ce_factor": 1.0 - m.eisl}
                a_token = eisl.mixed_loss(logits, x["target"], ngrams=m.eisl_ngrams, **share)
                return -a_token * v.length
            nll, _ = text_metrics.nll(logits, x["target"], jnp.ones_like(pad))
            light, _ = text_metrics.nll(logits, x["target"], pad)
            return -nll + (1.0 - m.pad_weight) * light

        def autoregressive(x: Any, z: Array) -> Array:
            target = x["target"]
            real = masking.eos_mask(target, v.end)
            options: dict[str, Any] = {"begin": v.begin, "unknown": v.unknown}
            logits = model.decoder(target, z, **options, word_dropout=m.word_dropout, key=key)
            nll = text_metrics.nll(logits, target, real)[0]
            if not m.eisl:
                return -nll
            # EISL of what the decoder says when it reads its own output: reading the target, it would
            # only have to repeat the token before.
            own = decode(jax.lax.stop_gradient(model))(jax.lax.stop_gradient(z))
            a_token = eisl.eisl_loss(
                model.decoder(own, z, **options),
                target,
                ngrams=m.eisl_ngrams,
                logits_mask=masking.eos_mask(own, v.end),
                targets_mask=real,
            )
            return -(1.0 - m.eisl) * nll - m.eisl * a_token * real.sum(-1)

        return parallel if m.decoder == "parallel" else autoregressive

    def decode(model: Autoencoder) -> Callable[[Array], Array]:
        if m.decoder == "parallel":
            return lambda z: model.decoder(z).argmax(-1).astype(jnp.int32)

        def run(z: Array) -> Array:
            start = model.decoder.start(z, begin=v.begin, max_tokens=v.length)
            return decoding.greedy(start, max_tokens=v.length, eos=v.end, pad=v.end).tokens

        return run

    def predict(model: Autoencoder, latent: Array) -> Array:
        assert model.regressor is not None
        return model.regressor(latent)[:, 0]

    def regression(model: Autoencoder, latent: Array, batch: Any) -> Array:
        return m.regressor_weight * ((predict(model, latent) - batch["value"]) ** 2).mean()

    def pretrained(model: Autoencoder) -> Autoencoder:
        if m.encoder_path:
            loaded: Any = hf.load(m.encoder_path, **_options(config))
            model.encoder.bert = loaded
        if m.decoder_path:
            model.decoder.gpt = hf.load(m.decoder_path, **_options(config))
        return model

    return systems.Domain(
        build=lambda predict_variance, rngs: Autoencoder(
            config, vocabulary, predict_variance=predict_variance, rngs=rngs
        ),
        encode=lambda model, x: model.encoder(x["source"]),
        logprob=logprob,
        decode=decode,
        auxiliary=regression if m.regressor_weight else None,
        predict=predict if m.regressor_weight else None,
        pretrained=pretrained if m.encoder_path or m.decoder_path else None,
    )


def train_baseline(study: Study, name: str, seed: int) -> list[tuple[str, Any, systems.Trained]]:
    """The autoregressive LM, as deep as encoder and decoder together."""
    config, v = study.config, study.data["train"].vocabulary
    m = config.model
    spec = gpt_spec(config, v, depth=m.decoder_depth + m.encoder_depth)
    system = lm_system("lm", spec, v)
    if m.decoder_path:
        load_gpt = functools.partial(hf.load, m.decoder_path, **_options(config))
        system = dataclasses.replace(system, pretrained=lambda _: load_gpt())
    model = study.fit(system, seed, train_arrays(study))

    def sample(key: Key[Array, ""], n: int) -> Array:
        begin = jnp.full((n, 1), v.begin, jnp.int32)
        start = model.start(begin, max_tokens=v.length)
        return decoding.sample(start, key, max_tokens=v.length, eos=v.end, pad=v.end).tokens

    def encode(x: Any) -> Array:
        h, _, _ = model.hidden(x["target"])
        return bert.mean_pool(h, real_tokens(x["target"], v))

    trained = systems.Trained(jax.jit(encode), None, jax.jit(sample, static_argnums=1))
    return [("LM", model, trained)]


def write(
    study: Study,
    judge: Judge,
    rows: Sequence[Mapping[str, Any]],
    shown: Mapping[str, tuple[systems.Trained, Mapping[str, Any]]],
) -> pathlib.Path:
    """The report; returns its path."""
    real = real_numbers(study, judge)
    rules = floor_rows(study, judge, real)
    return sequence_report.write(study.config, study.workdir, study.data, rows, shown, real, rules)


def save_samples(study: Study, stem: pathlib.Path, x: Any) -> pathlib.Path:
    """New samples, one a line; returns the path."""
    path = stem.with_suffix(".txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(study.data["train"].vocabulary.decode(x)) + "\n")
    return path
