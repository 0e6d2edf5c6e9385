"""Attributes of a config's sentences: fields, and data that have the labels asked for."""

import pathlib

from experiments.common import text
from jaxgen.config import Config
from jaxgen.data.tokens import TextSplit
from jaxgen.errors import ConfigError
from jaxgen.evaluators import attributes
from jaxgen.evaluators.attributes import LABELS, AttributeClassifier
from jaxgen.evaluators.controlled_text import ControlledText
from jaxgen.evaluators.language_model import LanguageModel, LanguageModelOptions
from jaxgen.evaluators.pretrained_lm import PretrainedLM
from jaxgen.train.runs import Runs


def names(config: Config) -> tuple[str, ...]:
    """Attributes that the corpus has.

    Raises:
      ConfigError: `operators.attributes` asks for one that it has not.
    """
    d = config.data
    known = tuple(LABELS) if d.source == "grammar" else ("sentiment", "tense")
    wanted = tuple(config.operators.attributes)
    if not wanted or set(wanted) - set(known):
        raise ConfigError("operators.attributes", wanted, f"some of {', '.join(known)}")
    if "sentiment" in wanted and d.source != "grammar":
        # Of files a sentence's label is the place of its file.
        for field, counts in (("train", (2,)), ("test", (0, 2))):
            if d.source == "files" and len(d[field]) not in counts:
                allowed = "two files, of negative and positive sentences"
                raise ConfigError(f"data.{field}", d[field], allowed)
        if d.source == "english":
            raise ConfigError("operators.attributes", wanted, "('tense',): english has no labels")
        if d.source != "files" and not d.label_field:
            raise ConfigError("data.label_field", d.label_field, "the column of the sentiment")
    return wanted


def label(config: Config, part: TextSplit) -> attributes.Labels:
    """The labels of `operators.attributes`."""
    return attributes.label(part, names(config), grammar=config.data.source == "grammar")


def load(config: Config, workdir: pathlib.Path) -> dict[str, TextSplit]:
    """The sentences of a config, which have the labels that are asked for."""
    data = text.load(config, workdir)
    for part in data.values():
        for name, y in label(config, part).items():
            if len(y) and y.max() >= len(LABELS[name]):
                raise ConfigError("data", int(y.max()) + 1, f"{len(LABELS[name])} labels of {name}")
    return data


def language_model(config: Config, runs: Runs, train: TextSplit) -> LanguageModel:
    """The judge of `config.judge`, trained or restored."""
    j = config.judge
    options = LanguageModelOptions(
        j.width, j.depth, j.heads, j.steps, j.reverse_steps, j.learning_rate
    )
    return LanguageModel.train(runs, options, train.vocabulary, train.x["target"])


def pretrained_lm(config: Config, runs: Runs) -> PretrainedLM | None:
    """The judge of `judge.lm_path`, which keeps what it said in the workdir; None without."""
    path = config.judge.lm_path
    return PretrainedLM(path, kept=runs.workdir / "judged") if path else None


def judges(config: Config, runs: Runs, data: dict[str, TextSplit]) -> ControlledText:
    """Trains what is not trained yet."""
    train, test = data["train"], data["test"]
    classifier = AttributeClassifier.train(
        names(config), train, test, grammar=config.data.source == "grammar"
    )
    lm = language_model(config, runs, train)
    return ControlledText.of(
        classifier,
        lm,
        test.take(config.evaluate.count),
        pretrained_lm=pretrained_lm(config, runs),
        vader=config.judge.vader,
    )
