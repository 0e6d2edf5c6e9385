"""Records and sentences in files, references that are recovered, and ids."""

import collections
import json
import os
import pathlib

import numpy as np
import pytest

from jaxgen.data import kept, record_arrays, style_records
from jaxgen.data.record_arrays import END, UNKNOWN, RecordVocabulary
from jaxgen.data.style_records import Fact, StyleRecords
from jaxgen.errors import ConfigError

DATA = pathlib.Path(os.environ.get("JAXGEN_DATA", "../shared/data"))
NBA, E2E = DATA / "rotowire_style", DATA / "e2e_style"
needs = lambda folder: pytest.mark.skipif(  # noqa: E731
    not folder.is_dir(), reason=f"no {folder}; JAXGEN_DATA says where data lies"
)

ITEM = {
    "x_type": "PLAYER_NAME PLAYER-PTS",
    "x_value": "Ann 5",
    "x_associated": "Ann Ann",
    "x_ref_type": "PLAYER_NAME",
    "x_ref_value": "Bo",
    "x_ref_associated": "Bo",
    "y_aux": "Ann scored 5 points .",
    "y_ref": "Bo won .",
}
X = (Fact("PLAYER_NAME", "Ann", "Ann"), Fact("PLAYER-PTS", "5", "Ann"))


def write(folder, rows, suffix="test"):
    folder.mkdir(exist_ok=True)
    for field in style_records.FIELDS:
        text = "".join(f"{row[field]}\n" for row in rows)
        (folder / f"{field}.{suffix}.txt").write_text(text)


@pytest.fixture(scope="module")
def nba():
    return style_records.load("parallel", path=str(NBA))


@pytest.mark.slow
@needs(NBA)
def test_references_of_the_nba_data_are_recovered(nba):
    """The method page's counts."""
    train, valid, test = (nba[k] for k in ("train", "valid", "test"))
    assert [len(p) for p in (train, valid, test)] == [31_751, 6_833, 6_999]
    count = collections.Counter(train.x)
    refs = [r for part in nba.values() for r in part.x_ref]
    assert all(r in count for r in refs)
    assert sum(count[r] == 1 for r in refs) == 43_627  # 95.7 % of 45,583
    index = style_records.recover_references(train.x, train.x_ref)
    assert train.y_ref == [train.y_aux[i] for i in index]
    assert not (index == np.arange(len(train))).any()
    for part, same in ((valid, 6_824), (test, 6_986)):
        again = style_records.with_references(part, train)
        assert sum(a == b for a, b in zip(again.y_ref, part.y_ref, strict=True)) == same


@pytest.mark.slow
@needs(NBA)
def test_the_nba_data_has_the_sizes_of_the_method_page(nba):
    train, test = nba["train"], nba["test"]
    assert len(style_records.shorter(train, max_tuples=10, max_words=32)) == 20_490
    with kept.tally() as left:
        assert len(style_records.shorter(train, max_tuples=8, max_words=24)) == 8_760
    assert sum(left.values()) == 31_751 - 8_760
    values = {f.value for x in train.x for f in x}
    words = collections.Counter(w for y in train.y_aux for w in y.split())
    assert (len(values), len(words), sum(w in values for w in words)) == (1_238, 8_114, 1_234)
    assert sum(v.isdigit() for v in values) == 146
    vocabulary = RecordVocabulary.build(train)
    assert vocabulary.generated == 4 + 4_241
    assert len(vocabulary.types) == 1 + 34
    arrays = vocabulary.arrays(test)
    assert arrays["x_value"].shape == arrays["ref_value"].shape
    words = set(vocabulary.words)
    read = vocabulary.sentences(arrays["y_ref"][:500], test.take(range(500)))
    for i, text in enumerate(read):
        own = words | {f.value for f in (*test.x[i], *test.x_ref[i])}
        want = [w if w in own else "<unknown>" for w in test.y_ref[i].split()]
        assert text == " ".join(want)


@pytest.mark.slow
@needs(E2E)
def test_the_restaurants_are_read_too(monkeypatch):
    monkeypatch.setenv("JAXGEN_DATA", str(DATA))
    parts = style_records.load("parallel", path="$JAXGEN_DATA/e2e_style")
    assert [len(p) for p in parts.values()] == [29_487, 6_300, 6_274]
    assert len({f.type for x in parts["train"].x for f in x}) == 8
    assert all(len(p.y_ref) == len(p) for p in parts.values())


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_tables_hold_the_same_items(tmp_path, name):
    rows = [ITEM, {**ITEM, "x_value": "Cy 7", "x_associated": "Cy Cy"}]
    if name == "a.csv":
        text = "\n".join([",".join(ITEM), *(",".join(r.values()) for r in rows)])
    else:
        listed = [{k: v.split() if k[0] == "x" else v for k, v in r.items()} for r in rows]
        text = json.dumps(listed) if name == "a.json" else "\n".join(map(json.dumps, listed))
    (tmp_path / name).write_text(text)
    write(tmp_path / "side", rows)
    part = style_records.read_table(tmp_path / name)
    assert part == style_records.read_parallel(tmp_path / "side", "test")
    assert part.x[0] == X
    files = dict.fromkeys(("train", "valid", "test"), name)
    assert style_records.load("table", path=str(tmp_path), **files)["valid"] == part


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"x_value": "Ann"}, r"test, line 2 is \[2, 1, 2\], allowed: as many types as values"),
        (
            dict.fromkeys(("x_type", "x_value", "x_associated"), ""),
            "line 2 is 'empty', allowed: a record of at least one tuple",
        ),
        ({"y_ref": " "}, "y_ref of .*line 2 is '', allowed: a sentence"),
    ],
)
def test_bad_items_are_named_with_their_line(tmp_path, change, told):
    write(tmp_path / "test", [ITEM, {**ITEM, **change}])
    with pytest.raises(ConfigError, match=told):
        style_records.read_parallel(tmp_path / "test", "test")


def test_files_that_do_not_fit_together(tmp_path):
    write(tmp_path / "test", [ITEM, ITEM])
    short = tmp_path / "test" / "y_aux.test.txt"
    short.write_text("one\n")
    with pytest.raises(ConfigError, match=r"y_aux.test.txt is 'of 1 lines', allowed: 2 lines"):
        style_records.read_parallel(tmp_path / "test", "test")
    short.unlink()
    with pytest.raises(ConfigError, match=r"y_aux.test.txt', allowed: an existing text file"):
        style_records.read_parallel(tmp_path / "test", "test")


def test_a_reference_that_no_train_item_states_is_refused(tmp_path):
    write(tmp_path / "train", [ITEM], "train")
    (tmp_path / "train" / "y_ref.train.txt").unlink()
    with pytest.raises(ConfigError, match=r"y_ref is .missing, and 1 of 1 records"):
        style_records.load("parallel", path=str(tmp_path))
    for options, told in (({"source": "csv"}, "data.source"), ({"source": "table"}, "data.train")):
        with pytest.raises(ConfigError, match=told):
            style_records.load(path=str(tmp_path), **options)


def test_a_record_that_a_person_wrote():
    text = '[{"type": "PLAYER_NAME", "value": "Jo Ann", "owner": "Jo Ann"}, ["PLAYER-PTS", 5, "Jo Ann"]]'
    want = (Fact("PLAYER_NAME", "Jo_Ann", "Jo_Ann"), Fact("PLAYER-PTS", "5", "Jo_Ann"))
    assert style_records.parse_record(text) == want
    with pytest.raises(ConfigError, match="the record is 'empty'"):
        style_records.parse_record("[]")
    for bad in (
        "{",
        "5",
        '[["a", "b"]]',
        '[{"type": "a", "value": "b"}]',
        '[["a", "", "c"]]',
        '[["a", [1], "c"]]',
    ):
        with pytest.raises(ConfigError, match="allowed: a JSON list"):
            style_records.parse_record(bad)


def test_values_that_training_did_not_see_have_slots():
    train = StyleRecords([X] * 2, [X] * 2, [ITEM["y_aux"]] * 2, ["Ann won ."] * 2)
    vocabulary = RecordVocabulary.build(train, slots=2)
    assert vocabulary.words == (*record_arrays.SPECIAL, "scored", "points", ".", "Ann", "5")
    assert vocabulary.generated == 7
    assert vocabulary.types == ("<unknown>", "PLAYER-PTS", "PLAYER_NAME")
    x = (Fact("PLAYER_NAME", "Zoe", "Zoe"), Fact("PLAYER-AST", "5", "Zoe"))
    ref = (Fact("PLAYER_NAME", "Bo", "Bo"),)
    part = StyleRecords([x], [ref], ["Zoe scored 5 ."], ["Bo sang ."])
    arrays = vocabulary.arrays(part, tuples=3, words=5)
    assert arrays["x_type"].tolist() == [[2, 0, 0]]
    assert arrays["x_value"].tolist() == [[9, 8, 0]]
    assert arrays["x_owner"].tolist() == [[9, 9, 0]]
    assert arrays["ref_value"].tolist() == [[10, 0, 0]]
    assert arrays["y_aux"].tolist() == [[9, 4, 8, 6, END]]
    assert arrays["y_ref"].tolist() == [[10, UNKNOWN, 6, END, 0]]
    assert vocabulary.sentences(arrays["y_aux"], part) == ["Zoe scored 5 ."]
    assert vocabulary.sentences(arrays["y_ref"], part) == ["Bo <unknown> ."]
    with pytest.raises(ConfigError, match=r"a record is 'of 2 tuples', allowed: at most 1"):
        vocabulary.arrays(part, tuples=1)
    three = tuple(Fact("PLAYER_NAME", n, n) for n in ("Zoe", "Al", "Cy"))
    with pytest.raises(ConfigError, match="'Zoe Al Cy', allowed: at most 2 values"):
        vocabulary.unknown_values(three)


def test_marks_are_words_that_are_read_and_never_written():
    part = StyleRecords([X, X], [X, X], [ITEM["y_aux"]] * 2, [ITEM["y_ref"]] * 2)
    plain = RecordVocabulary.build(part)
    marked = RecordVocabulary.build(part, marks=("<a>", "<b>", "<a>"))
    assert (plain.said, plain.marks) == (len(plain), 0)
    assert (marked.said, marked.marks) == (len(plain), 2)
    assert marked.words[marked.said :] == ("<a>", "<b>")
    assert marked.generated == plain.generated
