"""Style transfer: fields, tasks, and the loop over seeds, content losses and weights."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from experiments.common import attributes as attribute_fields
from experiments.common import fields, text_fields
from experiments.common.runs import open_study, seeds_of
from experiments.style_transfer import report
from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.data.tokens import TextSplit, TokenShape
from jaxgen.evaluators.attributes import disjoint_halves
from jaxgen.evaluators.common import batched_apply
from jaxgen.launch import Mode
from jaxgen.losses import eisl
from jaxgen.losses.cross_entropy import mean_cross_entropy
from jaxgen.models import t5
from jaxgen.models.translator import Translator
from jaxgen.nn import textcnn
from jaxgen.text.gumbel_softmax import gumbel_softmax
from jaxgen.text.masking import eos_mask
from jaxgen.train.latent_tasks import Batch
from jaxgen.train.runs import Row, TrainTask

LOSSES = ("ce", "eisl")
NAMES = {
    **text_fields.NAMES,
    "": "seed seeds losses",
    "operators": "attributes",
    "transfer": "content_weights style_weight temperature ngrams",
    "classifier": "width word_dropout steps learning_rate",
    "evaluate": "count",
}
RUNTIME = (*fields.RUNTIME, "evaluate.", "losses", "transfer.content_weights")


def validate(config: Config) -> None:
    """Raises ConfigError for any value that cannot run; touches no device and no data."""
    c = config_lib
    rules = {
        **text_fields.RULES,
        "data.kind": c.one_of("text"),
        "operators.attributes": (lambda v: tuple(v) == ("sentiment",), "('sentiment',)"),
        "losses": c.some_of(*LOSSES),
    }
    c.check_fields(config, NAMES, rules)
    text_fields.check_sequences(config)
    fields.check_ngrams(config, "transfer.ngrams", config.data.max_tokens)
    attribute_fields.names(config)
    fields.check_run(config)


def prepend_style_token(
    source: Int[Array, "B T"], style: Int[Array, " B"], shape: TokenShape
) -> Int[Array, "B S"]:
    """The source behind its style's token; the two tokens follow the vocabulary."""
    return jnp.concatenate([(shape.source_size + style)[:, None], source], 1)


def build(config: Config, shape: TokenShape, rngs: nnx.Rngs) -> Translator:
    """The encoder-decoder G, with two tokens more than the vocabulary."""
    m = config.model
    sizes = t5.fresh_config(
        shape.size + 2,
        width=m.decoder_width,
        depth=m.decoder_depth,
        heads=m.decoder_heads,
        dropout=m.dropout,
    )
    return Translator(
        sizes,
        max_length=shape.length,
        begin=shape.begin,
        end=shape.end,
        pad=shape.source_pad,
        rngs=rngs,
    )


def written_logits(
    model: Translator,
    shape: TokenShape,
    x: Int[Array, "B T"],
    written: Int[Array, "B T"],
    style: Int[Array, " B"],
    key: Key[Array, ""] | None,
) -> Float[Array, "B T V"]:
    """Logits, over the vocabulary, of G(x, style) at each token of `written` given those before it."""
    source = prepend_style_token(x, style, shape)
    return model.teacher_forced(source, written, key)[0][..., : shape.size]


def write_greedily(
    model: Translator, shape: TokenShape, x: Int[Array, "B T"], style: Int[Array, " B"]
) -> Int[Array, "B T"]:
    """Greedy G(x, style)."""
    tokens = model.translate(prepend_style_token(x, style, shape))
    return jnp.minimum(tokens, shape.size - 1)  # a style token means nothing as output


def classifier_task(config: Config, shape: TokenShape) -> TrainTask:
    """The classifier that steers: of true sentences, a share of whose words it does not see."""

    def loss(
        model: textcnn.TextCNN, extra: PyTree, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        x, style = batch["target"], batch["style"]
        seen = jax.random.bernoulli(key, 1.0 - config.classifier.word_dropout, x.shape)
        logits = model(x, eos_mask(x, shape.end) & seen)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, style)
        accuracy = (logits.argmax(-1) == style).mean()
        return each.mean(), ({"accuracy": accuracy}, extra)

    def make(key: Key[Array, ""]) -> textcnn.TextCNN:
        width = config.classifier.width
        return textcnn.TextCNN(shape.size, 2, width=width, rngs=nnx.Rngs(key))

    return TrainTask("style_classifier", make, loss)


def task(
    config: Config, shape: TokenShape, classifier: textcnn.TextCNN, content: str, weight: float
) -> TrainTask:
    """G under one content loss of one weight; the classifier is the loss' own state."""
    t = config.transfer

    def loss(
        model: Translator,
        extra: textcnn.TextCNN,
        batch: Batch,
        key: Key[Array, ""],
        step: Array,
    ) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
        key_same, key_other, key_draw = jax.random.split(key, 3)
        x, style = batch["target"], batch["style"]
        real = eos_mask(x, shape.end)
        same = written_logits(model, shape, x, x, style, key_same)
        repeat = mean_cross_entropy(same, x, real).mean()
        fixed = jax.lax.stop_gradient(model)
        own = write_greedily(fixed, shape, x, 1 - style)  # reading x, it would only repeat x
        said = eos_mask(own, shape.end)
        other = written_logits(model, shape, x, own, 1 - style, key_other)
        if content == "ce":
            kept = mean_cross_entropy(other, x, real).mean()
        else:
            each = eisl.eisl_loss(other, x, ngrams=t.ngrams, logits_mask=said, targets_mask=real)
            kept = each.mean()
        drawn = gumbel_softmax(other, key_draw, temperature=t.temperature, hard=True)
        judged = extra(drawn, said)
        styled = optax.softmax_cross_entropy_with_integer_labels(judged, 1 - style).mean()
        value = repeat + t.style_weight * styled + weight * kept
        return value, ({"repeat": repeat, "style": styled, "content": kept}, extra)

    return TrainTask(
        f"{content}-{weight:g}",
        lambda key: build(config, shape, nnx.Rngs(key)),
        loss,
        extra=lambda: classifier,
    )


@functools.partial(jax.jit, static_argnums=2)
def _write(model: Translator, rows: Any, shape: TokenShape) -> Array:
    return write_greedily(model, shape, rows["x"], rows["style"])


def transfer(model: Translator, shape: TokenShape, x: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Greedy G(x, style) of all rows."""
    rows = {"x": x, "style": style}
    return batched_apply(lambda model, some: _write(model, some, shape), model, rows)


def styles(config: Config, part: TextSplit) -> np.ndarray:
    """0 or 1 for each sentence."""
    return attribute_fields.label(config, part)["sentiment"]


def run(config: Config, workdir: pathlib.Path, *, may_train: bool) -> None:
    """Trains what is not trained (if it may), judges everything, writes the report."""
    study = open_study(config, workdir, attribute_fields.load, may_train=may_train)
    runs, train = study.runs, study.data["train"]
    judges = attribute_fields.judges(config, runs, study.data)
    test, v = study.data["test"].take(config.evaluate.count), train.vocabulary
    asked = 1 - styles(config, test)
    mine, _ = disjoint_halves(len(train))  # the other half trains the judges
    arrays = {"target": train.x["target"][mine], "style": styles(config, train)[mine]}
    c = config.classifier
    options = {"steps": c.steps, "learning_rate": c.learning_rate}
    rows: list[Row] = []
    shown: dict[tuple[str, float], list[str]] = {}
    for seed in seeds_of(config):
        classifier = runs.fit(classifier_task(config, v), seed, arrays, **options)
        for content in config.losses:
            for weight in config.transfer.content_weights:
                model = runs.fit(task(config, v, classifier, content, weight), seed, arrays)
                texts = v.decode(transfer(model, v, test.x["target"], asked))
                row = {"loss": content, "weight": weight, "seed": seed}
                rows.append(row | report.evaluate(judges, texts, test, asked))
                if seed == config.seed:
                    shown[content, weight] = texts
    if jax.process_index() == 0:
        print(f"report: {report.write(study, judges, rows, shown, test, asked)}")


train = functools.partial(run, may_train=True)
evaluate_again = functools.partial(run, may_train=False)

MODES: dict[str, Mode] = {"train": train, "eval": evaluate_again}
