"""EISL: fields, modes, and the loop over noise, seeds and losses."""

import functools
import pathlib
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int

from experiments.common import fields
from experiments.common.runs import Study, compile_task, open_study, seeds_of
from experiments.eisl import corpus as corpora
from experiments.eisl import report, tasks
from experiments.eisl.corpus import Corpus
from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.data import translation
from jaxgen.errors import ConfigError
from jaxgen.evaluators.common import batched_apply
from jaxgen.launch import Mode
from jaxgen.metrics import text as text_metrics
from jaxgen.models.translator import TranslationModel
from jaxgen.text import noise, tokenizers
from jaxgen.train.runs import Row, TrainTask
from jaxgen.train.selection import BestModel
from jaxgen.train.writers import Json

NAMES = {
    **fields.NAMES,
    "": "seed seeds losses smoothing",
    "data": "source path train valid test limit seed tokenizer vocab_size max_tokens train_tokens",
    "model": "width depth heads dropout dtype remat scan non_autoregressive length_weight",
    "noise": "kinds levels start",
    "eisl": "ngram_factor ce_factor ngrams weights fused_bytes",
    "finetune": "steps learning_rate",
    "selection": "start_every every rows",
}
RUNTIME = (*fields.RUNTIME, "noise.kinds", "noise.levels", "losses")


def validate(config: Config) -> None:
    """Raises ConfigError for any value that cannot run; touches no device and no data."""
    c = config_lib
    c.check(config, {"model.non_autoregressive": c.FLAG})
    at_once = config.model.non_autoregressive
    known = tasks.NON_AUTOREGRESSIVE_LOSSES if at_once else tasks.LOSSES
    rules = {
        "data.source": c.one_of(*translation.SOURCES),
        "data.max_tokens": c.integer(5, 2**16),
        "data.tokenizer": c.one_of(*tokenizers.KINDS),
        "noise.kinds": c.some_of(*noise.KINDS),
        "losses": c.some_of(*known),
    }
    c.check_fields(config, NAMES, rules)
    d, e, longest = config.data, config.eisl, config.data.max_tokens
    if d.train_tokens and not 5 <= d.train_tokens <= longest:
        allowed = f"0 (as data.max_tokens), or 5 to {longest}"
        raise ConfigError("data.train_tokens", d.train_tokens, allowed)
    for field in ("train", "valid", "test"):
        if d.source == "files" and len(d[field]) != 2:
            raise ConfigError(f"data.{field}", d[field], "two file names, source and target")
    if d.source == "grammar" and d.limit > 10**7:
        raise ConfigError("data.limit", d.limit, "at most 10000000 sentences of the grammar")
    fields.check_divides(config, "model.heads", "model.width")
    fields.check_ngrams(config, "eisl.ngrams", d.train_tokens or longest)
    if e.weights and (len(e.weights) != len(e.ngrams) or not any(e.weights)):
        allowed = f"none, or {len(e.ngrams)} numbers with one above 0, as there are eisl.ngrams"
        raise ConfigError("eisl.weights", tuple(e.weights), allowed)
    if not e.ngram_factor and not e.ce_factor:
        raise ConfigError("eisl.ngram_factor", e.ngram_factor, "above 0, or eisl.ce_factor is")
    if e.fused_bytes and config.model.non_autoregressive:
        raise ConfigError("eisl.fused_bytes", e.fused_bytes, "0 with model.non_autoregressive")
    fields.check_run(config)


def cells(config: Config) -> list[tuple[str, float]]:
    """(kind, level) of every cell; level 0 is the same for all kinds and is done once."""
    clean = [(config.noise.kinds[0], 0.0)] if 0.0 in config.noise.levels else []
    return clean + [(k, x) for k in config.noise.kinds for x in config.noise.levels if x > 0]


def cell_name(kind: str, level: float) -> str:
    """Of the runs of a cell."""
    return "clean" if level == 0 else f"{kind}{level:g}"


class Cell(NamedTuple):
    """A loss under a kind and level of noise; "start" is the cross-entropy that all begin from."""

    kind: str
    level: float
    loss: str


class Tested(NamedTuple):
    """BLEU, the translations, and the share of their tokens that are unknown (blanks; no text shows them)."""

    bleu: float
    texts: list[str]
    unknown: float = 0.0


class Trained(NamedTuple):
    """A model, the step that its weights are of, and (step, BLEU on valid) of those it was chosen from."""

    model: TranslationModel
    step: int
    curve: list[tuple[int, float]]


@jax.jit
def _translate(model: TranslationModel, source: Int[Array, "B M"]) -> Int[Array, "B T"]:
    return model.translate(source)


def bleu(model: TranslationModel, corpus: Corpus, split: str, rows: int = 0) -> Tested:
    """sacrebleu of greedy translations of clean text, and the translations.

    Args:
      rows: as many pairs from the first on; 0 for all.
    """
    part, some = corpus.parts[split], slice(rows or None)
    tokens = batched_apply(_translate, model, corpus.ids(part.source[some]), batch=256)
    texts = tokenizers.decode(corpus.tokenizer, tokens)
    score = text_metrics.bleu(texts, part.target[some], tokenize="13a")
    said = tokens[tokens != corpus.pad]
    return Tested(score, texts, float((said == corpus.tokenizer.unk_token_id).mean()))


def fit(
    study: Study[Corpus],
    task: TrainTask,
    seed: int,
    arrays: dict[str, np.ndarray],
    *,
    every: int,
    steps: int,
    learning_rate: float | None = None,
) -> Trained:
    """Trains; the weights are those of the best BLEU on the clean valid split, with `every` above 0."""
    corpus, rows = study.data, study.config.selection.rows
    train = functools.partial(
        study.runs.fit, task, seed, arrays, steps=steps, learning_rate=learning_rate
    )
    if not every:
        return Trained(train(), steps, [])
    best = BestModel(lambda m: bleu(m, corpus, "valid", rows).bleu, every=every, steps=steps)
    final = train(
        eval_every=every, evaluate=lambda _: {"valid_bleu": best.curve[-1][1]}, adapt=best
    )
    if best.model is None or best.best is None:
        return Trained(final, steps, best.curve)
    return Trained(best.model, best.best[0], best.curve)


def train_start(study: Study[Corpus], kind: str, level: float, seed: int) -> Trained:
    """Trains by cross-entropy on targets of that noise."""
    config, corpus = study.config, study.data
    task = tasks.task(config, corpus, "ce", f"start-{cell_name(kind, level)}")
    arrays = corpus.arrays(kind, level, seed)
    every, steps = config.selection.start_every, config.train.steps
    return fit(study, task, seed, arrays, every=every, steps=steps)


def train_cell(study: Study[Corpus], cell: Cell, seed: int, start: TranslationModel) -> Trained:
    """Goes on from the start under the cell's loss."""
    config, corpus = study.config, study.data
    run = f"{cell.loss}-{cell_name(cell.kind, cell.level)}"
    return fit(
        study,
        tasks.task(config, corpus, cell.loss, run, start, mesh=study.runs.mesh),
        seed,
        corpus.arrays(cell.kind, cell.level, seed),
        every=config.selection.every,
        steps=config.finetune.steps,
        learning_rate=config.finetune.learning_rate,
    )


def run(config: Config, workdir: pathlib.Path, *, reuse: bool) -> None:
    """Trains and tests whatever is not finished, and writes the report.

    Args:
      reuse: take finished cells from `results/`; without it every cell is tested again, and nothing is
        trained.
    """
    study = open_study(config, workdir, corpora.load, may_train=reuse)

    @functools.lru_cache(maxsize=1)  # cells that begin at one start follow each other
    def start_of(kind: str, level: float, seed: int) -> tuple[Trained, Tested]:
        trained = train_start(study, kind, level, seed)
        return trained, bleu(trained.model, study.data, "test")

    def evaluate(cell: Cell, seed: int) -> list[Row]:
        clean = config.noise.start == "clean"
        place = (config.noise.kinds[0], 0.0) if clean else (cell.kind, cell.level)
        trained, tested = start_of(*place, seed)
        if cell.loss != "start":
            trained = train_cell(study, cell, seed, trained.model)
            tested = bleu(trained.model, study.data, "test")
        row = {"bleu": tested.bleu, "unknown": tested.unknown, "step": trained.step}
        curve: list[Json] = [list(point) for point in trained.curve]
        texts = {"samples": tested.texts[: report.SHOWN]}
        return [{**cell._asdict(), **row, "curve": curve, **texts}]

    rows = study.runs.rows(
        seeds_of(config),
        [Cell(*place, loss) for place in cells(config) for loss in ("start", *config.losses)],
        evaluate,
        name=lambda cell: f"{cell.kind}-{cell.level:g}-{cell.loss}",
        form={"kind": str, "level": float, "loss": str, "bleu": float, "samples": list},
    )
    if jax.process_index() == 0:
        print(f"report: {report.write(study, rows)}")


train = functools.partial(run, reuse=True)
evaluate_again = functools.partial(run, reuse=False)


def compile_eisl(config: Config, _: pathlib.Path) -> None:
    """Compiles the train step under EISL for `mesh.topology` and prints what one chip has to hold."""
    corpus, batch = corpora.abstract(config)
    make = functools.partial(tasks.task, config, corpus, "eisl", "eisl")
    compile_task(config, lambda mesh: make(mesh=mesh), batch)


MODES: dict[str, Mode] = {"train": train, "eval": evaluate_again, "compile": compile_eisl}
