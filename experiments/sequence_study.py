"""The study on text and on proteins: networks, likelihood, the language-model baseline, the judges.

Generation is judged by a language model that is trained on real sequences (perplexity of samples) and
by one that is trained on samples and reads real test sequences (reverse perplexity): the first
punishes nonsense, the second missing variety. Reconstruction is decoding of the encoded test split
without its tokens. Representation is a linear probe on latents: of labels by logistic regression, of
values by ridge regression.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int, Key

from experiments import sequence_report, systems
from experiments.study import Study
from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.data import corpora, proteins, text
from jaxgen.errors import ConfigError
from jaxgen.metrics import probes
from jaxgen.metrics import text as text_metrics
from jaxgen.nn import bert, gpt2, hf, sequence
from jaxgen.nn.transformer import Spec
from jaxgen.text import decoding, tokenizers
from jaxgen.train.state import parameter_count

SYSTEMS = ("eddpm", "two_stage", "vae", "lm")

_c = config_lib
RULES: dict[str, config_lib.Rule] = {
    "data.max_tokens": _c.at_least(2),
    "data.vocab_size": _c.at_least(8),
    "data.limit": _c.NON_NEGATIVE,
    "model.decoder": _c.one_of("gpt2", "parallel"),
    "model.encoder_width": _c.at_least(1),
    "model.encoder_depth": _c.at_least(1),
    "model.encoder_heads": _c.at_least(1),
    "model.decoder_width": _c.at_least(1),
    "model.decoder_depth": _c.at_least(1),
    "model.decoder_heads": _c.at_least(1),
    "model.dropout": _c.FRACTION,
    "model.hide_rate": _c.FRACTION,
    "model.pad_weight": _c.NON_NEGATIVE,
    "model.regressor_weight": _c.NON_NEGATIVE,
    "judge.width": _c.at_least(1),
    "judge.depth": _c.at_least(1),
    "judge.heads": _c.at_least(1),
    "judge.steps": _c.at_least(1),
    "judge.reverse_steps": _c.at_least(1),
    "judge.learning_rate": _c.POSITIVE,
    "judge.test_rows": _c.at_least(10),
    "judge.probe_rows": _c.at_least(10),
    "ascent.count": _c.at_least(1),
    "ascent.steps": _c.at_least(1),
    "ascent.rate": _c.POSITIVE,
    "ascent.penalty": _c.NON_NEGATIVE,
}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Sizes and special ids of what encoder (source) and decoder (target) read.

    `decode` turns target ids [N, T] into text; None where only shapes are known.
    """

    size: int
    source_size: int
    length: int
    begin: int
    end: int
    hide: int
    source_pad: int
    decode: Callable[[Any], list[str]] | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """One split: text, its tokens, and labels or values where there are any."""

    text: list[str]
    x: dict[str, Int[np.ndarray, "N T"]]
    vocabulary: Vocabulary
    label: Any = None
    value: Any = None

    def __len__(self) -> int:
        return len(self.text)


def load(config: Config, workdir: pathlib.Path) -> dict[str, Part]:
    """Train, valid and test sequences of `config.data`, as tokens.

    A trained tokenizer is kept in the workdir and read from there the next time.
    """
    data = _load_proteins(config) if config.data.kind == "proteins" else _load_text(config, workdir)
    for split, part in data.items():
        if split != "valid" and len(part) < 10:
            raise ConfigError("data", len(part), f"at least 10 sequences in the {split} split")
    return data


def _load_text(config: Config, workdir: pathlib.Path) -> dict[str, Part]:
    d, m = config.data, config.model
    lines = text.load(
        d.source,
        path=d.path,
        name=d.name,
        train=d.train,
        test=d.test,
        text_field=d.text_field,
        label_field=d.label_field,
        valid_fraction=d.valid_fraction,
        test_fraction=d.test_fraction,
        limit=d.limit,
        seed=d.seed,
    )
    if m.decoder_path:
        target = tokenizers.load(m.decoder_path)
    elif d.tokenizer not in tokenizers.KINDS:
        target = tokenizers.load(d.tokenizer)
    elif (workdir / "tokenizer").is_dir():
        target = tokenizers.load(workdir / "tokenizer")
    else:
        target = tokenizers.train(lines["train"].text, kind=d.tokenizer, vocab_size=d.vocab_size)
        if jax.process_index() == 0:
            target.save_pretrained(workdir / "tokenizer")
    source = tokenizers.load(m.encoder_path) if m.encoder_path else target
    begin, end, _ = tokenizers.special_ids(target)
    vocabulary = Vocabulary(
        size=len(target),
        source_size=len(source),
        length=d.max_tokens,
        begin=begin,
        end=end,
        hide=end if target.unk_token_id is None else target.unk_token_id,
        source_pad=tokenizers.special_ids(source)[2],
        decode=functools.partial(tokenizers.decode, target),
    )
    out = {}
    for split, part in lines.items():
        ids, _ = tokenizers.encode(target, part.text, d.max_tokens)
        read = ids
        if source is not target:
            read, _ = tokenizers.encode(source, part.text, d.max_tokens, begin=True)
        # What the tokens say: text cut at max_tokens is compared with what can be said.
        told = tokenizers.decode(target, ids)
        out[split] = Part(told, {"source": read, "target": ids}, vocabulary, part.label)
    return out


def _load_proteins(config: Config) -> dict[str, Part]:
    d = config.data
    parts = proteins.load(
        d.source,
        path=d.path,
        train=d.train[0] if d.train else "",
        test=d.test[0] if d.test else "",
        sequence_field=d.text_field,
        value_field=d.label_field,
        alphabet=d.alphabet,
        valid_fraction=d.valid_fraction,
        test_fraction=d.test_fraction,
        limit=d.limit,
    )
    everything = [s for part in parts.values() for s in part.text]
    letters = proteins.Alphabet.of(everything)
    length = max(map(len, everything))
    vocabulary = Vocabulary(
        size=len(letters),
        source_size=len(letters),
        length=length,
        begin=proteins.PAD,
        end=proteins.PAD,
        hide=proteins.PAD,
        source_pad=proteins.PAD,
        decode=letters.decode,
    )
    mean, std = parts["train"].value.mean(), max(parts["train"].value.std(), 1e-6)
    out = {}
    for split, part in parts.items():
        ids = letters.encode(part.text, length)
        x = {"source": ids, "target": ids}
        values = part.value
        classes = set(np.unique(values)) <= {0.0, 1.0}
        label = values.astype(np.int32) if classes else None
        out[split] = Part(part.text, x, vocabulary, label, (values - mean) / std)
    return out


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
            hf.read_spec(m.encoder_path, **options)
            if m.encoder_path
            else bert.spec(
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
            places=v.length if m.decoder == "parallel" else 0,
            out_bias=systems.encoder_bias(config, predict_variance),
            rngs=rngs,
        )
        self.decoder: Any
        if m.decoder == "parallel":
            stack = Spec(
                width=m.decoder_width,
                depth=m.decoder_depth,
                heads=m.decoder_heads,
                head_dim=m.decoder_width // m.decoder_heads,
                mlp_width=4 * m.decoder_width,
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
        return hf.read_spec(m.decoder_path, **_options(config))
    return gpt2.spec(
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
            nll, _ = text_metrics.nll(
                model.decoder(z), x["target"], jnp.ones_like(x["target"], bool)
            )
            if m.pad_weight == 1.0:
                return -nll
            pad = x["target"] == v.end
            light, _ = text_metrics.nll(model.decoder(z), x["target"], pad)
            return -nll + (1.0 - m.pad_weight) * light

        def autoregressive(x: Any, z: Array) -> Array:
            logits = model.decoder(
                x["target"], z, begin=v.begin, hide=v.hide, hide_rate=m.hide_rate, key=key
            )
            return -text_metrics.nll(logits, x["target"], sequence.until_end(x["target"], v.end))[0]

        return parallel if m.decoder == "parallel" else autoregressive

    def decode(model: Autoencoder) -> Callable[[Array], Array]:
        if m.decoder == "parallel":
            return lambda z: model.decoder(z).argmax(-1).astype(jnp.int32)

        def run(z: Array) -> Array:
            start = model.decoder.start(z, begin=v.begin, max_tokens=v.length)
            return decoding.greedy(start, max_tokens=v.length, eos=v.end, pad=v.end).tokens

        return run

    def regression(model: Autoencoder, latent: Array, batch: Any) -> Array:
        assert model.regressor is not None
        error = model.regressor(latent)[:, 0] - batch["value"]
        return m.regressor_weight * (error**2).mean()

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
        pretrained=pretrained if m.encoder_path or m.decoder_path else None,
    )


def lm_system(name: str, spec: gpt2.GPTSpec, v: Vocabulary) -> systems.System:
    """A plain autoregressive language model of the targets."""

    def loss(model, extra, batch, key, _):
        nll, count = lm_nll(model, batch["target"], v, key if spec.stack.dropout else None)
        value = nll.sum() / count.sum()
        return value, ({"perplexity": jnp.exp(value)}, extra)

    return systems.System(name, lambda key: gpt2.GPT(spec, rngs=nnx.Rngs(key)), loss)


def lm_nll(
    model: gpt2.GPT, targets: Array, v: Vocabulary, key: Key[Array, ""] | None = None
) -> tuple[Array, Array]:
    """Nats and number of tokens of each row; the end token counts, what follows does not."""
    shifted = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=v.begin)
    logits, _ = model(shifted, key=key)
    return text_metrics.nll(logits, targets, real_tokens(targets, v))


def real_tokens(targets: Array, v: Vocabulary) -> Array:
    """Positions that count: up to the end token (text), or up to the first padding (proteins)."""
    return sequence.until_end(targets, v.end)


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
        start = decoding.prompt(model, begin, max_tokens=v.length)
        return decoding.sample(start, key, max_tokens=v.length, eos=v.end, pad=v.end).tokens

    def encode(x: Any) -> Array:
        h, _ = model.hidden(x["target"])
        return bert.mean_pool(h, real_tokens(x["target"], v))

    trained = systems.Trained(jax.jit(encode), None, jax.jit(sample, static_argnums=1))
    return [("LM", model, trained)]


@dataclasses.dataclass(frozen=True)
class Judge:
    """Trained on real sequences alone, with seeds of their own.

    Attributes:
      lm: a language model.
      regressor: sequences -> values (gradient-boosted trees on one-hot letters), or None.
    """

    lm: gpt2.GPT
    vocabulary: Vocabulary
    regressor: Any

    @classmethod
    def train(cls, study: Study) -> "Judge":
        """Trains what is not trained yet."""
        config, train = study.config, study.data["train"]
        lm = fit_judge_lm(
            study, "judge_lm", 1000, {"target": train.x["target"]}, config.judge.steps
        )
        regressor = None
        if train.value is not None:
            from sklearn.ensemble import HistGradientBoostingRegressor

            regressor = HistGradientBoostingRegressor(max_iter=300, random_state=0)
            regressor.fit(one_hot(train.x["target"], train.vocabulary), train.value)
        return cls(lm, train.vocabulary, regressor)

    def perplexity(self, targets: np.ndarray) -> float:
        """Of sequences under the language model of real sequences."""
        return lm_perplexity(self.lm, targets, self.vocabulary)

    def predict(self, targets: np.ndarray) -> np.ndarray:
        """Values of sequences, standardised as in training."""
        return self.regressor.predict(one_hot(targets, self.vocabulary))


def one_hot(targets: np.ndarray, v: Vocabulary) -> np.ndarray:
    """[N, T] ids -> [N, T * size]."""
    return (targets[..., None] == np.arange(v.size)).reshape(len(targets), -1).astype(np.float32)


def fit_judge_lm(
    study: Study, name: str, seed: int, arrays: dict[str, Any], steps: int
) -> gpt2.GPT:
    """A language model of `config.judge`'s size on the given sequences."""
    j, v = study.config.judge, study.data["train"].vocabulary
    spec = gpt2.spec(
        v.size, width=j.width, depth=j.depth, heads=j.heads, max_positions=v.length + 1, dropout=0.1
    )
    system = lm_system(name, spec, v)
    return study.fit(system, seed, arrays, steps=steps, learning_rate=j.learning_rate)


def lm_perplexity(model: gpt2.GPT, targets: np.ndarray, v: Vocabulary) -> float:
    """Of a token, the end token included."""
    return text_metrics.perplexity(jax.jit(lambda t: lm_nll(model, t, v)), targets)


def evaluate(
    study: Study, judge: Judge, label: str, model: Any, t: systems.Trained, seed: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """The row of numbers of one trained system, and the sequences and latents behind it."""
    config, v = study.config, judge.vocabulary
    train = take_rows(study.data["train"], config.judge.probe_rows)
    test = take_rows(study.data["test"], config.judge.test_rows)
    z_train, z_test = (systems.in_batches(t.encode, part.x) for part in (train, test))
    samples = t.generate(jax.random.key(seed + 1_000_003), config.sample.count)
    row = {"parameters": float(parameter_count(model))}
    row |= generation(study, judge, label, samples, seed) | representation(
        z_train, train, z_test, test
    )
    shown: dict[str, Any] = {"samples": v.decode(samples)}  # type: ignore[misc]
    if t.decode is not None:
        restored = systems.in_batches(t.decode, z_test)
        shown["originals"], shown["restored"] = test.text, v.decode(restored)  # type: ignore[misc]
        mask = np.asarray(real_tokens(jnp.asarray(test.x["target"]), v))
        row |= {
            "token_accuracy": text_metrics.token_accuracy(restored, test.x["target"], mask),
            "exact_match": text_metrics.exact_match(shown["restored"], test.text),
        }
        if config.data.kind == "text":
            row["bleu"] = text_metrics.bleu(shown["restored"], test.text)
        shown["paths"] = interpolate(t, v, z_test[:5], z_test[5:10])
        if judge.regressor is not None and label == "EDDPM":
            shown["ascent"] = sequence_report.ascend(config, judge, model, t, train, z_train)
    return row, shown


def generation(
    study: Study, judge: Judge, label: str, samples: np.ndarray, seed: int
) -> dict[str, float]:
    """Measures of samples [N, T]; `generation` is the geometric mean of the two perplexities."""
    config, v = study.config, judge.vocabulary
    test = take_rows(study.data["test"], config.judge.test_rows)
    texts = v.decode(samples)  # type: ignore[misc]
    name = f"reverse_lm-{label.replace(' ', '_')}"
    arrays = {"target": samples}
    reader = fit_judge_lm(study, name, seed, arrays, config.judge.reverse_steps)
    plain = judge.perplexity(samples)
    reverse = lm_perplexity(reader, test.x["target"], v)
    known = set(study.data["train"].text)
    out = {
        "sample_ppl": plain,
        "reverse_ppl": reverse,
        "generation": float(np.sqrt(plain * reverse)),
        "novel": float(np.mean([t not in known for t in texts])),
        "unique": len(set(texts)) / len(texts),
    }
    if config.data.kind == "text":
        out["self_bleu"] = text_metrics.self_bleu(texts)
        out["distinct_2"] = text_metrics.distinct_n(texts, 2)
        if config.data.source == "grammar":
            out["grammatical"] = float(np.mean([corpora.parse(t) is not None for t in texts]))
        return out
    lengths = [len(s.strip("J-.")) for s in study.data["train"].text]
    low, high = min(lengths), max(lengths)
    out["valid"] = float(np.mean([valid_protein(t, low, high) for t in texts]))
    out["predicted_value"] = float(judge.predict(samples).mean())
    return out


def valid_protein(sequence_text: str, low: int, high: int) -> bool:
    """Whether gaps stand at the ends only and the length is one that training data have."""
    inner = sequence_text.strip("J-.")
    return low <= len(inner) <= high and not set(inner) & set("J-.")


def representation(z_train: Any, train: Part, z_test: Any, test: Part) -> dict[str, float]:
    """Linear probes of what the data have: labels, values, or both."""
    out = {"latent_std": float(z_train.std(0).mean())}
    if train.value is not None:
        out["probe_r2"], out["probe_spearman"], _ = probes.ridge_probe(
            z_train, train.value, z_test, test.value
        )
    if train.label is not None:
        out["probe_accuracy"], _ = probes.linear_probe(z_train, train.label, z_test, test.label)
    return out


def take_rows(part: Part, count: int) -> Part:
    """At most `count` rows, evenly spread."""
    if count >= len(part):
        return part
    index = np.linspace(0, len(part) - 1, count).round().astype(int)
    return Part(
        [part.text[i] for i in index],
        {k: a[index] for k, a in part.x.items()},
        part.vocabulary,
        None if part.label is None else part.label[index],
        None if part.value is None else part.value[index],
    )


def interpolate(t: systems.Trained, v: Vocabulary, a: Any, b: Any) -> list[list[str]]:
    """Texts along the straight line from each row of a to that of b, ends included."""
    assert t.decode is not None
    weights = np.linspace(0.0, 1.0, 6)[:, None, None]
    z = (1 - weights) * a + weights * b
    texts = v.decode(systems.in_batches(t.decode, z.reshape(-1, a.shape[-1])))  # type: ignore[misc]
    return [texts[i :: len(a)] for i in range(len(a))]


def real_numbers(study: Study, judge: Judge) -> dict[str, float]:
    """What the measures give on real sequences, as many as there are samples."""
    config = study.config
    train = take_rows(study.data["train"], config.sample.count)
    test = take_rows(study.data["test"], config.judge.test_rows)
    real = generation(study, judge, "real", train.x["target"], 0)
    real["test_ppl"] = judge.perplexity(test.x["target"])
    if judge.regressor is not None:
        error = judge.predict(test.x["target"]) - test.value
        real["regressor_r2"] = float(1 - (error**2).mean() / test.value.var())
        value = study.data["train"].value
        real["best_decile"] = float(value[value >= np.quantile(value, 0.9)].mean())
    return real


def write(
    study: Study,
    judge: Judge,
    rows: Sequence[Mapping[str, Any]],
    shown: Mapping[str, tuple[systems.Trained, Mapping[str, Any]]],
) -> pathlib.Path:
    """The report; returns its path."""
    real = real_numbers(study, judge)
    return sequence_report.write(study.config, study.workdir, study.data, rows, shown, real)


def save_samples(study: Study, stem: pathlib.Path, x: Any) -> pathlib.Path:
    """New samples, one a line; returns the path."""
    path = stem.with_suffix(".txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(study.data["train"].vocabulary.decode(x)) + "\n")
    return path
