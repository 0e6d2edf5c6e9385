"""Tables, sentences before and after, pictures of trajectories, and the page to play with."""

import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import attributes as attribute_fields
from experiments.common.runs import Study
from experiments.latentops import guided
from experiments.latentops.methods import GRIDS
from experiments.latentops.space import Space
from jaxgen.data.tokens import TextSplit, about_cuts
from jaxgen.evaluators.attributes import LABELS
from jaxgen.evaluators.common import batched_apply, encode
from jaxgen.evaluators.controlled_text import ControlledText
from jaxgen.latent_ode import energy
from jaxgen.models.attribute_heads import Operators
from jaxgen.train import markup, plots, report
from jaxgen.train.tables import summarise
from jaxgen.train.writers import write_atomic

# By judges that had no part in any choice, where a config asks for them.
FURTHER = {
    "pretrained_ppl": "PPL of a pretrained LM ↓",
    "vader_accuracy": "accuracy by VADER ↑",
}
EDIT = {
    "accuracy": "accuracy ↑",
    "bleu": "input-BLEU ↑",
    "ppl": "PPL ↓",
    **FURTHER,
    "mean": "geometric mean ↑",
    "milliseconds": "ms a sentence ↓",
    "nfe": "NFE",
    "failed": "failed",
    "guidance_strength": "guidance strength",
}
GENERATE = {
    "accuracy": "accuracy ↑",
    "ppl": "PPL ↓",
    **FURTHER,
    "mauve": "MAUVE ↑",
    "self_bleu": "self-BLEU ↓",
    "distinct_2": "distinct-2 ↑",
    "diversity": "diversity ↑",
    "memorised": "memorised 4-grams",
    "mean": "geometric mean ↑",
    "milliseconds": "ms a sentence ↓",
    "nfe": "NFE",
    "failed": "failed",
    "guidance_strength": "guidance strength",
}
SHOWN = 40  # sentences before and after
PAGE_ROWS, PAGE_POINTS, PAGE_STRENGTHS = 12, 5, (0.5, 1.0, 2.0)


def write(
    study: Study,
    judges: ControlledText,
    rows: Sequence[Mapping[str, Any]],
    shown: Mapping[str, Mapping[str, Any]],
) -> pathlib.Path:
    """Writes the report; returns its path.

    Args:
      rows: one a space, task, combination of attributes, method and seed; those of rules have `floor` set.
      shown: of each space, what `methods.evaluate` returned beside its rows.
    """
    config, data = study.config, study.data
    page = report.Report("LatentOps", study.workdir, config)
    page.text(f"{_about(study, judges)}\n{about_cuts(data)}")
    combinations = [" + ".join(names) for names in config.evaluate.combinations]
    for task, columns in (("edit", EDIT), ("generate", GENERATE)):
        title = "Editing" if task == "edit" else "Generation"
        for space in shown:
            for combination in combinations:
                wanted = (task, space, combination)
                mine = [r for r in rows if (r["task"], r["space"], r["attributes"]) == wanted]
                page.section(f"{title} in the latent space of {space}: {combination}")
                methods = [r for r in mine if not r.get("floor")]
                rules = summarise([r for r in mine if r.get("floor")], list(columns))
                page.comparison(methods, columns, rules=rules, label="method")
    first = next(iter(shown))
    tables = shown[first]["tables"]
    for combination in combinations:
        for task, title in (("edit", "Before and after"), ("generate", "Generated")):
            page.section(f"{title} ({first}): {combination}")
            asked = (task, combination)
            made = {method: t for (*cell, method), t in tables.items() if tuple(cell) == asked}
            page.texts(side_by_side(made, SHOWN if task == "edit" else 12))
    space, operators = shown[first]["space"], shown[first]["operators"]
    test = data["test"].take(PAGE_ROWS)
    page.section("Along the way")
    _pictures(page, study, space, operators, test)
    write_page(study, space, operators, test)
    page.text("Pick operators and strengths yourself: [page.html](page.html).\n")
    page.curves()
    return page.write(
        {
            "systems": [dict(row) for row in rows if not row.get("floor")],
            "floors": [dict(row) for row in rows if row.get("floor")],
        }
    )


def _about(study: Study, judges: ControlledText) -> str:
    config, data = study.config, study.data
    sizes = ", ".join(f"{len(part):,} {markup.literal(name)}" for name, part in data.items())

    def values(task: str, method: str) -> str:
        return ", ".join(f"{k:g}" for k in GRIDS[task][method])

    return (
        f"Data: {markup.literal(config.data.source)}; {sizes} sentences. {config.train.steps:,} steps of batch "
        f"{config.train.batch_size} for each autoencoder, {config.seeds} seed(s); ± is the standard "
        f"deviation over seeds. Accuracy: all attributes at once, {markup.literal(judges.attributes.about())}. "
        f"PPL under a language model of the train split (real test sentences: {judges.real_ppl:.1f}). Self-BLEU of real test "
        f"sentences: {judges.real_self_bleu:.1f}. Each method has one guidance strength, its operators' weight (for "
        f"the shift its length), chosen on the valid split by the geometric mean, out of "
        f"{values('edit', 'ODE')} in editing, {values('generate', 'ODE')} in generation (shift: "
        f"{values('edit', 'linear shift')}; guided diffusion: {', '.join(f'{k:g}' for k in guided.GRID)}). That mean is, of "
        "edits, over accuracy, input-BLEU / 100 and min(1, PPL of real / PPL); of generation, over "
        "accuracy, min(1, PPL of real / PPL) and min(1, (100 - self-BLEU) / (100 - real self-BLEU)). "
        "MAUVE compares with as many valid sentences, in the features of a language model; diversity is the product of "
        "distinct-2, -3 and -4; memorised, the share of 4-grams that stand in a train sentence. "
        "Time: the movement of latents alone, all rows in one call, median of three. The last rows of a table "
        "are no methods: *copy of the input* leaves sentences as they are, *majority class* always writes what "
        "is asked most often, *data* are real test sentences, which nothing was asked of.\n"
    )


def _asked(targets: Mapping[str, np.ndarray], row: int) -> str:
    return ", ".join(LABELS[name][int(label[row])] for name, label in targets.items())


def side_by_side(
    methods: Mapping[str, tuple[Any, Sequence[str], np.ndarray]], count: int
) -> dict[str, list[str]]:
    """Columns: sentences before (of edits), what was asked, and what each method made of it.

    Args:
      methods: method -> (task, texts, the task's rows that they come from); a row without text was not solved.
      count: of rows, at even distances.
    """
    task = next(iter(methods.values()))[0]
    total = len(next(iter(task.targets.values())))
    chosen = np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()
    columns = {} if task.sources is None else {"before": [task.sources[i] for i in chosen]}
    columns["asked"] = [_asked(task.targets, i) for i in chosen]
    for name, (_, texts, index) in methods.items():
        found = dict(zip(index.tolist(), texts, strict=True))
        columns[name] = [found.get(i, "(not solved)") for i in chosen]
    return columns


def _pictures(
    page: report.Report, study: Study, space: Space, operators: Operators, test: TextSplit
) -> None:
    """Energy along the solve of each row, and the paths in the plane of two principal axes."""
    from jaxgen.latent_ode import sample

    name = attribute_fields.names(study.config)[0]
    u = jnp.asarray(batched_apply(encode, space, test.x))
    total = energy.compose([(operators.get(name), 1, 1.0)])
    _, stats = jax.jit(lambda u: sample.solve(total, u, points=30))(u)
    path = np.concatenate([np.asarray(u)[:, None], np.asarray(stats.trajectory)], 1)
    values = np.asarray(jax.vmap(jax.vmap(total))(jnp.asarray(path)))
    steps = list(range(path.shape[1]))
    folder = study.workdir / "samples"
    label = LABELS[name][1]
    plots.plot_curves(
        folder / "energy.png",
        {f"sentence {i + 1}": (steps, v.tolist()) for i, v in enumerate(values[:8])},
        x="place on the path (30 equal parts)",
        y=f"energy of {label}",
    )
    axes = np.linalg.svd(path.reshape(-1, path.shape[-1]), full_matrices=False)[2][:2]
    plane = path @ axes.T
    plots.plot_curves(
        folder / "paths.png",
        {
            f"sentence {i + 1}": (p[:, 0].tolist(), p[:, 1].tolist())
            for i, p in enumerate(plane[:8])
        },
        x="first principal axis",
        y="second",
    )
    page.text(f"Energy of {markup.literal(label)} along the path of eight test sentences.\n")
    page.grid({"energy": "samples/energy.png", "paths": "samples/paths.png"}, plots=True)


def write_page(study: Study, space: Space, operators: Operators, test: TextSplit) -> pathlib.Path:
    """page.html: a person picks operators and a strength, and reads the sentences along the path.

    Every choice is solved and decoded beforehand, so that the one file works anywhere.
    """
    from jaxgen.latent_ode import sample

    config, names = study.config, attribute_fields.names(study.config)
    u = jnp.asarray(batched_apply(encode, space, test.x))
    ops = [operators.get(name) for name in names]
    o = config.ode

    @jax.jit
    def solve(labels: Any, weights: Any) -> Any:
        total = energy.compose([(op, labels[i], weights[i]) for i, op in enumerate(ops)])
        _, stats = sample.solve(
            total, u, rtol=o.rtol, atol=o.atol, max_steps=o.max_steps, points=PAGE_POINTS
        )
        return stats.trajectory, stats.failed

    choices = [(-1, *range(len(LABELS[name]))) for name in names]
    texts: dict[str, list[list[str]]] = {}
    for strength in PAGE_STRENGTHS:
        for choice in itertools.product(*choices):
            if max(choice) < 0:
                continue
            on = jnp.asarray([c >= 0 for c in choice], jnp.float32)
            path, failed = solve(jnp.maximum(jnp.asarray(choice), 0), strength * on)
            flat = np.asarray(path).reshape(-1, path.shape[-1])
            lines = space.texts(np.nan_to_num(flat), study.data["train"])
            rows = [lines[i : i + PAGE_POINTS] for i in range(0, len(lines), PAGE_POINTS)]
            lost = np.asarray(failed)
            key = ",".join(map(str, choice)) + f"@{strength:g}"
            texts[key] = [["(not solved)"] if f else r for r, f in zip(rows, lost, strict=True)]
    data = {
        "names": names,
        "labels": [LABELS[name] for name in names],
        "strengths": [f"{s:g}" for s in PAGE_STRENGTHS],
        "sources": test.text,
        "texts": texts,
    }
    path = study.workdir / "page.html"
    shown = json.dumps(_visible(data)).replace("<", "\\u003c")  # nothing in it ends the script
    script = markup.asset("paths.js").replace("DATA", shown)
    body, style = markup.asset("paths.html"), markup.asset("paths.css")
    write_atomic(path, markup.page("LatentOps", body, style=style, script=script))
    return path


def _visible(data: Any) -> Any:
    """Every string of nested dicts and lists as `markup.visible` has it."""
    if isinstance(data, Mapping):
        return {k: _visible(v) for k, v in data.items()}
    if isinstance(data, str):
        return markup.visible(data)
    return [_visible(v) for v in data]
