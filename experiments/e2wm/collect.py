"""Experience from the simulator as files: four tasks to train on, and their tests with the worlds of their plans.

Everything lies in the workdir's folder `experience`, in the form of Xiang et al. (2023): {"input", "ref"} a line, or
{"input", "answer", "answer_list"}. Files that are there are not made again.
"""

import contextlib
import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Iterable, Sequence
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
class Found:
    """A plan that the search found, as a file keeps it.

    Attributes:
      given: the classes that its question names.
      script: actions [L, 3].
      goal: the arrays of a `Goal`.
      nodes: of the world, with those that fill up.
    """

    activity: str
    graph: Graph
    given: list[str]
    script: list[list[int]]
    goal: dict[str, Any]
    nodes: int


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
    households = {}
    for split in PLAN_SPLITS:
        kept = json.loads((folder / f"plans_{split}.json").read_text("utf-8"))
        households[split] = [_household(Found(**row)) for row in kept["plans"]]
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
    known = [a for a in ACTIVITIES if a.name not in HELD_OUT]
    new = [a for a in ACTIVITIES if a.name in HELD_OUT]
    folder.mkdir(parents=True, exist_ok=True)
    log.info("collect: plans of %d activities", len(ACTIVITIES))
    taken: set[str] = set()
    solved = {
        split: _kept_plans(config, folder, split, new if split == "unseen" else known, taken)
        for split in ("train", *PLAN_SPLITS)
    }
    rng = np.random.default_rng([c.seed, 1])
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
        made = experience.rows(task, shown[task], rng, shots)
        forms.write(str(folder / f"train_{task}.json"), map(dict, made))

    def ask(task: str, question: forms.Example) -> dict[str, str]:
        worked = rng.permutation(len(shown[task]))[:shots]
        return forms.row(task, question, [shown[task][int(i)] for i in worked])

    for split in PLAN_SPLITS:
        rows: dict[str, list[forms.Row]] = {"plan": [], "recognise": []}
        for s in solved[split]:
            extra = gathering.distractors(rng, s.graph, s.given) if split == "confusing" else ()
            record = _record(s, extra)
            rows["plan"].append(dict(ask("plan", experience.plan_example(record))))
            asked = ask("recognise", experience.recognise_example(record))
            others = [a.name for a in ACTIVITIES if a.name != record.activity]
            names = [record.activity, *rng.choice(others, OPTIONS - 1, replace=False).tolist()]
            rows["recognise"].append(_choice(asked, [names[i] for i in rng.permutation(OPTIONS)]))
        forms.write(str(folder / f"eval_plan_{split}.json"), rows["plan"])
        if split != "confusing":  # a plan to recognise names no items
            forms.write(str(folder / f"eval_recognise_{split}.json"), rows["recognise"])
    counted: list[forms.Row] = []
    for e in tests["count"]:
        options = [experience.count_answer(["x"] * k, e.subject) for k in range(MOST + 1)]
        row = ask("count", e)
        row["ref"] = _first(row["ref"])
        counted.append(_choice(row, [_first(o) for o in options]))
    forms.write(str(folder / "eval_count_all.json"), counted)
    forms.write(str(folder / "eval_path_all.json"), [dict(ask("path", e)) for e in tests["path"]])
    write_atomic(folder / "done.json", json.dumps(_setting(config), indent=2) + "\n")


def _kept_plans(
    config: Config, folder: pathlib.Path, split: str, among: Sequence[Activity], taken: set[str]
) -> list[Found]:
    """The plans of a split, which are searched for the first time; no two of all splits have one question."""
    c = config.collect
    count = c.examples if split == "train" else c.test_examples
    path = folder / f"plans_{split}.json"
    kept = read_json(path)
    if isinstance(kept, dict) and kept.get("setting") == _setting(config):
        found = [Found(**row) for row in kept["plans"]]
    else:
        found = _search(config, split, among, count, taken)
        rows = [dataclasses.asdict(f) for f in found]
        write_atomic(path, json.dumps({"setting": _setting(config), "plans": rows}))
    taken |= {_question(f) for f in found}
    log.info("collect: %d plans, %s", len(found), split)
    return found


def _search(
    config: Config, split: str, among: Sequence[Activity], count: int, taken: set[str]
) -> list[Found]:
    """Solved problems, each activity in turn."""
    c = config.collect
    rng = np.random.default_rng([c.seed, 0, *split.encode()])
    out: dict[str, Found] = {}
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
            new = _found(solved)
            if _question(new) not in taken:
                out.setdefault(_question(new), new)
        log.info("collect: %d of %d plans, %s", min(len(out), count), count, split)
        if len(out) >= count:
            return list(out.values())[:count]
    raise RunError(
        f"no more than {len(out)} of {count} plans were found: raise collect.simulations"
    )


def _found(solved: Solved) -> Found:
    p = solved.problem
    goal = {f.name: np.asarray(getattr(p.goal, f.name)).tolist() for f in dataclasses.fields(Goal)}
    nodes = int(p.world.origin.shape[0])
    return Found(p.activity, p.graph, list(solved.given), solved.script.tolist(), goal, nodes)


def _question(found: Found) -> str:
    return str(experience.plan_example(_record(found))[:2])


def _record(found: Found, extra: tuple[str, ...] = ()) -> experience.Record:
    script = np.array(found.script, np.int32).reshape(-1, 3)
    return experience.record(found.activity, found.graph, (*found.given, *extra), script)


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
    while True:
        source = apartments.sample(rng, nodes=config.collect.nodes)
        world = graph.load(source, nodes=config.collect.nodes)
        with contextlib.suppress(ConfigError):  # of an apartment without an empty place
            return experience.count_story(rng, source, world, most=MOST).example


def _path(config: Config, rng: np.random.Generator) -> forms.Example:
    return paths.path_story(rng, events=config.collect.events)[1]


def _choice(row: dict[str, str], options: Sequence[str]) -> forms.Row:
    return {"input": row["input"], "answer": row["ref"], "answer_list": list(options)}


def _first(answer: str) -> str:
    """`There are 2 items on the desk. They are ..` -> its first sentence."""
    return answer.partition(". ")[0].rstrip(".") + "."


def _household(found: Found) -> Household:
    kinds = {"state": jnp.int32, "relation": jnp.int32, "source": jnp.uint32, "target": jnp.uint32}
    goal = Goal(**{k: jnp.asarray(np.array(found.goal[k]), t) for k, t in kinds.items()})
    world = graph.load(found.graph, nodes=found.nodes)
    return Household(found.activity, found.graph, world, goal, " ".join(_record(found).plan))
