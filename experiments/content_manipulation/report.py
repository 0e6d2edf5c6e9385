"""Numbers of written sentences, the table with what needs no network, the trade-off, sentences and edits."""

import pathlib
from collections.abc import Sequence

from experiments.common.runs import Study
from experiments.content_manipulation import edit_page
from experiments.content_manipulation.corpus import Corpus
from experiments.content_manipulation.systems import SYSTEMS
from experiments.content_manipulation.writing import Judges, perplexity
from jaxgen.config import Config
from jaxgen.data.record_arrays import UNKNOWN
from jaxgen.data.style_records import Record, StyleRecords
from jaxgen.metrics.records import (
    PrecisionRecall,
    is_number,
    masked_bleu,
    said_too_often,
    score_values,
)
from jaxgen.text.templates import rewrite
from jaxgen.train import markup, plots, report
from jaxgen.train.runs import Row

SHOWN = 40
COLUMNS = {
    "precision": "precision, rules ↑",
    "recall": "recall, rules ↑",
    "learned_precision": "precision, learned ↑",
    "learned_recall": "recall, learned ↑",
    "value_precision": "precision, values ↑",
    "value_recall": "recall, values ↑",
    "m_bleu": "m-BLEU ↑",
    "perplexity": "perplexity ↓",
    "too_often": "said too often, % ↓",
    "length_ratio": "length ratio",
}


def numbers(
    corpus: Corpus, written: Sequence[str], part: StyleRecords, judges: Judges
) -> dict[str, float]:
    """Of sentences that state the records x of a split in the style of its references."""
    found = dict[str, float]()

    def add(name: str, pair: PrecisionRecall) -> None:
        # What is not defined, such as the precision of nothing, is no number of a table.
        pairs = {f"{name}precision": pair.precision, f"{name}recall": pair.recall}
        found.update({k: v for k, v in pairs.items() if v == v})

    if not corpus.values:
        add("", corpus.score(corpus.read(written), part))
    add("learned_", corpus.score(judges.extractor(written), part))
    content = lambda w: w in corpus.masked or (not corpus.values and is_number(w))  # noqa: E731
    add("value_", score_values(written, part.x, content))
    words = [sum(len(t.split()) for t in side) for side in (written, part.y_ref)]
    return found | {
        "m_bleu": masked_bleu(written, part.y_ref, corpus.masked),
        "perplexity": perplexity(judges, corpus, written),
        "too_often": said_too_often(written, part.x, content if corpus.values else is_number),
        "length_ratio": words[0] / words[1],
    }


def baselines(corpus: Corpus) -> dict[str, list[str]]:
    """Sentences of test that need no network."""
    test = corpus.parts["test"]
    items = zip(test.x, test.x_ref, test.y_ref, strict=True)
    return {
        "rule": [rewrite(*item) for item in items],
        "copy of the reference": test.y_ref,
        "gold: another style": test.y_aux,
    }


def write(study: Study[Corpus], rows: list[Row], judges: Judges) -> pathlib.Path:
    """The page and the page of edits; returns the first one's path."""
    config, corpus = study.config, study.data
    test = corpus.parts["test"]
    texts = baselines(corpus)
    rules = {name: numbers(corpus, lines, test, judges) for name, lines in texts.items()}
    page = report.Report("Content manipulation", study.workdir, config)
    page.text(_about(config, corpus))
    page.section("Results")
    told = [{k: v for k, v in row.items() if k not in ("samples", "edits")} for row in rows]
    page.comparison(told, COLUMNS, rules=rules)
    page.text(_words(corpus, judges))
    page.section("Content and style")
    plots.plot_panels(
        study.workdir / "samples" / "trade_off.png",
        {"": _points(corpus, [*told, *({"system": k, **v} for k, v in rules.items())])},
        x="m-BLEU",
        y="content F1",
        marker="o",
    )
    page.plot("Content F1 over m-BLEU, a point a system and seed", "samples/trade_off.png")
    page.section("Sentences")
    mine = [row for row in rows if row["seed"] == config.seed]
    columns: dict[str, Sequence[object]] = {
        "record": [_shown(x) for x in test.x[:SHOWN]],
        "reference": test.y_ref[:SHOWN],
        "rule": texts["rule"][:SHOWN],
    }
    page.texts(columns | {row["system"]: row["samples"] for row in mine})
    edits = {row["system"]: row["edits"] for row in mine if row.get("edits")}
    if edits:
        first = next(iter(edits))
        name = next(k for k, system in SYSTEMS.items() if system.title == first)
        edit_page.write(study.workdir, test, edits[first], first, edit_page.command(study, name))
        page.section("Edited records")
        page.text(
            "Sentences of records with one change. `edits.html`, beside this page, has them to choose from, and makes "
            "the command for any other record: the page cannot run the model.\n"
        )
        some = edits[first]
        page.texts(
            {
                "change": [edit["change"] for edit in some],
                "reference": [test.y_ref[edit["item"]] for edit in some],
                first: [edit["text"] for edit in some],
            }
        )
    page.curves(metrics=("loss", "valid_f1", "valid_m_bleu", "content", "style"))
    return page.write({"systems": rows, "floors": rules})


def _shown(record: Record) -> str:
    return "; ".join(f"{f.type} {f.value} ({f.owner})" for f in record)


def _points(corpus: Corpus, rows: Sequence[Row]) -> dict[str, tuple[list[float], list[float]]]:
    """System -> its m-BLEUs and F1s, by rules, or by the extractor of values."""
    name = "learned_" if corpus.values else ""
    points: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        pair = PrecisionRecall(
            *(float(row.get(f"{name}{k}", "nan")) for k in ("precision", "recall"))
        )
        if pair.f1 == pair.f1:
            xs, ys = points.setdefault(str(row["system"]), ([], []))
            xs.append(float(row["m_bleu"]))
            ys.append(pair.f1)
    return points


def _about(config: Config, corpus: Corpus) -> str:
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in corpus.parts.items())
    left = ", ".join(f"{n:,} {reason}" for reason, n in corpus.left_out.items()) or "nothing"
    arrays = corpus.arrays(corpus.parts["train"])["y_aux"]
    unknown = 100 * (arrays == UNKNOWN).sum() / max((arrays != 0).sum(), 1)
    o, e = config.loss, config.evaluate
    return (
        f"Data: {markup.literal(config.data.source)}; items: {sizes}; left out: {left}. Words: "
        f"{corpus.vocabulary.generated:,} to generate, {corpus.vocabulary.said - corpus.vocabulary.generated:,} to copy; "
        f"{unknown:.2g}% of train's words are neither.\n\n"
        f"Every system: {config.train.steps:,} steps of {config.train.batch_size} items, {config.seeds} seed(s); ± is "
        f"the standard deviation over seeds. λ is 1 for {o.pure} steps and falls to {o.style_weight:g} in {o.ramp}; "
        f"η is {o.coverage_weight:g}. Of a system's checkpoints, looked at every {e.every} steps, the one is taken whose "
        f"greedy sentences of valid have the best content F1 at an m-BLEU of {e.m_bleu:g} or more; where none has that, "
        f"the one of the best m-BLEU. Test sentences are those of {e.beams} beams.\n"
    )


def _words(corpus: Corpus, judges: Judges) -> str:
    accuracy = f"{judges.extractor.pair_accuracy(corpus.parts['test']):.3f}"
    if corpus.values:
        kind = "values"
        content = (
            "Content: tuples of type and value, micro averages in per cent; the type is the one that the words around a "
            f"value say, by an extractor that is learned from train (its accuracy on test is {accuracy}). Values alone: "
            "wherever they stand. "
        )
    else:
        kind = "numbers"
        content = (
            "Content: tuples of numbers, type and value and owner, micro averages in per cent; an extractor by rules and "
            f"one that is learned from train (its accuracy of pairs on test is {accuracy}). Values alone count names too. "
        )
    return (
        f"{content}Said too often: {kind} that stand in the sentence more often than in the record, of all. "
        "Perplexity: of a language model of every second sentence y_aux of train.\n"
    )
