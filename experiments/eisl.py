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
import math
import pathlib
from typing import Any

import jax

from experiments import translation
from experiments.image_report import curves
from experiments.study import RULES, Study, check_accumulate, compile_step, open_study
from jaxgen import config as config_lib
from jaxgen import launch
from jaxgen.config import Config
from jaxgen.data import parallel
from jaxgen.metrics import text as text_metrics
from jaxgen.text import noise
from jaxgen.train import markup, report
from jaxgen.train.writers import read_json, write_atomic

_c = config_lib
TITLES = {
    "start": "CE (the start)",
    "ce": "CE",
    "smoothing": "label smoothing",
    "pg": "policy gradient",
    "eisl": "EISL",
}


def validate(config: Config) -> None:
    """Raises ConfigError for any value that cannot run; touches no device and no data."""
    parallel_decoder = config.model.parallel
    known = translation.PARALLEL_LOSSES if parallel_decoder else translation.LOSSES
    _c.check(
        config,
        {
            **RULES,
            "data.source": _c.one_of(*parallel.SOURCES),
            "data.limit": _c.NON_NEGATIVE,
            "data.max_tokens": _c.at_least(5),
            "data.train_tokens": (
                lambda v: v == 0 or 5 <= v <= config.data.max_tokens,
                "0 (as data.max_tokens), or 5 to data.max_tokens",
            ),
            "data.vocab_size": _c.at_least(8),
            "model.width": _c.at_least(1),
            "model.depth": _c.at_least(1),
            "model.heads": _c.at_least(1),
            "model.dropout": _c.FRACTION,
            "model.dtype": _c.one_of("float32", "bfloat16"),
            "model.length_weight": _c.NON_NEGATIVE,
            "noise.kinds": _c.some_of(*noise.KINDS),
            "noise.levels": (lambda v: v and all(0 <= x <= 1 for x in v), "numbers from 0 to 1"),
            "noise.start": _c.one_of("noisy", "clean"),
            "losses": _c.some_of(*known),
            "smoothing": _c.FRACTION,
            "eisl.ngram_factor": _c.NON_NEGATIVE,
            "eisl.ce_factor": _c.NON_NEGATIVE,
            "eisl.ngrams": (
                lambda v: v and all(n >= -1 for n in v),
                "one or more of -1, 0, 1, ...",
            ),
            "eisl.fused_bytes": (
                lambda v: v == 0 or (v > 0 and not parallel_decoder),
                "0 (not fused), or bytes; 0 with model.parallel",
            ),
            "finetune.steps": _c.at_least(1),
            "finetune.learning_rate": _c.POSITIVE,
        },
    )
    check_accumulate(config)


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
            done = (read_json(path) if reuse else None) or []
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
    body = [
        f"Data: {markup.literal(config.data.source)}; {sizes} pairs. Cross-entropy for {config.train.steps:,} steps of "
        f"batch {config.train.batch_size} on {start} targets, then each loss for "
        f"{config.finetune.steps:,} more on noisy ones. sacrebleu (13a) of greedy translations of the clean test "
        f"split, {config.seeds} seed(s); ± is the standard deviation over seeds. *Copy of the input*: the source "
        "sentences as their own translations.\n"
    ]
    test = corpus.parts["test"]
    copied = text_metrics.bleu(test.source, test.target, tokenize="13a")
    levels = sorted({r["level"] for r in rows})
    kinds = config.noise.kinds if any(levels) else ("no noise",)
    panels: dict[str, Any] = {}
    for kind in kinds:
        mine = [r for r in rows if r["kind"] == kind or r["level"] == 0]
        lines, drawn = [], {}
        for loss in ("start", *config.losses):
            cell, points = [], []
            for level in levels:
                scores = [r["bleu"] for r in mine if (r["loss"], r["level"]) == (loss, level)]
                mean, spread = report.mean_and_spread(scores)
                cell.append(report.format_value(mean, spread))
                points.append(mean)
            lines.append([TITLES[loss], *cell])
            drawn[TITLES[loss]] = (levels, points)
        lines.append(["copy of the input", *[report.format_value(copied, math.nan)] * len(levels)])
        body.append(f"## {markup.literal(kind)}\n")
        body.append(report.markdown_table(["loss", *(f"level {x:g}" for x in levels)], lines))
        panels[kind] = drawn
    body.append(corpus.about_cuts())
    picture = study.workdir / "samples" / "bleu.png"
    report.plot_panels(picture, panels, x="noise level", y="BLEU", marker="o")
    body.append("![BLEU over the level of noise](samples/bleu.png)\n")
    body.append("## Translations\n")
    last = [r for r in rows if r["seed"] == config.seed and r["level"] == levels[-1]]
    body.append(
        report.markdown_table(
            ["noise", "loss", "source", "translation", "reference"],
            [
                [
                    r["kind"] if r["level"] else "none",
                    TITLES[r["loss"]],
                    test.source[i],
                    text,
                    test.target[i],
                ]
                for r in last
                for i, text in enumerate(r["samples"][:3])
            ],
        )
    )
    body.append(curves(study.workdir))
    floors = {"copy of the input": {"bleu": copied}}
    results = {"systems": rows, "floors": floors, "config": config.to_dict()}
    return report.write(study.workdir, "EISL on translation", "\n".join(body), results)


if __name__ == "__main__":
    launch.run({"train": train, "eval": evaluate_again, "compile": compile_eisl}, validate)
