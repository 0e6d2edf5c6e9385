"""EISL: translation learned from noisy targets, under cross-entropy and under losses that forgive.

    python -m experiments.eisl --config=configs/eisl/invented.py --workdir=runs/eisl

For every kind and level of noise and every seed, a model is trained by cross-entropy, on targets as noisy
or on clean ones (`noise.start`), and from there each loss goes on for the same number of steps on noisy
targets. BLEU is that of greedy translations of the clean test split, detokenised. Cells that are finished
are kept under `results/`, so a launch with more levels, kinds, losses or seeds adds to what is there;
`--mode=eval` translates again with every trained model.
`--mode=compile` compiles the train step under EISL for a TPU slice.
"""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax

from experiments import checks, translation
from experiments.study import Study, compile_step, open_study
from jaxgen import config as config_lib
from jaxgen import launch
from jaxgen.config import Config
from jaxgen.data import translation as translation_data
from jaxgen.errors import ConfigError
from jaxgen.metrics import text as text_metrics
from jaxgen.text import noise, tokenizers
from jaxgen.train import markup, plots, report, tables
from jaxgen.train.writers import read_json, write_atomic

NAMES = {
    **checks.NAMES,
    "": "seed seeds losses smoothing",
    "data": "source path train valid test limit seed tokenizer vocab_size max_tokens train_tokens",
    "model": "width depth heads dropout dtype remat scan non_autoregressive length_weight",
    "noise": "kinds levels start",
    "eisl": "ngram_factor ce_factor ngrams fused_bytes",
    "finetune": "steps learning_rate",
}
TITLES = {
    "start": "CE (the start)",
    "ce": "CE",
    "smoothing": "label smoothing",
    "pg": "policy gradient",
    "eisl": "EISL",
}
SHOWN = 10  # translations


def validate(config: Config) -> None:
    """Raises ConfigError for any value that cannot run; touches no device and no data."""
    c = config_lib
    c.check(config, {"model.non_autoregressive": c.FLAG})
    known = (
        translation.NON_AUTOREGRESSIVE_LOSSES
        if config.model.non_autoregressive
        else translation.LOSSES
    )
    rules = {
        "data.source": c.one_of(*translation_data.SOURCES),
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
    checks.check_divides(config, "model.heads", "model.width")
    checks.check_ngrams(config, "eisl.ngrams", d.train_tokens or longest)
    if not e.ngram_factor and not e.ce_factor:
        raise ConfigError("eisl.ngram_factor", e.ngram_factor, "above 0, or eisl.ce_factor is")
    if e.fused_bytes and config.model.non_autoregressive:
        raise ConfigError("eisl.fused_bytes", e.fused_bytes, "0 with model.non_autoregressive")
    checks.check_run(config)


def cells(config: Config) -> list[tuple[str, float]]:
    """(kind, level) of every cell; level 0 is the same for all kinds and is done once."""
    clean = [(config.noise.kinds[0], 0.0)] if 0.0 in config.noise.levels else []
    return clean + [(k, x) for k in config.noise.kinds for x in config.noise.levels if x > 0]


def cell_name(kind: str, level: float) -> str:
    """Of the runs of a cell."""
    return "clean" if level == 0 else f"{kind}{level:g}"


@dataclasses.dataclass(frozen=True)
class Tested:
    """A model, its BLEU on the test split, and its translations."""

    model: Any
    bleu: float
    texts: list[str]

    @classmethod
    def on_test(cls, model: Any, corpus: translation.Corpus) -> "Tested":
        """Translates the test split."""
        return cls(model, *translation.bleu(model, corpus, "test"))

    def row(self, **cell: Any) -> dict[str, Any]:
        """What is kept of it."""
        return {**cell, "bleu": self.bleu, "samples": self.texts[:5]}


def train_start(
    study: Study, corpus: translation.Corpus, kind: str, level: float, seed: int
) -> Tested:
    """Trains by cross-entropy on targets of that noise, and tests."""
    system = translation.system(study.config, corpus, "ce", f"start-{cell_name(kind, level)}")
    model = study.fit(system, seed, corpus.arrays(kind, level, seed))
    return Tested.on_test(model, corpus)


def run_cell(
    study: Study, corpus: translation.Corpus, kind: str, level: float, seed: int, start: Tested
) -> list[dict[str, Any]]:
    """Trains and tests every loss of one cell; one row each, and one of the start."""
    config, name = study.config, cell_name(kind, level)
    cell = {"kind": kind, "level": level, "seed": seed}
    arrays = corpus.arrays(kind, level, seed)
    rows = [start.row(loss="start", **cell)]
    for loss in config.losses:
        run = f"{loss}-{name}"
        model = study.fit(
            translation.system(config, corpus, loss, run, start.model, mesh=study.mesh),
            seed,
            arrays,
            steps=config.finetune.steps,
            learning_rate=config.finetune.learning_rate,
        )
        rows.append(Tested.on_test(model, corpus).row(loss=loss, **cell))
    return rows


def read_rows(path: pathlib.Path, kind: str, level: float, seed: int) -> list[dict[str, Any]]:
    """What `run` kept of a cell; nothing where something else stands there."""
    rows = read_json(path)
    cell, form = (kind, level, seed), {"loss": str, "bleu": float, "samples": list}
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, dict) or cell != tuple(map(row.get, ("kind", "level", "seed"))):
            return []
        if any(not isinstance(row.get(k), t) for k, t in form.items()):
            return []
    return rows if isinstance(rows, list) else []


def run(config: Config, workdir: pathlib.Path, *, reuse: bool) -> None:
    """Trains and tests whatever is not finished, and writes the report.

    Args:
      reuse: take finished cells from `results/`; without it every cell is tested again, and nothing is
        trained.
    """
    study = open_study(config, workdir, translation.load, may_train=reuse)
    corpus: Any = study.data
    # Cells that begin at one clean start follow each other.
    start = functools.lru_cache(maxsize=1)(functools.partial(train_start, study, corpus))
    clean = config.noise.start == "clean"
    rows: list[dict[str, Any]] = []
    for seed in range(config.seed, config.seed + config.seeds):
        for kind, level in cells(config):
            path = workdir / "results" / f"{kind}-{level:g}-{seed}.json"
            done = read_rows(path, kind, level, seed) if reuse else []
            if not {"start", *config.losses} <= {row["loss"] for row in done}:
                begin = (
                    start(config.noise.kinds[0], 0.0, seed) if clean else start(kind, level, seed)
                )
                new = run_cell(study, corpus, kind, level, seed, begin)
                renewed = {row["loss"] for row in new}
                done = new + [row for row in done if row["loss"] not in renewed]
                if jax.process_index() == 0:
                    write_atomic(path, json.dumps(done, indent=2) + "\n")
            rows += done
    if jax.process_index() == 0:
        print(f"report: {write(study, corpus, rows)}")


train = functools.partial(run, reuse=True)
evaluate_again = functools.partial(run, reuse=False)


def compile_eisl(config: Config, _: pathlib.Path) -> None:
    """Compiles the train step under EISL for `mesh.topology` and prints what one chip has to hold."""
    corpus, batch = translation.abstract(config)
    compile_step(
        config,
        lambda mesh: translation.system(config, corpus, "eisl", "eisl", mesh=mesh),
        batch,
    )


def write(study: Study, corpus: translation.Corpus, rows: list[dict[str, Any]]) -> pathlib.Path:
    """The tables and the curves of BLEU over level; returns the report's path."""
    config = study.config
    start = config.noise.start
    sizes = ", ".join(
        f"{len(part):,} {markup.literal(name)}" for name, part in corpus.parts.items()
    )
    page = report.Report("EISL on translation", study.workdir, config)
    page.text(
        f"Data: {markup.literal(config.data.source)}; {sizes} pairs. Cross-entropy for {config.train.steps:,} steps of "
        f"batch {config.train.batch_size} on {start} targets, then each loss for "
        f"{config.finetune.steps:,} more on noisy ones. sacrebleu (13a) of greedy translations of the clean test "
        f"split, {config.seeds} seed(s); ± is the standard deviation over seeds. *Copy of the input*: the source "
        f"sentences as their own translations.\n\n{corpus.about_cuts()}"
    )
    test = corpus.parts["test"]
    copied = text_metrics.bleu(test.source, test.target, tokenize="13a")
    levels = sorted({r["level"] for r in rows})
    kinds = config.noise.kinds if any(levels) else ("no noise",)
    panels: dict[str, Any] = {}
    page.columns["bleu"] = "BLEU ↑"
    for kind in kinds:
        mine = [r for r in rows if r["kind"] == kind or r["level"] == 0]
        lines, drawn = [], {}
        for loss in ("start", *config.losses):
            scores = [
                [r["bleu"] for r in mine if (r["loss"], r["level"]) == (loss, level)]
                for level in levels
            ]
            lines.append([TITLES[loss], *map(tables.number, scores)])
            drawn[TITLES[loss]] = (levels, [tables.mean_and_spread(each)[0] for each in scores])
        page.section(f"BLEU: {kind}")
        header = ["loss", *(f"level {x:g} ↑" for x in levels)]
        page.table(header, lines, [["copy of the input", *[tables.Number(copied)] * len(levels)]])
        panels[kind] = drawn
    picture = study.workdir / "samples" / "bleu.png"
    plots.plot_panels(picture, panels, x="noise level", y="BLEU", marker="o")
    page.plot("BLEU over the level of noise", "samples/bleu.png")
    page.section("Translations")
    last = [r for r in rows if r["seed"] == config.seed and r["level"] == levels[-1]]
    columns: dict[str, list[str]] = {
        "source": test.source[:SHOWN],
        "reference": test.target[:SHOWN],
    }
    for r in last:
        noisy = f" ({r['kind']})" if r["level"] and len(kinds) > 1 else ""
        columns[TITLES[r["loss"]] + noisy] = r["samples"][:SHOWN]
    page.texts(columns)
    page.curves()
    return page.write({"systems": rows, "floors": {"copy of the input": {"bleu": copied}}})


if __name__ == "__main__":
    launch.run({"train": train, "eval": evaluate_again, "compile": compile_eisl}, validate)
