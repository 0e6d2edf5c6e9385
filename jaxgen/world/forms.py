"""The files of experience: prompts with worked examples, as Xiang et al. (2023) write and evaluate them.

One JSON object a line: {"input", "ref"} to train on and to generate, {"input", "answer", "answer_list"} to choose
from. A prompt ends in `A:` or `Answer:` without a space. `render` and `parse` are inverse to each other.
"""

import json
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jaxgen.errors import ConfigError, RunError

Row = dict[str, object]


class Example(NamedTuple):
    """One question: what is asked about, the question's subject, and the answer ("" in a prompt's last one)."""

    context: str
    subject: str
    answer: str = ""


class Form(NamedTuple):
    """How a task asks: what precedes all, a pattern of one question, and what separates two."""

    opening: str
    question: str  # with {context} and {subject}; the answer follows after a space
    between: str


FORMS = {
    "plan": Form("", "Q: How to {subject}? Given items include {context}\nA:", "\n"),
    "recognise": Form(
        "",
        "Given a household activity plan as follows:\n{context}\n"
        "Q: What is the {subject} of the activity?\nA:",
        "\n\n",
    ),
    "count": Form(
        "Given a sequence of actions in a house, and a question about what items are located in a specific "
        "place. Answer the number of items and list the items.\n\n",
        "Q: {context} How many items are there on the {subject}?\nA:",
        "\n\n",
    ),
    "path": Form(
        "",
        "{context}\nQuestion: What is the order of the rooms where the {subject} appeared?\nAnswer:",
        "\n\n",
    ),
}


def render(task: str, examples: Sequence[Example]) -> str:
    """The prompt of worked examples and, at the end, the question to answer."""
    form = FORMS[task]
    parts = []
    for e in examples:
        asked = form.question.replace("{subject}", e.subject).replace("{context}", e.context)
        parts.append(asked + (f" {e.answer}" if e.answer else ""))
    return form.opening + form.between.join(parts)


def parse(task: str, prompt: str) -> list[Example]:
    """The examples of a prompt.

    Raises:
      ConfigError: an unknown task, or a prompt of another form.
    """
    if task not in FORMS:
        raise ConfigError("task", task, ", ".join(FORMS))
    form = FORMS[task]
    body = prompt.removeprefix(form.opening)
    pattern = re.escape(form.question)
    pattern = pattern.replace(r"\{context\}", "(?P<context>.*?)").replace(
        r"\{subject\}", "(?P<subject>[^\n]*?)"
    )
    found = [
        Example(m["context"], m["subject"], m["answer"] or "")
        for m in re.finditer(
            pattern + r"(?: (?P<answer>[^\n]*))?(?:" + form.between + r"|\Z)", body, re.DOTALL
        )
    ]
    if not found or render(task, found) != prompt:
        raise ConfigError("prompt", prompt, f"the form of task {task}")
    return found


def row(task: str, question: Example, shots: Sequence[Example] = ()) -> dict[str, str]:
    """One line of a file: the prompt, and the answer as `ref`."""
    prompt = render(task, [*shots, question._replace(answer="")])
    return {"input": prompt, "ref": question.answer}


def read(path: str) -> list[Row]:
    """Rows of a file.

    Raises:
      RunError: the file cannot be read, or a line is not a row; it names the line.
    """
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as e:
        raise RunError(f"{path} cannot be read: {e.strerror}") from e
    out = []
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
        except json.JSONDecodeError as e:
            raise RunError(f"{path}, line {number}: not JSON ({e.msg})") from e
        fields = found.keys() if isinstance(found, dict) else set()
        if not (fields >= {"input", "ref"} or fields >= {"input", "answer", "answer_list"}):
            raise RunError(
                f"{path}, line {number}: neither input, ref nor input, answer, answer_list"
            )
        out.append(found)
    return out


def write(path: str, rows: Iterable[Row]) -> None:
    """Rows to a file, one a line, in UTF-8."""
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    pathlib.Path(path).write_text(text, encoding="utf-8")
