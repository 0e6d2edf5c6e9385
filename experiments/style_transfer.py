"""Unsupervised style transfer: EISL or cross-entropy as what keeps the content.

    python -m experiments.style_transfer --config=configs/eisl/transfer.py --workdir=runs/transfer

There are sentences of two styles and no pairs. An encoder-decoder G(x, s), told the style s by a first
source token and, in the other style, reading its own output, is trained by three terms (after Hu et al.,
2017, and Liu et al., 2022, section 4.2):

    CE(G(x, s), x)                                sentences of their own style are repeated
    + style_weight CE(classifier(G(x, s')), s')   what is written in the other style has it
    + content_weight L(G(x, s'), x)               and keeps the content; L is EISL or cross-entropy

Cross-entropy punishes every word that changes at its place, EISL only n-grams that occur nowhere. The
classifier is trained first, on true sentences with words hidden, so that no one word decides; of G it reads
draws of single tokens with a relaxed gradient (Jang et al., 2017), since mixtures of tokens deceive it. Judges
are others, trained on other sentences.
"""

import functools
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Int, Key

from experiments import attributes, checks, latent_methods, sequence_study, systems
from experiments.image_report import curves
from experiments.sequence_data import Part, Vocabulary, about_cuts, take_rows
from experiments.study import Study, open_study
from jaxgen import config as config_lib
from jaxgen import launch
from jaxgen.config import Config
from jaxgen.data import corpora
from jaxgen.losses import eisl
from jaxgen.metrics import floors
from jaxgen.metrics import text as text_metrics
from jaxgen.models import t5
from jaxgen.nn import textcnn
from jaxgen.text import decoding, masking
from jaxgen.train import markup, report

LOSSES = ("ce", "eisl")
NAMES = {
    **sequence_study.MODEL_NAMES,
    "": "seed seeds losses",
    "operators": "attributes",
    "transfer": "content_weights style_weight temperature ngrams",
    "classifier": "width word_dropout steps learning_rate",
    "evaluate": "count",
}
COLUMNS = {
    "accuracy": "accuracy ↑",
    "bleu": "input-BLEU ↑",
    "ppl": "PPL ↓",
    "mean": "geometric mean ↑",
}


def validate(config: Config) -> None:
    """Raises ConfigError for any value that cannot run; touches no device and no data."""
    c = config_lib
    rules = {
        **sequence_study.MODEL_RULES,
        "data.kind": c.one_of("text"),
        "operators.attributes": (lambda v: tuple(v) == ("sentiment",), "('sentiment',)"),
        "losses": c.some_of(*LOSSES),
    }
    c.check_fields(config, NAMES, rules)
    sequence_study.check_sequences(config)
    checks.check_ngrams(config, "transfer.ngrams", config.data.max_tokens)
    attributes.names(config)
    checks.check_run(config)


def prepend_style_token(source: Int[Array, "B T"], style: Int[Array, " B"], v: Vocabulary) -> Array:
    """The source behind its style's token; the two tokens follow the vocabulary."""
    return jnp.concatenate([(v.source_size + style)[:, None], source], 1)


def build(config: Config, v: Vocabulary, rngs: nnx.Rngs) -> t5.T5:
    """The encoder-decoder, with two tokens more than the vocabulary."""
    m = config.model
    spec = t5.fresh_config(
        v.size + 2,
        width=m.decoder_width,
        depth=m.decoder_depth,
        heads=m.decoder_heads,
        dropout=m.dropout,
    )
    return t5.T5(spec, rngs=rngs)


def written_logits(
    model: t5.T5,
    v: Vocabulary,
    x: Array,
    written: Array,
    style: Array,
    key: Key[Array, ""] | None,
) -> Array:
    """Logits, over the vocabulary, of G(x, style) at each token of `written` given those before it."""
    source = prepend_style_token(x, style, v)
    shifted = masking.shift_right(written, v.begin)
    return model(source, shifted, source_mask=source != v.source_pad, key=key)[..., : v.size]


def classifier_system(config: Config, v: Vocabulary) -> systems.System:
    """The classifier that steers: of true sentences, a share of whose words it does not see."""

    def loss(model, extra, batch, key, step):
        x, style = batch["target"], batch["style"]
        seen = jax.random.bernoulli(key, 1.0 - config.classifier.word_dropout, x.shape)
        logits = model(x, masking.eos_mask(x, v.end) & seen)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, style)
        accuracy = (logits.argmax(-1) == style).mean()
        return each.mean(), ({"accuracy": accuracy}, extra)

    def make(key):
        return textcnn.TextCNN(v.size, 2, width=config.classifier.width, rngs=nnx.Rngs(key))

    return systems.System("style_classifier", make, loss)


def system(
    config: Config, v: Vocabulary, classifier: textcnn.TextCNN, content: str, weight: float
) -> systems.System:
    """G under one content loss of one weight."""
    t = config.transfer

    def loss(model, extra, batch, key, step):
        key_same, key_other, key_draw = jax.random.split(key, 3)
        x, style = batch["target"], batch["style"]
        real = masking.eos_mask(x, v.end)
        same = written_logits(model, v, x, x, style, key_same)
        repeat = eisl.mixed_loss(same, x, ngram_factor=0.0, mask=real).mean()
        fixed = jax.lax.stop_gradient(model)
        own = _greedy(fixed, v, x, 1 - style)  # reading x, it would only have to repeat x
        said = masking.eos_mask(own, v.end)
        other = written_logits(model, v, x, own, 1 - style, key_other)
        if content == "ce":
            kept = eisl.mixed_loss(other, x, ngram_factor=0.0, mask=real).mean()
        else:
            masks = {"logits_mask": said, "targets_mask": real}
            kept = eisl.eisl_loss(other, x, ngrams=t.ngrams, **masks).mean()
        drawn = gumbel_softmax(other, key_draw, temperature=t.temperature, hard=True)
        judged = classifier(drawn, said)
        styled = optax.softmax_cross_entropy_with_integer_labels(judged, 1 - style).mean()
        value = repeat + t.style_weight * styled + weight * kept
        return value, ({"repeat": repeat, "style": styled, "content": kept}, extra)

    return systems.System(
        f"{content}-{weight:g}", lambda key: build(config, v, nnx.Rngs(key)), loss
    )


def transfer(model: t5.T5, v: Vocabulary, x: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Greedy G(x, style)."""
    rows = {"x": x, "style": style}
    return systems.in_batches(lambda b: _transfer(model, v, b["x"], b["style"]), rows)


def _greedy(model: t5.T5, v: Vocabulary, x: Array, style: Array) -> Array:
    source = prepend_style_token(x, style, v)
    start = model.start(source, max_tokens=v.length, mask=source != v.source_pad, start=v.begin)
    tokens = decoding.greedy(start, max_tokens=v.length, eos=v.end, pad=v.source_pad).tokens
    return jnp.minimum(tokens, v.size - 1)  # a style token means nothing as output


_transfer = jax.jit(_greedy, static_argnums=1)


def styles(config: Config, part: Part) -> np.ndarray:
    """0 or 1 for each sentence."""
    return attributes.label(config, part)["sentiment"]


def evaluate(
    judges: latent_methods.Judges, texts: list[str], test: Part, asked: np.ndarray
) -> dict[str, float]:
    """Numbers of test sentences that were moved to the styles asked for."""
    right = judges.accuracy(texts, {"sentiment": asked})
    row = {
        "accuracy": float(right.mean()),
        "bleu": text_metrics.bleu(texts, test.text),
        "ppl": judges.perplexity(texts),
    }
    return row | {"mean": judges.geometric_mean(row["accuracy"], row["ppl"], row["bleu"] / 100.0)}


def run(config: Config, workdir: pathlib.Path, *, may_train: bool) -> None:
    """Trains what is not trained (if it may), judges everything, writes the report."""
    study = open_study(config, workdir, attributes.load, may_train=may_train)
    judges = latent_methods.Judges.train(study)
    train, v = study.data["train"], study.data["train"].vocabulary
    test = take_rows(study.data["test"], config.evaluate.count)
    asked = 1 - styles(config, test)
    mine, _ = attributes.disjoint_halves(len(train))  # the other half trains the judges
    arrays = {"target": train.x["target"][mine], "style": styles(config, train)[mine]}
    rows, shown = [], {}
    for seed in range(config.seed, config.seed + config.seeds):
        c = config.classifier
        classifier = study.fit(
            classifier_system(config, v),
            seed,
            arrays,
            steps=c.steps,
            learning_rate=c.learning_rate,
        )
        for content in config.losses:
            for weight in config.transfer.content_weights:
                model = study.fit(system(config, v, classifier, content, weight), seed, arrays)
                moved = transfer(model, v, test.x["target"], asked)
                texts = v.decode(moved)  # type: ignore[misc]
                row = {"loss": content, "weight": weight, "seed": seed}
                rows.append(row | evaluate(judges, texts, test, asked))
                if seed == config.seed:
                    shown[content, weight] = texts
    if jax.process_index() == 0:
        print(f"report: {write(study, judges, rows, shown, test, asked)}")


train = functools.partial(run, may_train=True)
evaluate_again = functools.partial(run, may_train=False)


def write(
    study: Study,
    judges: latent_methods.Judges,
    rows: list[dict[str, Any]],
    shown: dict[Any, list[str]],
    test: Part,
    asked: np.ndarray,
) -> pathlib.Path:
    """The table, the trade-off between style and content, and sentences; returns the report's path."""
    config = study.config
    body = [
        f"Data: {markup.literal(config.data.source)}. Every model: {config.train.steps:,} steps of batch "
        f"{config.train.batch_size}, {config.seeds} seed(s); ± is the standard deviation over seeds. "
        f"{len(test):,} test sentences moved to the other sentiment. Accuracy: {markup.literal(judges.attribute.about())}. "
        f"PPL under a language model of real sentences (which are at {judges.real_ppl:.1f}), "
        "geometric mean over accuracy, input-BLEU / 100 and min(1, PPL of real / PPL). The last rows are no "
        "models: *copy of the input* leaves sentences as they are, *majority class* always writes the style "
        "that is asked most often.\n"
    ]
    lines: list[list[str]] = []
    drawn: dict[str, Any] = {}
    body.append(about_cuts(study.data))
    for content in config.losses:
        points = []
        for weight in config.transfer.content_weights:
            mine = [r for r in rows if (r["loss"], r["weight"]) == (content, weight)]
            each = {k: report.mean_and_spread([r[k] for r in mine]) for k in COLUMNS}
            lines.append(
                [content.upper(), f"{weight:g}", *(report.format_value(*p) for p in each.values())]
            )
            points.append((each["accuracy"][0], each["bleu"][0]))
        drawn[content.upper()] = tuple(zip(*sorted(points), strict=True))
    unchanged = evaluate(judges, test.text, test, asked)
    rules = {
        "copy of the input": unchanged,
        "majority class": {"accuracy": floors.majority_accuracy(asked, asked)},
    }
    for rule, values in rules.items():
        cells = (report.format_value(values[k], math.nan) if k in values else "–" for k in COLUMNS)
        lines.append([rule, "–", *cells])
    body.append(report.markdown_table(["content loss", "weight", *COLUMNS.values()], lines))
    report.plot_curves(
        study.workdir / "samples" / "tradeoff.png", drawn, x="accuracy", y="input-BLEU"
    )
    body.append("![Content over style](samples/tradeoff.png)\n")
    best = {
        content: max(
            (r for r in rows if r["loss"] == content and r["seed"] == config.seed),
            key=lambda r: r["mean"],
        )["weight"]
        for content in config.losses
    }
    body.append("## Sentences\n")
    titles = [f"{content.upper()}, weight {weight:g}" for content, weight in best.items()]
    body.append(
        report.markdown_table(
            ["before", "asked", *titles],
            [
                [
                    test.text[i],
                    corpora.SENTIMENTS[asked[i]],
                    *(shown[k, w][i] for k, w in best.items()),
                ]
                for i in range(min(40, len(test)))
            ],
        )
    )
    body.append(curves(study.workdir))
    results = {"systems": rows, "unchanged": unchanged, "floors": rules, "config": config.to_dict()}
    return report.write(study.workdir, "Style transfer", "\n".join(body), results)


if __name__ == "__main__":
    launch.run({"train": train, "eval": evaluate_again}, validate)
