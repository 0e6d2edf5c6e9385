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
from experiments.eddpm.image_report import curves
from experiments.latentops.methods import GRIDS
from experiments.latentops.space import Space
from jaxgen.data.tokens import TextSplit, about_cuts
from jaxgen.evaluators.attributes import LABELS
from jaxgen.evaluators.common import batched_apply, encode
from jaxgen.evaluators.controlled_text import ControlledText
from jaxgen.latent_ode import energy
from jaxgen.models.attribute_heads import Operators
from jaxgen.train import markup, report
from jaxgen.train.writers import write_atomic

EDIT = {
    "accuracy": "accuracy ↑",
    "bleu": "input-BLEU ↑",
    "ppl": "PPL ↓",
    "mean": "geometric mean ↑",
    "milliseconds": "ms a sentence ↓",
    "nfe": "NFE",
    "failed": "failed",
    "guidance_strength": "guidance_strength",
}
GENERATE = {
    "accuracy": "accuracy ↑",
    "ppl": "PPL ↓",
    "self_bleu": "self-BLEU ↓",
    "distinct_2": "distinct-2 ↑",
    "mean": "geometric mean ↑",
    "milliseconds": "ms a sentence ↓",
    "nfe": "NFE",
    "failed": "failed",
    "guidance_strength": "guidance_strength",
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
    body = [_about(study, judges), about_cuts(data)]
    for task, columns in (("edit", EDIT), ("generate", GENERATE)):
        title = "Editing" if task == "edit" else "Generation"
        for space in shown:
            for names in config.evaluate.combinations:
                combination = " + ".join(names)
                mine = [
                    r
                    for r in rows
                    if (r["task"], r["space"], r["attributes"]) == (task, space, combination)
                ]
                body.append(
                    f"## {title} in the latent space of {markup.literal(f'{space}: {combination}')}\n"
                )
                body.append(table(mine, columns))
    first = next(iter(shown))
    for names in config.evaluate.combinations:
        combination = " + ".join(names)
        task, texts, index = shown[first]["tables"]["edit", combination, "ODE"]
        body.append(
            f"## Before and after ({markup.literal(first)}, ODE): {markup.literal(combination)}\n"
        )
        body.append(before_and_after(task, texts, index, SHOWN))
        task, texts, index = shown[first]["tables"]["generate", combination, "ODE"]
        body.append(f"Generated ({markup.literal(first)}, ODE): {markup.literal(combination)}\n")
        body.append(generated(task, texts, index, 12))
    space, operators = shown[first]["space"], shown[first]["operators"]
    test = data["test"].take(PAGE_ROWS)
    body.append("## Along the way\n\n" + _pictures(study, space, operators, test))
    write_page(study, space, operators, test)
    body.append("Pick operators and strengths yourself: [page.html](page.html).\n")
    body.append(curves(study.workdir))
    results = {
        "systems": [dict(row) for row in rows if not row.get("floor")],
        "floors": [dict(row) for row in rows if row.get("floor")],
        "config": config.to_dict(),
    }
    return report.write(study.workdir, "LatentOps", "\n".join(body), results)


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
        f"sentences: {judges.real_self_bleu:.1f}. Each method has one guidance_strength, its operators' weight (for "
        f"the shift its length), chosen on the valid split by the geometric mean, out of "
        f"{values('edit', 'ODE')} in editing, {values('generate', 'ODE')} in generation (shift: "
        f"{values('edit', 'linear shift')}). That mean is, of "
        "edits, over accuracy, input-BLEU / 100 and min(1, PPL of real / PPL); of generation, over "
        "accuracy, min(1, PPL of real / PPL) and min(1, (100 - self-BLEU) / (100 - real self-BLEU)). "
        "Time: the movement of latents alone, all rows in one call, median of three. The last rows of a table "
        "are no methods: *copy of the input* leaves sentences as they are, *majority class* always writes what "
        "is asked most often, *data* are real test sentences, which nothing was asked of.\n"
    )


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """One line a method, and below them one a rule."""
    rows = sorted(rows, key=lambda row: bool(row.get("floor")))
    summary = report.summarise(rows, list(columns))
    lines = [
        [name, *(report.format_value(*values[m]) if m in values else "–" for m in columns)]
        for name, values in summary.items()
    ]
    return report.markdown_table(["method", *columns.values()], lines)


def _asked(targets: Mapping[str, np.ndarray], row: int) -> str:
    return ", ".join(LABELS[name][int(label[row])] for name, label in targets.items())


def before_and_after(task: Any, texts: Sequence[str], index: np.ndarray, count: int) -> str:
    """Sentences at even distances, what was asked, and what came of it."""
    pairs = list(zip(index.tolist(), texts, strict=True))
    places = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int)
    lines = [
        [task.sources[i], _asked(task.targets, i), text] for i, text in (pairs[p] for p in places)
    ]
    return report.markdown_table(["before", "asked", "after"], lines)


def generated(task: Any, texts: Sequence[str], index: np.ndarray, count: int) -> str:
    """New sentences beside what was asked; `index` are the rows that they come from."""
    pairs = list(zip(index.tolist(), texts, strict=True))[:count]
    lines = [[_asked(task.targets, i), text] for i, text in pairs]
    return report.markdown_table(["asked", "sentence"], lines)


def _pictures(study: Study, space: Space, operators: Operators, test: TextSplit) -> str:
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
    report.plot_curves(
        folder / "energy.png",
        {f"sentence {i + 1}": (steps, v.tolist()) for i, v in enumerate(values[:8])},
        x="place on the path (30 equal parts)",
        y=f"energy of {label}",
    )
    axes = np.linalg.svd(path.reshape(-1, path.shape[-1]), full_matrices=False)[2][:2]
    plane = path @ axes.T
    report.plot_curves(
        folder / "paths.png",
        {
            f"sentence {i + 1}": (p[:, 0].tolist(), p[:, 1].tolist())
            for i, p in enumerate(plane[:8])
        },
        x="first principal axis",
        y="second",
    )
    return (
        f"Energy of {markup.literal(label)} along the path of eight test sentences, and the paths themselves.\n\n"
        "![energy](samples/energy.png)\n\n![paths](samples/paths.png)\n"
    )


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
    script = _SCRIPT.replace("DATA", shown)
    write_atomic(path, markup.page("LatentOps", _BODY, style=_STYLE, script=script))
    return path


def _visible(data: Any) -> Any:
    """Every string of nested dicts and lists as `markup.visible` has it."""
    if isinstance(data, Mapping):
        return {k: _visible(v) for k, v in data.items()}
    if isinstance(data, str):
        return markup.visible(data)
    return [_visible(v) for v in data]


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:820px;margin:2em auto;padding:0 1em}
select{font:inherit;margin:0 1em .5em .3em;max-width:100%}label{white-space:nowrap}
ol{list-style:none;padding:0}li{border-left:4px solid #ccc;margin:.3em 0;padding:.1em .8em}
li:last-child{border-color:#2a6;font-weight:600}mark{background:#fe9}li{overflow-wrap:break-word}
"""
_BODY = """<h1>LatentOps</h1>
<p>Pick a sentence, operators and a strength; below, the sentence at equal distances along the path of the
ODE through latent space, decoded. What differs from the sentence before it is marked.</p>
<div><label>sentence <select id=source></select></label></div><div id=picks></div><ol id=path></ol>
"""
_SCRIPT = """
const d = DATA, at = i => document.getElementById(i);
const add = (s, text, value) => s.add(new Option(text, value));
d.sources.forEach((t, i) => add(at("source"), t, i));
d.names.forEach((name, k) => {
  const label = document.createElement("label"), s = document.createElement("select");
  label.textContent = name + " "; s.id = "pick" + k; add(s, "(as it is)", -1);
  d.labels[k].forEach((t, i) => add(s, t, i)); label.append(s); at("picks").append(label);
});
const label = document.createElement("label"), s = document.createElement("select");
label.textContent = "strength "; s.id = "strength"; d.strengths.forEach(t => add(s, t, t));
s.value = "1"; label.append(s); at("picks").append(label);
at("pick0").value = "1";
function show() {
  const row = +at("source").value, pick = d.names.map((_, k) => at("pick" + k).value);
  const lines = pick.every(v => v < 0) ? [] : d.texts[pick.join(",") + "@" + at("strength").value][row];
  at("path").replaceChildren(); let last = new Set(d.sources[row].split(" "));
  [d.sources[row], ...lines].forEach(t => {
    const li = document.createElement("li");
    t.split(" ").forEach(w => {
      const e = document.createElement(last.has(w) ? "span" : "mark"); e.textContent = w; li.append(e, " ");
    });
    at("path").append(li); last = new Set(t.split(" "));
  });
}
document.querySelectorAll("select").forEach(s => s.onchange = show); show();
"""
