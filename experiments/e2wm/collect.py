"""Experience from the simulator as files: four tasks to train on, and their tests with the worlds of their plans.

Everything lies in the workdir's folder `experience`, in the form of Xiang et al. (2023): {"input", "ref"} a line, or
{"input", "answer", "answer_list"}. Files that are there are not made again.
"""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.config import Config
from jaxgen.errors import ConfigError, RunError
from jaxgen.train.state import run_key
from jaxgen.train.writers import read_json, write_atomic
from jaxgen.world import apartments, experience, forms, gathering, graph, paths
from jaxgen.world.activities import ACTIVITIES, HELD_OUT, Activity
from jaxgen.world.gathering import Solved
from jaxgen.world.graph import Graph, World
from jaxgen.world.planning import Goal

log = logging.getLogger("jaxgen.e2wm")  # of the level that launches set
TASKS = ("plan", "recognise", "count", "path")
PLAN_SPLITS = ("seen", "unseen", "confusing")
OPTIONS = 4  # names to choose from where an activity is recognised
MOST = 3  # things that a counting story carries


@dataclasses.dataclass(frozen=True)
class Household:
    """Where a plan of the tests is to be carried out."""

    activity: str
    graph: Graph
    world: World
    goal: Goal
    plan: str  # what the search found


@dataclasses.dataclass(frozen=True)
class Experience:
    """What the simulator gave.

    Attributes:
      train: task -> rows {"input", "ref"}.
      tests: (task, split) -> rows; of plans and paths {"input", "ref"}, else {"input", "answer", "answer_list"}.
      households: split -> one for each row of the plans' tests.
    """

    train: dict[str, list[forms.Row]]
    tests: dict[tuple[str, str], list[forms.Row]]
    households: dict[str, list[Household]]


def load(config: Config, workdir: pathlib.Path) -> Experience:
    """The experience of a workdir, collected the first time.

    Raises:
      ConfigError: an activity of the tests of unseen activities is in the training files.
    """
    folder = workdir / "experience"
    if read_json(folder / "done.json") != _setting(config):
        _collect(config, folder)
    train = {t: forms.read(str(folder / f"train_{t}.json")) for t in TASKS}
    tests = {}
    for path in sorted(folder.glob("eval_*.json")):
        task, _, split = path.stem.removeprefix("eval_").partition("_")
        tests[task, split] = forms.read(str(path))
    check_held_out(train["plan"])
    households = {
        split: [_household(h) for h in json.loads((folder / f"worlds_{split}.json").read_text())]
        for split in PLAN_SPLITS
    }
    return Experience(train, tests, households)


def check_held_out(rows: Iterable[forms.Row], names: Iterable[str] = HELD_OUT) -> None:
    """Raises ConfigError where a plan to train on, or one of its worked examples, is of a held-out activity."""
    names = frozenset(names)
    for row in rows:
        for example in forms.parse("plan", str(row["input"])):
            if example.subject in names:
                allowed = "activities that are not held out for the tests of unseen ones"
                raise ConfigError("activity to train on", example.subject, allowed)


def _setting(config: Config) -> dict[str, object]:
    return json.loads(json.dumps({**config.collect.to_dict(), "shots": config.data.shots}))


def _collect(config: Config, folder: pathlib.Path) -> None:
    c, shots = config.collect, config.data.shots
    rng = np.random.default_rng(c.seed)
    known = [a for a in ACTIVITIES if a.name not in HELD_OUT]
    new = [a for a in ACTIVITIES if a.name in HELD_OUT]
    taken: set[str] = set()
    log.info("collect: plans of %d activities", len(ACTIVITIES))
    solved = {
        "train": _plans(config, "train", known, c.examples, rng, taken),
        "seen": _plans(config, "seen", known, c.test_examples, rng, taken),
        "unseen": _plans(config, "unseen", new, c.test_examples, rng, taken),
        "confusing": _plans(config, "confusing", known, c.test_examples, rng, taken),
    }
    folder.mkdir(parents=True, exist_ok=True)
    records = [_record(s) for s in solved["train"]]
    shown = {
        "plan": [experience.plan_example(r) for r in records],
        "recognise": [experience.recognise_example(r) for r in records],
    }
    log.info("collect: stories")
    tests = {}
    for task, story in (("count", _count), ("path", _path)):
        every = _stories(story, config, rng, c.examples + c.test_examples)
        shown[task], tests[task] = every[: c.examples], every[c.examples :]
    for task in TASKS:
        rows = experience.rows(task, shown[task], rng, shots)
        forms.write(str(folder / f"train_{task}.json"), rows)

    def ask(task: str, question: forms.Example) -> dict[str, str]:
        worked = rng.permutation(len(shown[task]))[:shots]
        return forms.row(task, question, [shown[task][int(i)] for i in worked])

    for split in PLAN_SPLITS:
        households = []
        rows: dict[str, list[forms.Row]] = {"plan": [], "recognise": []}
        for s in solved[split]:
            extra = gathering.distractors(rng, s.problem.graph, s.given) * (split == "confusing")
            record = _record(s, extra)
            rows["plan"].append(dict(ask("plan", experience.plan_example(record))))
            asked = ask("recognise", experience.recognise_example(record))
            others = [a.name for a in ACTIVITIES if a.name != record.activity]
            names = [record.activity, *rng.choice(others, OPTIONS - 1, replace=False).tolist()]
            rows["recognise"].append(_choice(asked, [names[i] for i in rng.permutation(OPTIONS)]))
            households.append(_saved(s, " ".join(record.plan)))
        forms.write(str(folder / f"eval_plan_{split}.json"), rows["plan"])
        if split != "confusing":  # the plans of which are those of `seen`
            forms.write(str(folder / f"eval_recognise_{split}.json"), rows["recognise"])
        write_atomic(folder / f"worlds_{split}.json", json.dumps(households))
    counted: list[forms.Row] = []
    for e in tests["count"]:
        options = [experience.count_answer(["x"] * k, e.subject) for k in range(MOST + 1)]
        row = ask("count", e)
        row["ref"] = _first(row["ref"])
        counted.append(_choice(row, [_first(o) for o in options]))
    forms.write(str(folder / "eval_count_all.json"), counted)
    forms.write(str(folder / "eval_path_all.json"), [dict(ask("path", e)) for e in tests["path"]])
    write_atomic(folder / "done.json", json.dumps(_setting(config), indent=2) + "\n")


def _plans(
    config: Config,
    split: str,
    among: Sequence[Activity],
    count: int,
    rng: np.random.Generator,
    taken: set[str],
) -> list[Solved]:
    """Solved problems, no two of one question; each activity in turn."""
    c = config.collect
    out: list[Solved] = []
    order: list[int] = []
    for turn in range(100):
        problems: list[gathering.Problem] = []
        for _ in range(100 * c.worlds):
            if not order:
                order = rng.permutation(len(among)).tolist()
            found = gathering.problem(rng, among[order.pop()], nodes=c.nodes, actions=c.actions)
            problems += [found] if found else []
            if len(problems) == c.worlds:
                break
        if len(problems) < c.worlds:
            raise ConfigError("collect.nodes", c.nodes, "apartments that more activities fit into")
        key = jax.random.fold_in(run_key(f"collect-{split}-{c.seed}"), turn)
        options = {"planner": c.planner, "simulations": c.simulations, "depth": c.depth}
        for solved in gathering.solve(problems, key, **options):
            question = str(experience.plan_example(_record(solved))[:2])
            if question not in taken and len(out) < count:
                taken.add(question)
                out.append(solved)
        log.info("collect: %d of %d plans, %s", len(out), count, split)
        if len(out) == count:
            return out
    raise RunError(
        f"no more than {len(out)} of {count} plans were found: raise collect.simulations"
    )


def _record(solved: Solved, extra: tuple[str, ...] = ()) -> experience.Record:
    p = solved.problem
    return experience.record(p.activity, p.graph, (*solved.given, *extra), solved.script)


def _stories(
    make: Callable[[Config, np.random.Generator], forms.Example],
    config: Config,
    rng: np.random.Generator,
    count: int,
) -> list[forms.Example]:
    out: dict[str, forms.Example] = {}
    while len(out) < count:
        example = make(config, rng)
        out.setdefault(example.context, example)
    return list(out.values())


def _count(config: Config, rng: np.random.Generator) -> forms.Example:
    source = apartments.sample(rng, nodes=config.collect.nodes)
    world = graph.load(source, nodes=config.collect.nodes)
    return experience.count_story(rng, source, world, most=MOST).example


def _path(config: Config, rng: np.random.Generator) -> forms.Example:
    return paths.path_story(rng, events=config.collect.events)[1]


def _choice(row: dict[str, str], options: Sequence[str]) -> forms.Row:
    return {"input": row["input"], "answer": row["ref"], "answer_list": list(options)}


def _first(answer: str) -> str:
    """`There are 2 items on the desk. They are ..` -> its first sentence."""
    return answer.partition(". ")[0].rstrip(".") + "."


def _saved(solved: Solved, plan: str) -> dict[str, Any]:
    p = solved.problem
    goal = {f.name: np.asarray(getattr(p.goal, f.name)).tolist() for f in dataclasses.fields(Goal)}
    size = int(p.world.origin.shape[0])
    return {"activity": p.activity, "graph": p.graph, "nodes": size, "goal": goal, "plan": plan}


def _household(saved: Mapping[str, Any]) -> Household:
    kinds = {"state": jnp.int32, "relation": jnp.int32, "source": jnp.uint32, "target": jnp.uint32}
    goal = Goal(**{k: jnp.asarray(np.array(saved["goal"][k]), t) for k, t in kinds.items()})
    world = graph.load(saved["graph"], nodes=saved["nodes"])
    return Household(saved["activity"], saved["graph"], world, goal, saved["plan"])
