"""How text and proteins are judged: language models, a regressor, reconstruction, probes.

Generation is judged by a language model that is trained on real sequences (perplexity of samples) and
by one that is trained on samples and reads real test sequences (reverse perplexity): the first
punishes nonsense, the second missing variety. Reconstruction is decoding of the encoded test split
without its tokens. Representation is a linear probe on latents: of labels by logistic regression, of
values by ridge regression.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Key

from experiments import protein_ascent, systems
from experiments.sequence_data import Part, Vocabulary, take_rows
from experiments.study import Study
from jaxgen.data import corpora
from jaxgen.metrics import floors, probes
from jaxgen.metrics import text as text_metrics
from jaxgen.models import gpt2
from jaxgen.text import masking
from jaxgen.train.state import parameter_count, run_key


def lm_system(name: str, spec: gpt2.GPTConfig, v: Vocabulary) -> systems.System:
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
    shifted = masking.shift_right(targets, v.begin)
    logits, _ = model(shifted, key=key)
    return text_metrics.nll(logits, targets, real_tokens(targets, v))


_lm_nll = jax.jit(lm_nll, static_argnums=2)


def real_tokens(targets: Array, v: Vocabulary) -> Array:
    """Positions that count: up to the end token (text), or up to the first padding (proteins)."""
    return masking.eos_mask(targets, v.end)


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
    spec = gpt2.config(
        v.size, width=j.width, depth=j.depth, heads=j.heads, max_positions=v.length + 1, dropout=0.1
    )
    system = lm_system(name, spec, v)
    return study.fit(system, seed, arrays, steps=steps, learning_rate=j.learning_rate, judging=True)


def lm_perplexity(model: gpt2.GPT, targets: np.ndarray, v: Vocabulary) -> float:
    """Of a token, the end token included."""
    return text_metrics.perplexity(lambda t: _lm_nll(model, t, v), targets)


def evaluate(
    study: Study, judge: Judge, label: str, model: Any, t: systems.Trained, seed: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """The row of numbers of one trained system, and the sequences and latents behind it."""
    config, v = study.config, judge.vocabulary
    train = take_rows(study.data["train"], config.judge.probe_rows)
    test = take_rows(study.data["test"], config.judge.test_rows)
    z_train, z_test = (systems.in_batches(t.encode, part.x) for part in (train, test))
    samples = t.generate(run_key(f"samples-{label}-{seed}"), config.sample.count)
    row = {"parameters": float(parameter_count(model))}
    row |= generation(study, judge, label, samples, seed) | representation(
        z_train, train, z_test, test
    )
    shown: dict[str, Any] = {"samples": v.decode(samples)}  # type: ignore[misc]
    if t.predict is not None:
        from scipy.stats import spearmanr

        guess = systems.in_batches(t.predict, test.x)
        row["regressor_r2"] = 1.0 - float(((guess - test.value) ** 2).mean() / test.value.var())
        row["regressor_spearman"] = float(spearmanr(guess, test.value).statistic)
    if t.decode is not None:
        restored = systems.in_batches(t.decode, z_test)
        shown["originals"], shown["restored"] = test.text, v.decode(restored)  # type: ignore[misc]
        row |= reconstruction(study, test, restored)
        shown["paths"] = interpolate(t, v, z_test[:5], z_test[5:10])
        if judge.regressor is not None and label == "EDDPM":
            shown["ascent"], numbers = protein_ascent.ascend(
                study, judge, t, study.data["train"], study.data["test"], seed
            )
            row |= numbers
    return row, shown


def reconstruction(study: Study, test: Part, restored: np.ndarray) -> dict[str, float]:
    """Measures of the test split as ids [N, T] have it."""
    v, target = test.vocabulary, test.x["target"]
    texts = v.decode(restored)  # type: ignore[misc]
    mask = np.asarray(real_tokens(jnp.asarray(target), v))
    out = {
        "token_accuracy": text_metrics.token_accuracy(restored, target, mask),
        "exact_match": text_metrics.exact_match(texts, test.text),
    }
    if study.config.data.kind == "text":
        out["bleu"] = text_metrics.bleu(texts, test.text)
    return out


def generation(
    study: Study, judge: Judge, label: str, samples: np.ndarray, seed: int
) -> dict[str, float]:
    """Measures of samples [N, T]; `generation` is the geometric mean of the two perplexities."""
    config, v = study.config, judge.vocabulary
    test = take_rows(study.data["test"], config.judge.test_rows)
    texts = v.decode(samples)  # type: ignore[misc]
    # Named after the samples, so that other samples never meet a model that was trained on these.
    name = f"reverse_lm-{label.replace(' ', '_')}-{zlib.crc32(samples.tobytes()):08x}"
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
    ends = (np.diff((samples == v.end).astype(int), axis=1) >= 0).all(1)  # padding comes last
    good = [valid_protein(t, low, high) for t in texts]
    out["valid"] = float(np.mean(ends & np.array(good)))
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


def floor_rows(
    study: Study, judge: Judge, real: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """What the consensus, a copy, a unigram model, the most frequent class and real sequences score.

    Args:
      real: see `real_numbers`.
    """
    v, train = judge.vocabulary, study.data["train"]
    test = take_rows(study.data["test"], study.config.judge.test_rows)
    ids, truth = train.x["target"], test.x["target"]
    mask, counted = (np.asarray(real_tokens(jnp.asarray(x), v)) for x in (ids, truth))
    same = floors.consensus(ids, mask)
    made = np.repeat(same[None], len(truth), 0)
    rows = {
        "constant consensus": reconstruction(study, test, made)
        | {"sample_ppl": judge.perplexity(same[None])},
        "copy of the input": reconstruction(study, test, truth),
        "unigram": {"reverse_ppl": floors.unigram_perplexity(ids[mask], truth[counted], v.size)},
        "data": {
            k: x for k, x in real.items() if k not in ("test_ppl", "regressor_r2", "best_decile")
        },
    }
    if judge.regressor is not None:
        rows["constant consensus"]["predicted_value"] = float(judge.predict(same[None])[0])
    if train.label is not None:
        share = floors.majority_accuracy(train.label, test.label)
        rows["majority class"] = {"probe_accuracy": share}
    return rows
