"""The study on text and on proteins: networks, the language-model baseline, judges, and scores.

Generation is judged by language models (perplexity and reverse perplexity; `evaluators.language_model`).
Reconstruction is decoding of the encoded test split without its tokens. Representation is a linear probe on
latents: of labels by logistic regression, of values by ridge regression.
"""

import dataclasses
import functools
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from experiments.common import text, text_model
from experiments.common.attributes import language_model, pretrained_lm
from experiments.common.runs import open_study
from experiments.eddpm import protein_ascent, sequence_fields, sequence_report, sequence_scores
from experiments.eddpm.systems import Networks, Shown, Trained, generate
from jaxgen.config import Config
from jaxgen.data import corpora
from jaxgen.data.tokens import TextSplit, TokenIds, TokenShape
from jaxgen.evaluators.common import batched_apply, decode, encode
from jaxgen.evaluators.language_model import LanguageModel, lm_task, real_tokens
from jaxgen.evaluators.pretrained_lm import PretrainedLM
from jaxgen.evaluators.protein_regressor import ProteinRegressor
from jaxgen.metrics import floors, mauve
from jaxgen.metrics import text as text_metrics
from jaxgen.models import bert, gpt2, hf
from jaxgen.models.text_autoencoder import TextAutoencoder
from jaxgen.text import decoding
from jaxgen.text.masking import eos_mask
from jaxgen.train.latent_tasks import Batch, Pretrained
from jaxgen.train.runs import Row, Runs, TrainTask
from jaxgen.train.state import parameter_count, run_key


@dataclasses.dataclass(frozen=True)
class SequenceNetworks:
    """Transformers from tokens to z and back; see `systems.Networks`."""

    config: Config
    shape: TokenShape

    def build(self, rngs: nnx.Rngs, *, predict_variance: bool) -> TextAutoencoder:
        """The autoencoder of `config.model`."""
        return text_model.build_autoencoder(
            self.config, self.shape, rngs, predict_variance=predict_variance
        )

    def inputs(self, batch: Batch) -> Batch:
        """Both sides."""
        return batch

    def auxiliary(self, model: TextAutoencoder, z: Array, batch: Batch) -> dict[str, Array]:
        """The joint regressor's loss, where there is one."""
        weight = self.config.model.regressor_weight
        if not weight:
            return {}
        return {"auxiliary": weight * ((model.predict(z) - batch["value"]) ** 2).mean()}

    @property
    def pretrained(self) -> Pretrained | None:
        """Weights from the folders that the config names."""
        return text_model.load_pretrained(self.config)

    @property
    def frozen(self) -> tuple[str, ...]:
        """As the config says."""
        return tuple(self.config.model.frozen)

    @property
    def rates(self) -> dict[str, float]:
        """Of pretrained weights."""
        return text_model.pretrained_rates(self.config)

    def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of a batch, from the config alone."""
        shape = (self.config.train.batch_size, self.shape.length)
        return dict.fromkeys(("source", "target"), jax.ShapeDtypeStruct(shape, jnp.int32))


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("model",), meta_fields=("begin", "end", "length")
)
@dataclasses.dataclass(frozen=True)
class Autoregressive:
    """A trained language model; its representation is the mean of its last states."""

    model: gpt2.GPT
    begin: int
    end: int
    length: int

    def encode(self, x: Mapping[str, Int[Array, "B T"]]) -> Float[Array, "B W"]:
        """Over real positions."""
        h, _, _ = self.model.hidden(x["target"])
        return bert.mean_pool(h, eos_mask(x["target"], self.end))

    @functools.partial(jax.jit, static_argnums=2)
    def sample(self, key: Key[Array, ""], n: int) -> Int[Array, "n T"]:
        """n sequences."""
        begin = jnp.full((n, 1), self.begin, jnp.int32)
        start = self.model.start(begin, max_tokens=self.length)
        options = {"max_tokens": self.length, "eos": self.end, "pad": self.end}
        return decoding.sample(start, key, **options).tokens


def baseline_task(config: Config, shape: TokenShape) -> TrainTask:
    """The autoregressive LM, as deep as encoder and decoder together."""
    m = config.model
    gpt = text_model.gpt_config(config, shape, depth=m.decoder_depth + m.encoder_depth)
    task = lm_task("lm", gpt, shape)
    if not m.decoder_path:
        return task
    load = functools.partial(hf.load, m.decoder_path, **text_model.stack_options(config))
    return dataclasses.replace(task, pretrained=lambda _: load())


@dataclasses.dataclass
class SequenceProblem:
    """A study on text or on proteins; see `systems.Problem`."""

    config: Config
    runs: Runs
    data: dict[str, TextSplit]
    networks: Networks
    judge: LanguageModel = dataclasses.field(init=False)
    pretrained_lm: PretrainedLM | None = dataclasses.field(init=False, default=None)
    regressor: ProteinRegressor | None = dataclasses.field(init=False, default=None)

    @staticmethod
    def check(config: Config) -> None:
        """Raises ConfigError for fields that cannot be, or not together."""
        sequence_fields.check(config)

    @staticmethod
    def networks_of(config: Config) -> SequenceNetworks:
        """From the config alone."""
        return SequenceNetworks(config, text_model.token_shape(config))

    @classmethod
    def open(cls, config: Config, workdir: pathlib.Path, *, may_train: bool) -> "SequenceProblem":
        """Reads the sequences."""
        opened = open_study(config, workdir, text.load, may_train=may_train)
        networks = SequenceNetworks(config, opened.data["train"].vocabulary)
        return cls(config, opened.runs, opened.data, networks)

    def train_judges(self) -> None:
        """The language model of `config.judge`, and a regressor where there are values."""
        train = self.data["train"]
        self.judge = language_model(self.config, self.runs, train)
        self.pretrained_lm = pretrained_lm(self.config, self.runs)
        if train.value is not None:
            self.regressor = ProteinRegressor.train(
                train.vocabulary, train.x["target"], train.value
            )

    def arrays(self) -> dict[str, np.ndarray]:
        """What batches are made of."""
        train = self.data["train"]
        return train.x | ({} if train.value is None else {"value": train.value})

    def train_inputs(self) -> dict[str, TokenIds]:
        """Both sides of the train split."""
        return self.data["train"].x

    def train_baseline(self, name: str, seed: int) -> Trained:
        """The language model."""
        v = self.data["train"].vocabulary
        model = self.runs.fit(baseline_task(self.config, v), seed, self.arrays())
        system = Autoregressive(model, v.begin, v.end, v.length)
        return Trained("LM", system, parameter_count(model))

    def evaluate(self, trained: Trained, seed: int) -> tuple[Row, Mapping[str, Any]]:
        """Reconstruction, samples, and probes of the representation."""
        config, system, label = self.config, trained.system, trained.label
        train = self.data["train"].take(config.judge.probe_rows)
        test = self.data["test"].take(config.judge.test_rows)
        v = train.vocabulary
        z_train, z_test = (batched_apply(encode, system, part.x) for part in (train, test))
        samples = generate(system, run_key(f"samples-{label}-{seed}"), config.sample.count)
        row = {"parameters": float(trained.parameters)}
        row |= self.generation(label, samples, seed)
        row |= sequence_scores.representation(z_train, train, z_test, test)
        shown: dict[str, Any] = {"samples": v.decode(samples)}
        if not hasattr(system, "decode"):
            return row, shown
        if config.model.regressor_weight:
            row |= sequence_scores.regression(system, test)
        restored = batched_apply(decode, system, z_test)
        shown["originals"], shown["restored"] = test.text, v.decode(restored)
        row |= self.reconstruction(test, restored)
        shown["paths"] = sequence_scores.interpolate(system, test, z_test[:5], z_test[5:10])
        if self.regressor is not None and label == "EDDPM":
            shown["ascent"], numbers = protein_ascent.ascend(
                config.ascent, self.runs, self.regressor, system, self.data, seed
            )
            row |= numbers
        return row, shown

    def reconstruction(self, test: TextSplit, restored: TokenIds) -> dict[str, float]:
        """Measures of the test split as ids [N, T] have it."""
        target, texts = test.x["target"], test.vocabulary.decode(restored)
        mask = real_tokens(target, test.vocabulary)
        out = {
            "token_accuracy": text_metrics.token_accuracy(restored, target, mask),
            "exact_match": text_metrics.exact_match(texts, test.text),
        }
        if self.config.data.kind == "text":
            out["bleu"] = text_metrics.bleu(texts, test.text)
        return out

    def generation(self, label: str, samples: TokenIds, seed: int) -> dict[str, float]:
        """Measures of samples [N, T]; `generation` is the geometric mean of the two perplexities."""
        config, v = self.config, self.data["train"].vocabulary
        test = self.data["test"].take(config.judge.test_rows)
        texts = v.decode(samples)
        # Named after the samples, so that other samples never meet a model that was trained on these.
        name = f"reverse_lm-{label.replace(' ', '_')}-{zlib.crc32(samples.tobytes()):08x}"
        reverse = self.judge.reverse_perplexity(name, seed, samples, test.x["target"])
        plain = self.judge.perplexity(samples)
        known = set(self.data["train"].text)
        out = {
            "sample_ppl": plain,
            "reverse_ppl": reverse,
            "generation": float(np.sqrt(plain * reverse)),
            "novel": float(np.mean([t not in known for t in texts])),
            "unique": len(set(texts)) / len(texts),
        }
        if self.regressor is None:
            if self.pretrained_lm is not None:
                out["pretrained_ppl"] = self.pretrained_lm.perplexity(texts)
            out["mauve"] = mauve.mauve(self.features(test.x["target"]), self.features(samples))
            out["self_bleu"] = text_metrics.self_bleu(texts)
            out["distinct_2"] = text_metrics.distinct_n(texts, 2)
            out["diversity"] = text_metrics.diversity(texts)
            # Real sequences' own value is of those that nothing was trained on.
            read = test.text if label == "real" else texts
            out["memorised"] = text_metrics.memorised(read, self.data["train"].text)
            if config.data.source == "grammar":
                out["grammatical"] = float(np.mean([corpora.parse(t) is not None for t in texts]))
            return out
        lengths = [len(s.strip("J-.")) for s in self.data["train"].text]
        low, high = min(lengths), max(lengths)
        ends = (np.diff((samples == v.end).astype(int), axis=1) >= 0).all(1)  # padding comes last
        good = [sequence_scores.valid_protein(t, low, high) for t in texts]
        out["valid"] = float(np.mean(ends & np.array(good)))
        out["predicted_value"] = float(self.regressor.predict(samples).mean())
        return out

    def features(self, targets: TokenIds) -> np.ndarray:
        """Of sequences [N, T] -> [N, D], by the pretrained language model where there is one."""
        if self.pretrained_lm is None:
            return self.judge.features(targets)
        return self.pretrained_lm.features(self.data["train"].vocabulary.decode(targets))

    def real_numbers(self) -> dict[str, float]:
        """What the measures give on real sequences, as many as there are samples."""
        config, v = self.config, self.data["train"].value
        train = self.data["train"].take(config.sample.count)
        test = self.data["test"].take(config.judge.test_rows)
        real = self.generation("real", train.x["target"], 0)
        real["test_ppl"] = self.judge.perplexity(test.x["target"])
        if self.regressor is not None and v is not None and test.value is not None:
            error = self.regressor.predict(test.x["target"]) - test.value
            real["regressor_r2"] = float(1 - (error**2).mean() / test.value.var())
            real["best_decile"] = float(v[v >= np.quantile(v, 0.9)].mean())
        return real

    def floor_rows(self, real: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """What the consensus, a copy, a unigram model, the most frequent class and real sequences score.

        Args:
          real: see `real_numbers`.
        """
        train, test = self.data["train"], self.data["test"].take(self.config.judge.test_rows)
        ids, truth = train.x["target"], test.x["target"]
        mask, counted = (real_tokens(x, train.vocabulary) for x in (ids, truth))
        same = floors.consensus(ids, mask)
        unigram = floors.unigram_perplexity(ids[mask], truth[counted], train.vocabulary.size)
        hidden = ("test_ppl", "regressor_r2", "best_decile")
        rows = {
            "constant consensus": self.reconstruction(test, np.repeat(same[None], len(truth), 0))
            | {"sample_ppl": self.judge.perplexity(same[None])},
            "copy of the input": self.reconstruction(test, truth),
            "unigram": {"reverse_ppl": unigram},
            "data": {k: x for k, x in real.items() if k not in hidden},
        }
        if self.regressor is not None:
            value = float(self.regressor.predict(same[None])[0])
            rows["constant consensus"]["predicted_value"] = value
        if train.label is not None:
            share = floors.majority_accuracy(train.label, np.asarray(test.label))
            rows["majority class"] = {"probe_accuracy": share}
        return rows

    def write_report(self, rows: Sequence[Row], shown: Mapping[str, Shown]) -> pathlib.Path:
        """The report; returns its path."""
        real = self.real_numbers()
        rules, workdir = self.floor_rows(real), self.runs.workdir
        return sequence_report.write(self.config, workdir, self.data, rows, shown, real, rules)

    def save_samples(self, stem: pathlib.Path, x: TokenIds) -> pathlib.Path:
        """New samples, one a line; returns the path."""
        path = stem.with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(self.data["train"].vocabulary.decode(x)) + "\n")
        return path
