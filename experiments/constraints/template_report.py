"""Sentences of templates: what systems write, judges' numbers, and a page of templates and fills."""

import json
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.common.runs import Study
from experiments.constraints import game
from experiments.constraints.systems import SYSTEMS
from experiments.constraints.templates import Data, Part
from jaxgen.evaluators import language_model
from jaxgen.evaluators.common import batched_apply
from jaxgen.metrics import text as text_metrics
from jaxgen.models import gpt2
from jaxgen.text import blanks
from jaxgen.train import markup, report
from jaxgen.train.runs import Row
from jaxgen.train.state import run_key
from jaxgen.train.writers import write_atomic

SHOWN = 40
COLUMNS = {
    "perplexity": "perplexity ↓",
    "kept": "template kept ↑",
    "content_f1": "content F1 ↑",
    "distinct_2": "distinct-2 of fills ↑",
    "reward": "f, as pre-trained",
    "f_before": "f of real text before",
    "f_after": "f of real text after",
}
CURVES = ("own", "ess", "log_partition", "f_data", "f_q", "f_p")
BATCH = 128


def train_judges(study: Study[Data]) -> gpt2.GPT:
    """A language model of sentences that no system has seen, and of other templates."""
    j, data = study.config.judge, study.data
    spec = gpt2.config(
        data.shape.size,
        width=j.width,
        depth=j.depth,
        heads=j.heads,
        dropout=j.dropout,
        max_positions=data.shape.length + 1,
    )
    return study.runs.fit(
        language_model.lm_task("judge_lm", spec, data.shape),
        0,
        {"target": data.ids["judged"]["target"]},
        steps=j.steps,
        learning_rate=j.learning_rate,
        batch_size=64,
        judging=True,
    )


def draw(
    problem: game.Problem, players: game.Players, f: Any, data: Data, seed: int, *, best: bool
) -> tuple[np.ndarray, float]:
    """A sentence of each test template, drawn, and the mean reward under the pre-trained f.

    Args:
      best: of K draws the likeliest: the blanks' words, which f needs, are not known in a test.
    """
    key = run_key(f"test-{seed}")
    count = problem.config.constraint.samples if best else 1

    @jax.jit
    def one(pair: tuple[Any, Any], rows: dict[str, Array]) -> Array:
        model, f = pair
        x = problem.draw(model, rows, jax.random.fold_in(key, rows["row"][0]), count)
        x = x if x.ndim == 3 else x.argmax(-1).astype(jnp.int32)
        if count > 1:
            likely = problem.log_prob(model, x, rows).argmax(1)
            x = jnp.take_along_axis(x, likely[:, None, None], 1)
        reward = problem.reward(f, x, rows)
        return jnp.concatenate([x[:, 0].astype(jnp.float32), reward], 1)

    rows = {name: data.ids["test"][name] for name in ("template", "content")}
    rows["row"] = np.arange(len(data.test.text), dtype=np.int32)
    found = batched_apply(one, (players.model, f), rows, batch=BATCH)
    return found[:, :-1].astype(np.int32), float(found[:, -1].mean())


def numbers(study: Study[Data], texts: Sequence[str], judge: gpt2.GPT) -> dict[str, float]:
    """Of sentences that should fill the test templates."""
    data = study.data
    fills = [" ".join(blanks.make(t)[1]) if blanks.BLANK not in t.split() else "" for t in texts]
    return {
        "perplexity": language_model.perplexity(judge, data.encode(texts), data.shape),
        "kept": kept(data.test, texts),
        "content_f1": float(
            np.mean([f1(a, b) for a, b in zip(fills, data.test.content, strict=True)])
        ),
        "distinct_2": text_metrics.distinct_n(fills, 2),
    }


def kept(part: Part, texts: Sequence[str]) -> float:
    """Share of sentences with all kept words of their template, in order, and 1 to 4 words in each blank."""
    pairs = zip(part.template, texts, strict=True)
    return float(np.mean([blanks.split(template, text) is not None for template, text in pairs]))


def f1(found: str, truth: str) -> float:
    """Of bags of words."""
    a, b = Counter(found.split()), Counter(truth.split())
    return 2.0 * (a & b).total() / max(a.total() + b.total(), 1)


def evaluate(
    study: Study[Data],
    problem: game.Problem,
    name: str,
    players: game.Players,
    f: Any,
    judges: gpt2.GPT,
    seed: int,
) -> Row:
    """Numbers of a system on test templates; keeps the first sentences for the page.

    Args:
      players: the trained model, and the constraint that it was trained with; f: as pre-trained.
    """
    data, system = study.data, SYSTEMS[name]
    ids, reward = draw(problem, players, f, data, seed, best=system.best)
    texts = data.decode(ids)
    write_atomic(_path(study, name, seed), json.dumps(texts[:SHOWN], indent=1) + "\n")
    row: Row = dict(numbers(study, texts, judges))
    row["reward"] = reward
    if system.reward == "structured":
        row["f_before"], row["f_after"] = (
            _of_real(problem, g, data) for g in (f, players.constraint)
        )
    return row


def _of_real(problem: game.Problem, f: Any, data: Data) -> float:
    run = jax.jit(problem.reward_data)
    return float(batched_apply(run, f, data.ids["test"], batch=BATCH).mean())


def _path(study: Study[Data], name: str, seed: int) -> pathlib.Path:
    return study.workdir / "samples" / f"{name}-{seed}.json"


def write(study: Study[Data], rows: list[Row], judges: gpt2.GPT) -> pathlib.Path:
    """The page; returns its path."""
    config, data = study.config, study.data
    rules = {"real text": numbers(study, data.test.text, judges)}
    page = report.Report("Learnable constraints: templates", study.workdir, config)
    page.text(_about(study))
    page.section("Results")
    page.comparison(rows, COLUMNS, rules=rules)
    page.text(
        "Sentences are drawn at temperature 1, one a template. Perplexity is that of a language model of sentences "
        "that no system has seen; a template is kept where its words stand in order with 1 to 4 words in each "
        "blank; content F1 compares bags of words with what the blanks held.\n"
    )
    page.section("Templates and fills")
    columns: dict[str, list[str]] = {
        "template": data.test.template[:SHOWN],
        "real": data.test.text[:SHOWN],
    }
    for name in config.systems:
        path = _path(study, name, config.seed)
        if path.exists():
            columns[SYSTEMS[name].title] = json.loads(path.read_text("utf-8"))
    page.texts(columns)
    page.curves(metrics=CURVES)
    return page.write({"systems": rows, "floors": rules})


def _about(study: Study[Data]) -> str:
    config, data, c = study.config, study.data, study.config.constraint
    alpha = (
        f"an effective sample size of {c.target_ess:g}" if c.target_ess else f"alpha {c.alpha:g}"
    )
    distinct = len(set(data.mine.template))
    return (
        f"Data: {markup.literal(config.data.source)}; {len(data.mine.text):,} sentences of {distinct:,} templates "
        f"to train on, {len(data.judged.text):,} for the judge, {len(data.test.text):,} templates to fill; no "
        f"template is in two of them. Every system: {config.train.steps:,} steps of {config.train.batch_size} "
        f"templates x {c.samples} sentences from one base ({config.start.steps:,} steps), {alpha}, weight "
        f"{c.weight:g}; {config.seeds} seed(s), ± is the standard deviation over seeds.\n"
    )
