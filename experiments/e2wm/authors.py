"""The evaluation files of Xiang et al. (2023), in the folder `data.embodied`; their worked examples cut to `data.shots`."""

import pathlib
from collections.abc import Callable

import numpy as np

from experiments.e2wm.evaluation import Reader, path_scores
from jaxgen.config import Config
from jaxgen.data.root import expand
from jaxgen.errors import ConfigError
from jaxgen.metrics import choice, rouge
from jaxgen.world import forms

# file -> (score, what each worked example begins with)
QA = {
    "act_recog": ("ln", "Given a task plan:"),
    "count": ("ln", "Q: "),
    "obj_move": ("ln", "\n\n"),
    "housework_qa": ("un", "Question: "),
    "neg_housework_qa": ("un", "Question: "),
    "act_infer": ("un", "\n\n"),
}
PLANS = ("plan_gen", "plan_gen_unseen", "plan_gen_confusing", "plan_gen_unseen_confusing")


def evaluate(config: Config, reader: Reader) -> dict[str, float]:
    """Accuracies of the QA files, ROUGE-L of plans (all, and those of activities in their training file), path overlap.

    Their references are human programs, with verbs that no search uses: ROUGE has a ceiling far below 1.

    Raises:
      ConfigError: a file is not there.
    """
    d, e = config.data, config.evaluate
    folder = pathlib.Path(expand(d.embodied))
    row = {}
    for name, (norm, marker) in QA.items():
        asked = _read(folder / "eval" / "qa" / f"{name}.json", d.shots, e.limit, by_marker(marker))
        chosen = reader.choose(asked, norm)
        row[f"authors_{name}"] = choice.accuracy(chosen, [str(r["answer"]) for r in asked])
    known = {
        forms.parse("plan", str(r["input"]))[-1].subject
        for r in _rows(folder / "train" / "train_plan_gen.json")
    }
    for name in PLANS:
        asked = _read(folder / "eval" / "gen" / f"{name}.json", d.shots, e.limit, last_plan)
        written = reader.write(
            [str(r["input"]) for r in asked], max_tokens=e.plan_tokens, beams=e.beams
        )
        pairs = list(zip(written, [str(r["ref"]) for r in asked], strict=True))
        row[f"authors_{name}"] = rouge.rouge(*map(list, zip(*pairs, strict=True)))["rougeL"]
        if name == "plan_gen":  # it holds activities of all kinds
            seen = [
                p
                for p, r in zip(pairs, asked, strict=True)
                if forms.parse("plan", str(r["input"]))[-1].subject in known
            ]
            found = rouge.rouge(*map(list, zip(*seen, strict=True)))["rougeL"] if seen else np.nan
            row["authors_plan_gen_seen"] = float(found)
    asked = _read(folder / "eval" / "gen" / "obj_move_path.json", d.shots, e.limit, last_path)
    row["authors_path_overlap"] = path_scores(reader, asked, e.path_tokens)["path_overlap"]
    return row


def by_marker(marker: str) -> Callable[[str, int], str]:
    """Keeps the last question and so many worked examples, each of which begins with a marker."""

    def cut(prompt: str, shots: int) -> str:
        head, *parts = prompt.split(marker)
        kept = parts[-1 - shots :]
        if marker.isspace():
            return marker.join([head, *parts][-1 - shots :])
        opening = head if head.strip() else ""
        return opening + "".join(marker + p for p in kept)

    return cut


def last_plan(prompt: str, shots: int) -> str:
    """The last question of a prompt of plans, and so many before it."""
    return forms.render("plan", forms.parse("plan", prompt)[-1 - shots :])


def last_path(prompt: str, shots: int) -> str:
    """The last question of a prompt of paths, and so many before it."""
    return forms.render("path", forms.parse("path", prompt)[-1 - shots :])


def _rows(path: pathlib.Path) -> list[forms.Row]:
    if not path.is_file():
        raise ConfigError("data.embodied", str(path), "a folder with the files of the paper's eval")
    return forms.read(str(path))


def _read(
    path: pathlib.Path, shots: int, limit: int, cut: Callable[[str, int], str]
) -> list[forms.Row]:
    rows = _rows(path)[: limit or None]
    return [{**r, "input": cut(str(r["input"]), shots)} for r in rows]
