import os
import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.data import root
from jaxgen.errors import ConfigError, RunError
from jaxgen.world import (
    actions,
    activities,
    apartments,
    experience,
    forms,
    graph,
    nodesets,
    paths,
    sentences,
)
from jaxgen.world.vocabulary import ON

# file, form, lines
FILES = [
    ("train/train_plan_gen.json", "plan", 1659),
    ("train/train_act_recog.json", "recognise", 1659),
    ("train/train_count.json", "count", 1000),
    ("train/train_obj_move.json", "path", 1000),
    ("eval/gen/plan_gen.json", "plan", 175),
    ("eval/gen/plan_gen_unseen.json", "plan", 54),
    ("eval/gen/plan_gen_confusing.json", "plan", 135),
    ("eval/gen/plan_gen_unseen_confusing.json", "plan", 43),
    ("eval/gen/obj_move_path.json", "path", 200),
    ("eval/qa/act_recog.json", "", 549),
    ("eval/qa/count.json", "", 194),
    ("eval/qa/obj_move.json", "", 200),
    ("eval/qa/act_infer.json", "", 262),
    ("eval/qa/housework_qa.json", "", 261),
    ("eval/qa/neg_housework_qa.json", "", 162),
]


@pytest.mark.parametrize(("name", "form", "lines"), FILES)
def test_files_of_the_authors_parse_and_come_back(name, form, lines):
    if root.VARIABLE not in os.environ:
        pytest.skip(f"{root.VARIABLE} is not set")
    path = pathlib.Path(root.expand(f"${root.VARIABLE}/embodied/{name}"))
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    rows = forms.read(str(path))
    assert len(rows) == lines
    shots = {"plan": 3, "recognise": 3, "count": 4, "path": 3}
    for row in rows if form else ():
        examples = forms.parse(form, row["input"])  # raises unless it renders to the same text
        assert len(examples) == shots[form]
        assert not examples[-1].answer


def test_two_hundred_activities():
    names = [a.name for a in activities.ACTIVITIES]
    assert (len(names), len(set(names)), len(activities.HELD_OUT)) == (200, 200, 30)
    assert set(names) >= activities.HELD_OUT
    known = {*apartments.FURNITURE, *apartments.THINGS, *apartments.ROOMS}
    assert all(set(a.items) <= known for a in activities.ACTIVITIES)


@pytest.mark.parametrize("nodes", [12, 60])
def test_apartments_are_whole(nodes):
    rng = np.random.default_rng(nodes)
    for _ in range(5):
        found = apartments.sample(rng, nodes=nodes, need=["cup"], rooms=2)
        graph.check(found)
        assert len(found["nodes"]) == nodes
        assert "cup" in graph.classes(found)
        rooms = {n["id"] for n in found["nodes"] if n["category"] == "Rooms"}
        inside = {
            e["from_id"]
            for e in found["edges"]
            if e["relation_type"] == "INSIDE" and e["to_id"] in rooms
        }
        assert inside | rooms == {n["id"] for n in found["nodes"]}
    with pytest.raises(ConfigError, match="need is 'unicorn'"):
        apartments.sample(rng, need=["unicorn"])
    with pytest.raises(ConfigError, match="nodes is 3, allowed: at least"):
        apartments.sample(rng, nodes=3)


def test_counts_are_what_a_replay_of_the_script_leaves_there():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(12):
        source = apartments.sample(rng, nodes=40)
        world = graph.load(source, nodes=64)
        story = experience.count_story(rng, source, world)
        ran = actions.run(world, actions.pad(jnp.asarray(story.script), 48))
        assert (int(ran.reason), int(ran.executed)) == (0, len(story.script))
        end = graph.dump(ran.world, source)
        ids = sorted(n["id"] for n in source["nodes"])
        names = {n["id"]: sentences.words(n["class_name"]) for n in source["nodes"]}
        there = sorted(
            e["from_id"]
            for e in end["edges"]
            if (e["relation_type"], e["to_id"]) == ("ON", ids[story.place])
        )
        answer = experience.count_answer([names[i] for i in there], names[ids[story.place]])
        assert story.example.answer == answer
        seen.add(len(there))
        assert story.example.context.count(".") == len(story.script) + 1
        assert not np.asarray(nodesets.unpack(world.edges[ON]))[:, story.place].any()
    assert len(seen) >= 3


def test_paths_are_where_people_carried_the_thing():
    rng = np.random.default_rng(1)
    for _ in range(50):
        events, example = paths.path_story(rng)
        # The text alone says the same, read with no knowledge of the events.
        place, holder, room, rooms = {}, None, None, []
        for line in example.context.rstrip(".").split(". "):
            person, rest = line.split(" ", 1)
            verb, thing = re.fullmatch(r"(.+?) the (.+)", rest).groups()
            if thing in paths.PATH_ROOMS:
                place[person] = thing
            elif thing == example.subject:
                taken = verb in ("got", "took", "grabbed", "picked up")
                holder, room = (person, None) if taken else (None, place[person])
            now = place[holder] if holder else room
            if now and rooms[-1:] != [now]:
                rooms.append(now)
        assert ", ".join(rooms) == example.answer
        assert 2 <= len(rooms) <= 5
        assert len(events) == 18


def test_a_plan_in_words():
    lines = {
        "[PutBack] <cup> (1) <coffee_table> (2)": "Put cup on coffee table.",
        "[PutIn] <cup> (1) <fridge> (2)": "Put cup in fridge.",
        "[Walk] <home_office> (1)": "Walk to home office.",
        "[StandUp]": "Stand up.",
        "[PutOn] <hat> (1)": "Put on hat.",
        "[PutObjBack] <hat> (1)": "Put back hat.",
        "[Pour] <milk> (1) <cup> (2)": "Pour milk into cup.",
        "[SwitchOn] <tv> (1)": "Switch on tv.",
        "[Grab] <book> (1)": "Grab book.",
    }
    for line, wanted in lines.items():
        assert sentences.plan_sentence(line) == wanted
        verb, classes = sentences.read_sentence(wanted)
        assert verb == line[1 : line.index("]")].upper()
        assert list(classes) == re.findall("<(.+?)>", line)
    assert sentences.read_sentence("Brush teeth.") is None


def test_rows_are_written_and_read(tmp_path):
    record = experience.Record(
        "feed cat",
        ("bowl", "kitchen"),
        ("The bowl is in the kitchen.",),
        ("Walk to kitchen.", "Grab bowl."),
    )
    other = record._replace(activity="read book")
    examples = [experience.plan_example(r) for r in (record, other, record)]
    rows = experience.rows("plan", examples, np.random.default_rng(0), shots=2)
    assert rows[0]["input"].endswith("\nA:")
    assert rows[0]["ref"] == "Walk to kitchen. Grab bowl."
    question = "Q: How to feed cat? Given items include bowl, kitchen. The bowl is in the kitchen."
    assert question in rows[0]["input"]
    assert "feed cat" not in rows[1]["input"].split("Q:")[-1]
    # An activity is no worked example of itself.
    assert [e.subject for e in forms.parse("plan", rows[0]["input"])] == ["read book", "feed cat"]
    path = tmp_path / "rows.json"
    forms.write(str(path), rows)
    assert forms.read(str(path)) == rows
    recognise = experience.recognise_example(record)
    prompt = forms.render("recognise", [recognise, recognise._replace(answer="")])
    assert forms.parse("recognise", prompt)[0] == recognise
    path.write_text('{"input": "a"}\n')
    with pytest.raises(RunError, match="line 1: neither input, ref"):
        forms.read(str(path))
    with pytest.raises(ConfigError, match="the form of task count"):
        forms.parse("count", rows[0]["input"])
