"""Numbers of a system's texts, the table with what needs no network, curves of all seeds, and sentences."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.common.runs import Study
from experiments.lm_discriminator import writing
from experiments.lm_discriminator.corpus import Corpus, Part
from experiments.lm_discriminator.systems import SYSTEMS
from experiments.lm_discriminator.writing import Judges, Readers
from jaxgen.config import Config
from jaxgen.data import cipher, kept
from jaxgen.metrics import text as text_metrics
from jaxgen.models.style_transfer import StyleTransfer
from jaxgen.train import markup, plots, report
from jaxgen.train.runs import Row
from jaxgen.train.writers import read_metrics

SHOWN = 40
DECIPHER = {
    "bleu": "BLEU deciphered ↑",
    "token_accuracy": "token accuracy ↑",
    "key_accuracy": "key accuracy ↑",
    "bleu_enciphered": "BLEU enciphered ↑",
    "scatter": "scatter of valid BLEU ↓",
}
RELATED = {
    "bleu": "BLEU into the first ↑",
    "bleu_enciphered": "BLEU into the second ↑",
    "token_accuracy": "token accuracy ↑",
    "scatter": "scatter of valid BLEU ↓",
}
SENTIMENT = {
    "accuracy": "accuracy (CNN) ↑",
    "accuracy_words": "accuracy (word n-grams) ↑",
    "bleu": "BLEU to source",
    "ppl_0": "PPL, negative ↓",
    "ppl_1": "PPL, positive ↓",
    "copies": "copies",
    "length_ratio": "length ratio",
    "distinct_2": "distinct-2 ↑",
    "scatter": "scatter of valid BLEU ↓",
}
Texts = Sequence[list[str]]  # of the rows of style 0, moved to style 1, and the other way round


def numbers(corpus: Corpus, written: Texts, judges: Judges | None) -> dict[str, float]:
    """Of test sentences that were moved to the other style."""
    return moved(corpus, corpus.test, written, judges) if judges else read(corpus, written)


def read(corpus: Corpus, written: Texts) -> dict[str, float]:
    """Of decipherment or translation, where the truth is known; the first way is that from style 1 to style 0."""
    (secret, truth), (_, enciphered) = _sides(corpus.test[1]), _sides(corpus.test[0])
    pairs = [(a.split(), b.split()) for a, b in zip(written[1], truth, strict=True)]
    same = [x == y for a, b in pairs for x, y in zip(a, b, strict=False)]
    row = {
        "bleu": text_metrics.bleu(written[1], truth),
        "bleu_enciphered": text_metrics.bleu(written[0], enciphered),
        "token_accuracy": sum(same) / max(sum(len(b) for _, b in pairs), 1),
    }
    if corpus.puzzle:
        found = cipher.read_key(secret, written[1])
        row["key_accuracy"] = cipher.key_accuracy(found, corpus.puzzle.key, secret)
    return row


def moved(
    corpus: Corpus, parts: tuple[Part, Part], written: Texts, judges: Judges
) -> dict[str, float]:
    """Of sentiment, by judges."""
    texts, source = [*written[0], *written[1]], [*parts[0].text, *parts[1].text]
    asked = np.repeat([1, 0], [len(written[0]), len(written[1])])
    lms = judges.readers.lms
    words = [sum(len(t.split()) for t in side) for side in (texts, source)]
    return {
        "accuracy": float(
            (writing.classify(judges.readers.classifier, corpus, texts) == asked).mean()
        ),
        "accuracy_words": float((judges.words(texts) == asked).mean()),
        "bleu": text_metrics.bleu(texts, source),
        "ppl_0": writing.perplexity(lms[0], corpus, written[1]),
        "ppl_1": writing.perplexity(lms[1], corpus, written[0]),
        "copies": text_metrics.exact_match(texts, source),
        "length_ratio": words[0] / words[1],
        "distinct_2": text_metrics.distinct_n(texts, 2),
    }


def progress(
    config: Config, corpus: Corpus, g: StyleTransfer, readers: Readers
) -> dict[str, float]:
    """Of validation sentences while a system is trained; a written LM loss far below the real one is an alarm."""
    written = [writing.write(config, corpus, g, part, i) for i, part in enumerate(corpus.valid)]
    goal = [part.reference or part.text for part in corpus.valid]
    loss = [
        np.log(writing.perplexity(readers.lms[1 - i], corpus, t)) for i, t in enumerate(written)
    ]
    real = [
        np.log(writing.perplexity(readers.lms[i], corpus, p.text))
        for i, p in enumerate(corpus.valid)
    ]
    texts, source = [*written[0], *written[1]], [*corpus.valid[0].text, *corpus.valid[1].text]
    return {
        "valid_bleu": text_metrics.bleu(written[1], goal[1]),
        "valid_bleu_back": text_metrics.bleu(written[0], goal[0]),
        "valid_lm_written": float(np.mean(loss)),
        "valid_lm_real": float(np.mean(real)),
        "valid_copies": text_metrics.exact_match(texts, source),
    }


def scatter(steps: Sequence[float], values: Sequence[float]) -> float:
    """Standard deviation over the last half of training, after a straight line is taken out."""
    half = len(steps) // 2
    x, y = np.asarray(steps[half:], float), np.asarray(values[half:], float)
    if len(x) < 3:
        return float("nan")
    return float(np.std(y - np.polyval(np.polyfit(x, y, 1), x), ddof=2))


def baselines(corpus: Corpus) -> dict[str, dict[str, float]]:
    """What needs no network, where the truth is known: copies; and of a cipher, its classical solutions."""
    if corpus.judged:
        return {}
    found = {"copy": numbers(corpus, [part.text for part in corpus.test], None)}
    if corpus.puzzle is None:
        return found
    p, (secret, _) = corpus.puzzle, _sides(corpus.test[1])
    matched = cipher.frequency_match(p.plain, p.cipher)
    for name, guess in (
        ("frequency matching", matched),
        ("+ hill climbing", cipher.climb(p.plain, p.cipher, matched)),
    ):
        back = cipher.apply(cipher.invert(guess), corpus.test[0].text)
        found[name] = numbers(corpus, [back, cipher.apply(guess, secret)], None)
    return found


def write(study: Study[Corpus], rows: list[Row], judges: Judges | None) -> pathlib.Path:
    """The page; returns its path."""
    config, corpus = study.config, study.data
    names = {SYSTEMS[name].title: name for name in config.systems}
    curves = _curves(study, names)
    for row in rows:
        row["scatter"] = scatter(*curves.get((names[row["system"]], row["seed"]), ((), ())))
    rules = baselines(corpus)
    if judges:
        copied = [part.text for part in corpus.test]
        rules["copy"] = moved(corpus, corpus.test, copied, judges)
        others = corpus.test[1].text, corpus.test[0].text
        real = moved(corpus, (corpus.test[1], corpus.test[0]), others, judges)
        rules["real target text"] = {
            k: real[k] for k in ("accuracy", "accuracy_words", "ppl_0", "ppl_1", "distinct_2")
        }
    page = report.Report("Language models as discriminators", study.workdir, config)
    page.text(_about(config, corpus))
    page.section("Results")
    columns = {"decipher": DECIPHER, "sentiment": SENTIMENT, "related": RELATED}[config.task]
    numbers_of = [{k: v for k, v in row.items() if k != "samples"} for row in rows]
    page.comparison(numbers_of, columns, rules=rules)
    page.section("Validation while training")
    drawn = plots.plot_training(
        study.workdir / "samples", {"": study.workdir}, metrics=("valid_bleu",)
    )
    for path in drawn.values():
        page.plot("BLEU of validation text, all seeds", f"samples/{path.name}")
    page.section("Sentences")
    mine = [r for r in rows if r["seed"] == config.seed]
    for style in (1, 0):
        part = corpus.test[style]
        shown: dict[str, Any] = {corpus.names[style]: part.text[:SHOWN]}
        if part.reference:
            shown["truth"] = part.reference[:SHOWN]
        page.texts(shown | {r["system"]: r["samples"][style] for r in mine})
    page.curves()
    return page.write({"systems": rows, "floors": rules})


def _about(config: Config, corpus: Corpus) -> str:
    d = config.data
    sides = " + ".join(f"{len(part):,}" for part in map(lambda p: p.text, corpus.train))
    data = f"Data: {markup.literal(d.source)}; {sides} training sentences, no pairs; {len(corpus.test[0].text):,} + {len(corpus.test[1].text):,} to test."
    if corpus.puzzle:
        data += f" Of the {d.words:,} most frequent words {len(corpus.puzzle.key):,} are enciphered; no sentence is on both sides."
    return (
        f"{data} Every system: {config.train.steps:,} steps of {config.train.batch_size} + {config.train.batch_size} "
        f"sentences from one autoencoder ({config.autoencoder.steps:,} steps), {config.seeds} seed(s); ± is the "
        "standard deviation over seeds. Greedy text of the averaged weights after the last step, no choice by "
        f"validation scores. Scatter: standard deviation of the curve below over the last half, without its trend.\n\n"
        f"{kept.line(corpus.read, corpus.left_out, of='sentences')}"
    )


def _curves(
    study: Study[Corpus], names: Mapping[str, str]
) -> dict[tuple[str, int], tuple[list[float], list[float]]]:
    """(system, seed) -> steps and validation BLEU."""
    found: dict[tuple[str, int], tuple[list[float], list[float]]] = {}
    for row in read_metrics(study.workdir):
        name, _, seed = str(row["run"]).rpartition("-")
        if "valid_bleu" in row and name in names.values() and seed.isdecimal():
            steps, values = found.setdefault((name, int(seed)), ([], []))
            steps.append(row["step"])
            values.append(row["valid_bleu"])
    return found


def _sides(part: Part) -> tuple[list[str], list[str]]:
    return part.text, part.reference or part.text
